"""Pre-trained weights of torchvision's video networks (r3d_18, r2plus1d_18) for our ResNet.

Both are our ResNet in other words: r3d_18 is ``backbone=resnet18 block=3d``, r2plus1d_18 the same
with P_1SC_1 of uncapped M and the factorised stem. The names are translated by rule, so that deeper
networks of the same classes, such as a ResNet-34, are read too:

================================= =========================================================
torchvision                       ours
================================= =========================================================
stem.0, stem.1                    stem.conv, stem.norm
stem.0, .1, .3, .4 (factorised)   stem.plane.conv, .plane.norm, .axis.conv, .axis.norm
layerA.B.convK.0, .1              stages.A-1.B.segment.layers.conv_K.conv, .norm
layerA.B.convK.0.0, .0.1          stages.A-1.B.segment.blocks.K-1.streams.0.plane_1.conv, .norm
layerA.B.convK.0.3, .1            stages.A-1.B.segment.blocks.K-1.streams.0.axis.conv, .norm
layerA.B.downsample.0, .1         stages.A-1.B.shortcut.conv, .norm
fc                                classifier
================================= =========================================================

R(2+1)D-34 as its authors published it (IG-65M, Sports-1M) does not fit: in the blocks that change
the channels, the second convolution has an M of its own, where torchvision and we share one.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from psc.errors import CheckpointError
from psc.networks.resnet import ResNet

REMEDY = (
    "torchvision's r3d_18 needs backbone=resnet18 block=3d; its r2plus1d_18 needs "
    "backbone=resnet18 backbone.stem=factorised block=p1sc1 block.maximum_width=null; both need "
    "backbone.base_width=64 backbone.shortcut=projection; weights of a run of ours need the "
    "backbone and block of that run"
)

CLASSIFIER = ("classifier.weight", "classifier.bias")

_WRAPPERS = ("network.", "module.")
"""What our tasks, and torch's data parallelism, put before the names of the network they hold."""

_TENSOR = r"(?P<tensor>weight|bias|running_mean|running_var|num_batches_tracked)"
_STEM_NAME = re.compile(rf"stem\.(?P<index>\d+)\.{_TENSOR}")
_BLOCK_NAME = re.compile(
    r"layer(?P<stage>[1-9]\d*)\.(?P<block>\d+)\.(?P<part>conv(?P<k>[12])|downsample)"
    rf"\.(?P<index>\d+(\.\d+)?)\.{_TENSOR}"
)
_CLASSIFIER_NAME = re.compile(r"fc\.(?P<tensor>weight|bias)")

_STEM = {"0": "conv", "1": "norm"}
_FACTORISED_STEM = {"0": "plane.conv", "1": "plane.norm", "3": "axis.conv", "4": "axis.norm"}
_CONVOLUTION = {"0": "layers.conv_{k}.conv", "1": "layers.conv_{k}.norm"}
_FACTORISED_CONVOLUTION = {
    "0.0": "blocks.{i}.streams.0.plane_1.conv",
    "0.1": "blocks.{i}.streams.0.plane_1.norm",
    "0.3": "blocks.{i}.streams.0.axis.conv",
    "1": "blocks.{i}.streams.0.axis.norm",
}
_SHORTCUT = {"0": "conv", "1": "norm"}


def to_resnet_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under our ResNet's names; a state dict in our naming is returned as it is.

    Args:
        state: state dict of a torchvision ``VideoResNet`` of basic blocks, or of our ``ResNet``.

    Raises:
        CheckpointError: naming the first name that neither has.
    """
    return {_our_name(name, state): tensor for name, tensor in state.items()}


def load_torchvision_weights(
    network: ResNet, state: Mapping[str, Tensor], source: str
) -> list[str]:
    """Copy weights into a network, after every name and shape has been compared.

    Args:
        network: changed only if everything fits.
        state: in torchvision's naming or in ours.
        source: where the weights come from, for messages.

    Returns:
        Names of the parameters that keep their initialisation: the classifier's where ``state``
        has another number of classes, else none.

    Raises:
        CheckpointError: naming the first tensor that is unknown, missing, of another shape, or
            surplus.
    """
    try:
        theirs = {_our_name(name, state): name for name in state}
    except CheckpointError as error:
        raise CheckpointError(f"{source}: {error}") from None
    expected = network.state_dict()
    untouched = _classifier_of_other_classes(expected, state, theirs)
    _check_fit({n: t for n, t in expected.items() if n not in untouched}, state, theirs, source)
    if surplus := [their_name for name, their_name in theirs.items() if name not in expected]:
        raise CheckpointError(
            f"{source} has {surplus[0]} of shape {tuple(state[surplus[0]].shape)}, which the "
            f"network lacks: {REMEDY}"
        )
    weights = {name: state[theirs[name]] for name in expected if name not in untouched}
    network.load_state_dict(weights, strict=False)  # strict but for the classifier: checked above
    return untouched


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read a state dict onto the CPU: a bare one, or the network's of a training checkpoint.

    Args:
        path: a file that ``torch.save`` wrote. Only tensors and plain containers are read.

    Raises:
        CheckpointError: if the file is missing, damaged, or holds no state dict.
    """
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; give a file that torch.save wrote, such as r3d_18's state dict"
        )
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
            f"{path} holds no state dict (but {_kind(content)}); save a network's state_dict()"
        )
    for name, tensor in state.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise CheckpointError(
                f"{path} holds no state dict ({name!r} is {_kind(tensor)}, not a tensor); save a "
                "network's state_dict()"
            )
    for prefix in _WRAPPERS:
        if wrapped := {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}:
            return wrapped
    return dict(state)


def _kind(value: object) -> str:
    empty = isinstance(value, Mapping) and not value
    return "empty" if empty else f"of type {type(value).__name__}"


def _our_name(name: str, state: Mapping[str, Tensor]) -> str:
    """Our name of one tensor; ``state`` says whether its convolution is factorised.

    Raises:
        CheckpointError: if neither torchvision's basic networks nor ours have it.
    """
    if name.startswith(("stages.", "stem.conv.", "stem.norm.", "stem.plane.", "stem.axis.")):
        return name
    if name in CLASSIFIER:
        return name
    if match := _STEM_NAME.fullmatch(name):
        table = _FACTORISED_STEM if "stem.3.weight" in state else _STEM
        if part := table.get(match["index"]):
            return f"stem.{part}.{match['tensor']}"
    if match := _BLOCK_NAME.fullmatch(name):
        home = f"stages.{int(match['stage']) - 1}.{match['block']}"
        if match["part"] == "downsample":
            place, table = f"{home}.shortcut", _SHORTCUT
        else:
            convolution = f"layer{match['stage']}.{match['block']}.{match['part']}"
            factorised = f"{convolution}.0.0.weight" in state
            place = f"{home}.segment"
            table = _FACTORISED_CONVOLUTION if factorised else _CONVOLUTION
        if part := table.get(match["index"]):
            k = int(match["k"] or 0)
            return f"{place}.{part.format(k=k, i=k - 1)}.{match['tensor']}"
    if match := _CLASSIFIER_NAME.fullmatch(name):
        return f"classifier.{match['tensor']}"
    raise CheckpointError(
        f"{name} is a name of neither torchvision's video ResNets of basic blocks nor ours: "
        f"{REMEDY}"
    )


def _classifier_of_other_classes(
    expected: Mapping[str, Tensor], state: Mapping[str, Tensor], theirs: Mapping[str, str]
) -> list[str]:
    """The classifier's names if the weights' one differs from the network's in its classes only."""
    if not all(name in theirs for name in CLASSIFIER):
        return []
    weight, bias = (state[theirs[name]].shape for name in CLASSIFIER)
    classes, features = expected[CLASSIFIER[0]].shape
    sound = len(weight) == 2 and weight[1] == features and tuple(bias) == (weight[0],)
    return list(CLASSIFIER) if sound and weight[0] != classes else []


def _check_fit(
    expected: Mapping[str, Tensor],
    state: Mapping[str, Tensor],
    theirs: Mapping[str, str],
    source: str,
) -> None:
    """Compare names and shapes; ``theirs`` translates the names of ``expected`` to state's.

    Raises:
        CheckpointError: naming the first tensor of the network that is missing or of another shape.
    """
    for name, tensor in expected.items():
        if name not in theirs:
            raise CheckpointError(
                f"{source} has no {name} (the network needs shape {tuple(tensor.shape)}): {REMEDY}"
            )
        found = state[theirs[name]].shape
        if found != tensor.shape:
            alias = "" if theirs[name] == name else f" (the network's {name})"
            raise CheckpointError(
                f"{source}: {theirs[name]}{alias} has shape {tuple(found)}, the network needs "
                f"{tuple(tensor.shape)}: {REMEDY}"
            )
