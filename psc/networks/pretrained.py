"""Pre-trained weights of torchvision's video networks (r3d_18, r2plus1d_18) for our ResNet.

Both are our ResNet in other words: r3d_18 is ``backbone=resnet18 block=3d``, r2plus1d_18 the same
with P_1SC_1 of uncapped M and the factorised stem. They hold the same tensors in the same order, so
that the names need no translation; deeper networks of the same classes, such as a ResNet-34, are
read too.

R(2+1)D-34 as its authors published it (IG-65M, Sports-1M) does not fit: in the blocks that change
the channels, the second convolution has an M of its own, where torchvision and we share one.
"""

import logging
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from psc.errors import CheckpointError
from psc.networks.resnet import ResNet
from psc.networks.shipped import ENDING, read_safetensors

log = logging.getLogger(__name__)

TORCHVISION = (
    "torchvision's r3d_18 needs backbone=resnet18 block=3d; its r2plus1d_18 needs "
    "backbone=resnet18 backbone.stem=factorised block=p1sc1 block.maximum_width=null; both need "
    "backbone.base_width=64 backbone.shortcut=projection"
)
OURS = "weights of a run of ours need the backbone and block of that run"

_CLASSIFIER = ("classifier.weight", "classifier.bias")

_WRAPPERS = ("network.", "module.")
"""What our tasks, and torch's data parallelism, put before the names of the network they hold."""


def load_weights(network: nn.Module, path: Path) -> None:
    """Give a network the weights of a file, all of which are compared before one is copied."""
    fresh = load_torchvision_weights(network, read_weights(path), str(path))
    log.info("weights of %s%s", path, " but for the classifier" if fresh else "")


def load_torchvision_weights(
    network: nn.Module, state: Mapping[str, Tensor], source: str
) -> list[str]:
    """Copy weights into a network, if everything fits; ``source`` names them in messages.

    ``state`` is in our naming, or, for a ResNet, torchvision's in the order of its modules. Returns
    the parameters that keep their initialisation: a ResNet's classifier's where ``state`` has
    another number of classes, else none.
    """
    video = isinstance(network, ResNet)
    remedy = f"{TORCHVISION}; {OURS}" if video else OURS
    expected = network.state_dict()
    if _CLASSIFIER[0] in state or not video:  # our naming
        theirs = {name: name for name in state}
    else:
        theirs = dict(zip(expected, state, strict=False))
        if surplus := list(state)[len(expected) :]:
            theirs[surplus[0]] = surplus[0]
    other_classes = video and _has_other_classes(expected, state, theirs)
    for name, tensor in expected.items():
        if name not in theirs:
            raise CheckpointError(
                f"{source} has no {name} (the network needs shape {tuple(tensor.shape)}): {remedy}"
            )
        their_name = theirs[name]
        same = _kind_of(name) == _kind_of(their_name) and state[their_name].shape == tensor.shape
        if not same and not (name in _CLASSIFIER and other_classes):
            alias = "" if their_name == name else f" (the network's {name})"
            raise CheckpointError(
                f"{source}: {their_name}{alias} has shape {tuple(state[their_name].shape)}, the "
                f"network needs {tuple(tensor.shape)}: {remedy}"
            )
    if unknown := [theirs[name] for name in theirs if name not in expected]:
        raise CheckpointError(
            f"{source} has {unknown[0]} of shape {tuple(state[unknown[0]].shape)}, which the "
            f"network lacks: {remedy}"
        )
    untouched = list(_CLASSIFIER) if other_classes else []
    weights = {name: state[theirs[name]] for name in expected if name not in untouched}
    network.load_state_dict(weights, strict=False)  # strict but for the classifier: checked above
    return untouched


def _kind_of(name: str) -> str:
    """The last part of a tensor's name: weight, bias, running_mean, …."""
    return name.rpartition(".")[2]


def _has_other_classes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], theirs: Mapping[str, str]
) -> bool:
    """Whether the weights' classifier differs from the network's in its classes only."""
    if not all(name in theirs for name in _CLASSIFIER):
        return False
    weight, bias = (state[theirs[name]].shape for name in _CLASSIFIER)
    classes, features = expected[_CLASSIFIER[0]].shape
    sound = len(weight) == 2 and weight[1] == features and tuple(bias) == (weight[0],)
    return sound and weight[0] != classes


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU: a bare one, or the network's of a training checkpoint.

    Of what ``torch.save`` wrote only tensors and plain containers are read; also safetensors.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; give a file that torch.save wrote, such as r3d_18's state dict"
        )
    if path.suffix == ENDING:
        return read_safetensors(path)[0]
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise half a dozen types
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({reason}); save a network's state_dict() "
            "with torch.save"
        ) from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state:
        raise CheckpointError(
            f"{path} holds no state dict (but {_what(content)}); save a network's state_dict()"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict ({name!r} is {_what(tensor)}, not a tensor); save a "
                "network's state_dict()"
            )
    for prefix in _WRAPPERS:
        if wrapped := {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}:
            return wrapped
    return dict(state)


def _what(value: object) -> str:
    empty = isinstance(value, Mapping) and not value
    return "empty" if empty else f"of type {type(value).__name__}"
