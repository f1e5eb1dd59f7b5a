"""Networks by name: ``psc.create("unet_p2sc2", in_channels=1, out_channels=3)``.

A name is a backbone's and a block's. Backbones are the paper's: ``unet`` (Section 4.3),
``resnet34`` (4.1) with its shallower form ``resnet18``, ``densenet`` (4.2) with the state of the
art that it starts from, ``densenet_bui``. Blocks are ``3d``, plain convolutions, and
``p<m>sc<n>``, P_mSC_n with M as Eq. 5 says, at most 512; ``p2sc3_calibrated`` is ours, the paper's
33 M parameters for a ResNet-34.

All return logits: ``unet`` (N, out_channels, D', H', W') with valid padding, smaller than the
input; ``densenet`` (N, classes, D, H, W); ``resnet`` (N, classes). Nothing else of the project is
needed, torch only; ``configs/`` describes the same networks to ``train.py``, and a test compares
the two.
"""

import inspect
import json
import re
from collections.abc import Callable
from difflib import get_close_matches
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

from psc.block.unit import UnitFactory, make_unit
from psc.errors import CheckpointError, ConfigError
from psc.networks.densenet import DenseNet, layers_per_segment
from psc.networks.resnet import ResNet
from psc.networks.unet import UNet
from psc.networks.weights import ENDING, chosen_file, load_weights, read_safetensors

Network = UNet | ResNet | DenseNet

_BUI = {"bottleneck": 4, "compression": 0.5, "upsampling": "transposed"}
_BACKBONES: dict[str, tuple[type[Network], dict[str, Any]]] = {
    "unet": (UNet, {}),
    "resnet18": (ResNet, {"layers": 18}),
    "resnet34": (ResNet, {}),
    "densenet": (DenseNet, {}),
    "densenet_bui": (DenseNet, _BUI),
}
"""Name → network, and what differs from its own defaults."""

_LISTED = ("3d", "p1sc1", "p2sc1", "p2sc2", "p2sc3", "p3sc2", "p2sc3_calibrated")
_CALIBRATED = {"maximum_width": 256, "width_divisor": 3}
_OF_BLOCKS = ("merge", "maximum_width", "width_divisor")


def list_networks(pattern: str = "*") -> list[str]:
    """Names that ``create`` takes: every backbone with every block that the paper compares.

    Args:
        pattern: only those that fit, such as ``resnet*`` or ``*_p2sc2``.

    Any other ``p<m>sc<n>`` (m from 1 to 3, n from 1 on) can be created too.
    """
    names = [f"{backbone}_{block}" for backbone in _BACKBONES for block in _LISTED]
    return [name for name in names if fnmatchcase(name, pattern)]


def create(name: str, *, weights: str | Path | None = None, **arguments: Any) -> Network:
    """A network by its name, see ``list_networks``, with random weights or those of a file.

    Args:
        name: ``<backbone>_<block>``, such as "unet_p2sc2".
        weights: what psc's own were trained on ("fib25": ``psc.list_weights``), whose arguments
            are then the defaults; or a file that ``torch.save`` wrote: a checkpoint of a run, a
            state_dict of the same network, or, for ``resnet``, torchvision's video weights (of
            r3d_18 for "resnet18_3d"). A classifier of other classes stays random.
        arguments: the network's own, in place of its defaults (``psc.networks.UNet``, ``ResNet``,
            ``DenseNet``): in_channels; out_channels of a U-Net, classes of the others; widths. And
            ``psc.make_unit``'s of P_mSC_n: merge, maximum_width, width_divisor.

    Returns:
        The network, in training mode, on the default device.

    Raises:
        ConfigError: for an unknown name (the nearest are told) or argument, or an impossible value.
        CheckpointError: for weights that are not there, damaged, or another network's.
    """
    file = None if weights is None else chosen_file(weights, name)
    if file is not None and file.suffix == ENDING:
        arguments = {**_trained_arguments(file, name), **arguments}
    options = {key: arguments.pop(key) for key in _OF_BLOCKS if key in arguments}
    for backbone in sorted(_BACKBONES, key=len, reverse=True):  # densenet_bui before densenet
        block = _block(name.removeprefix(f"{backbone}_"), options)
        if name.startswith(f"{backbone}_") and block is not None:
            (network, own), (unit, n) = _BACKBONES[backbone], block
            _check(network, arguments)
            if network is DenseNet:
                own = {"layers_per_segment": layers_per_segment(n), **own}
            built = network(unit, **{**own, **arguments})
            if file is not None:
                load_weights(built, file)
            return built
    near = get_close_matches(name, list_networks(), n=3, cutoff=0)
    raise ConfigError(
        f"there is no network {name!r}; the nearest are {', '.join(near)}; psc.list_networks() "
        "has all"
    )


def _trained_arguments(file: Path, name: str) -> dict[str, Any]:
    """The arguments of a network that a file of psc's own is of; nothing where it does not say."""
    _, told = read_safetensors(file)
    if told.get("network", name) != name:
        raise CheckpointError(
            f"{file} has weights of {told['network']}, not of {name}: "
            f"psc.create({told['network']!r}, weights=…), or train {name}"
        )
    return dict(json.loads(told.get("arguments", "{}")))


def _block(name: str, options: dict[str, Any]) -> tuple[UnitFactory, int] | None:
    """The factory of a block's units by its name, and its n; None where there is no such block."""
    if name == "3d":
        if options:
            raise ConfigError(f"{', '.join(options)}: plain 3D convolutions have no such argument")
        return make_unit("conv3d"), 1
    found = re.fullmatch(r"p([123])sc([1-9]\d*)(_calibrated)?", name)
    if found is None or (found[3] and name not in _LISTED):
        return None
    for key in _OF_BLOCKS[1:]:
        if type(options.get(key)) not in (int, type(None)):
            raise ConfigError(f"{key}={options[key]!r}: must be a whole number or None")
    m, n = int(found[1]), int(found[2])
    return make_unit("psc", m=m, n=n, **{**(_CALIBRATED if found[3] else {}), **options}), n


def _check(network: type[Network], arguments: dict[str, Any]) -> None:
    """Refuse what is no argument of a network's, or of another type than its default."""
    known = dict(inspect.signature(network).parameters)
    del known["unit"]
    for key, value in arguments.items():
        if key not in known:
            raise ConfigError(
                f"{network.__name__} has no argument {key!r}; it has {', '.join(known)}"
            )
        kind = type(known[key].default)
        if type(value) is not kind and not (kind is float and type(value) is int):
            raise ConfigError(f"{key}={value!r}: must be of type {kind.__name__}")


def hub_entries() -> dict[str, Callable[..., Network]]:
    """Every network by its name, as ``torch.hub`` wants them."""

    def entry(name: str) -> Callable[..., Network]:
        function = partial(create, name)
        function.__doc__ = f"``psc.create({name!r}, **arguments)``.\n\n{create.__doc__}"
        return function

    return {name: entry(name) for name in list_networks()}
