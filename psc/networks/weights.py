"""Weights of files: those that come with psc, those of our runs, and torchvision's.

``psc.create("unet_p2sc2", weights="fib25")``: psc's own are files of safetensors in
``psc/weights``, each with its card beside it and its checksum in ``SHA256SUMS``. Its metadata hold
all that is needed to use it: the network and its arguments, grey values, voxel size and, for
``scripts/segment.py``, the configuration and threshold of its run. ``scripts/weights.py`` makes
them. Read and written here, not by the package safetensors: the core needs torch and numpy only,
and the format is a length (8 bytes, little-endian), a header of JSON and the tensors' bytes
(https://huggingface.co/docs/safetensors).

Torchvision's video networks are our ResNet in other words: r3d_18 is ``backbone=resnet18
block=3d``, r2plus1d_18 the same with P_1SC_1 of uncapped M and the factorised stem. They hold the
same tensors in the same order, so that the names need no translation; deeper networks of the same
classes, such as a ResNet-34, are read too. R(2+1)D-34 as its authors published it (IG-65M,
Sports-1M) does not fit: in the blocks that change the channels, the second convolution has an M of
its own, where torchvision and we share one.
"""

import hashlib
import json
import logging
import math
import pickle
import sys
import zipfile
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from psc.errors import CheckpointError, ConfigError, first_line
from psc.networks.resnet import ResNet

log = logging.getLogger(__name__)

FOLDER = Path(__file__).resolve().parents[1] / "weights"
SUMS, ENDING = "SHA256SUMS", ".safetensors"

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TYPES |= {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit

TORCHVISION = (
    "torchvision's r3d_18 needs backbone=resnet18 block=3d; its r2plus1d_18 needs "
    "backbone=resnet18 backbone.stem=factorised block=p1sc1 block.maximum_width=null; both need "
    "backbone.base_width=64 backbone.shortcut=projection"
)
OURS = "it belongs to another backbone, block or width: take those of its own run"

_CLASSIFIER = ("classifier.weight", "classifier.bias")

_WRAPPERS = ("network.", "module.", "_orig_mod.")
"""What our tasks, torch's data parallelism and its compilation put before a network's names."""


def list_weights(pattern: str = "*") -> list[str]:
    """Names of the weights that come with psc: what they were trained on, then the network's.

    Args:
        pattern: only those that fit, such as ``*_p2sc2``.
    """
    return sorted(name for name in _sums() if fnmatchcase(name, pattern))


def weights_file(name: str) -> Path:
    """The file of weights that come with psc, its checksum compared.

    Raises:
        ConfigError: for an unknown name; the nearest are told.
        CheckpointError: for a file that is missing, damaged or another one.
    """
    sums = _sums()
    if name not in sums:
        near = get_close_matches(name, sums, n=3, cutoff=0)
        raise ConfigError(
            f"there are no weights {name!r}; the nearest are {', '.join(near) or '(none)'};"
            " psc.list_weights() has all"
        )
    path = FOLDER / f"{name}{ENDING}"
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; install psc again, or git checkout -- the file")
    if hashlib.sha256(path.read_bytes()).hexdigest() != sums[name]:
        raise CheckpointError(
            f"{path} is damaged or exchanged: its checksum is not that of {SUMS}. Install psc"
            " again, or git checkout -- the file"
        )
    return path


def chosen_file(weights: str | Path, network: str) -> Path:
    """The file that ``psc.create(network, weights=…)`` means: psc's own by its name, or a path."""
    names = _sums()
    for name in (str(weights), f"{weights}_{network}"):
        if name in names:
            return weights_file(name)
    path = Path(weights)
    if len(path.parts) == 1 and not path.suffix and not path.exists():
        fitting = list_weights(f"*_{network}") or list_weights()
        raise CheckpointError(
            f"there are no weights at {weights}, and psc has none of that name for {network}; it "
            f"has {', '.join(fitting) or 'none'}"
        )
    return path


def _sums() -> dict[str, str]:
    """Name → SHA-256 of the file."""
    path = FOLDER / SUMS
    lines = path.read_text(encoding="utf-8").splitlines() if path.is_file() else []
    pairs = (line.split() for line in lines)
    return {file.removesuffix(ENDING): digest for digest, file in pairs}


def read_safetensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors by name, on the CPU, and the metadata; what a checksum there says is compared.

    Raises:
        CheckpointError: if the file is missing, damaged, or of another format.
    """
    try:
        content = bytearray(path.read_bytes())
    except OSError as error:
        raise CheckpointError(f"no weights at {path} ({error.strerror})") from error
    try:
        length = int.from_bytes(content[:8], "little")
        if not 0 < length <= min(len(content) - 8, _LONGEST_HEADER):
            raise ValueError(f"a header of {length} bytes in a file of {len(content)}")
        header = json.loads(bytes(content[8 : 8 + length]))
        told = header.pop("__metadata__", {})
        data = content[8 + length :]
        if "sha256" in told and hashlib.sha256(data).hexdigest() != told["sha256"]:
            raise ValueError("its tensors are not those that its checksum was made of")
        tensors, read = {}, 0
        for name, entry in header.items():
            kind, shape = _TYPES[entry["dtype"]], [int(size) for size in entry["shape"]]
            first, last = entry["data_offsets"]
            if last - first != kind.itemsize * math.prod(shape) or not 0 <= first <= last <= len(
                data
            ):
                raise ValueError(f"{name} does not fit its place")
            part = torch.frombuffer(data[first:last] or bytearray(1), dtype=torch.uint8)
            tensors[name] = part[: last - first].view(kind).reshape(shape)
            read += last - first
        if read != len(data):
            raise ValueError(f"{len(data)} bytes of tensors, of which {read} have a name")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path} is damaged or no file of safetensors ({error})") from error
    return tensors, told


def safetensors_of(tensors: Mapping[str, Tensor], told: Mapping[str, str]) -> bytes:
    """The content of such a file: tensors, metadata, and in these a checksum of the former."""
    assert sys.byteorder == "little"
    names = {kind: name for name, kind in _TYPES.items()}
    header: dict[str, Any] = {}
    data = b""
    for name, tensor in tensors.items():
        part = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        place = [len(data), len(data) + len(part)]
        header[name] = {
            "dtype": names[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": place,
        }
        data += part
    header = {"__metadata__": {**told, "sha256": hashlib.sha256(data).hexdigest()}, **header}
    text = json.dumps(header, ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + data


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
    remedy = f"{OURS}; {TORCHVISION}" if video else OURS
    expected = network.state_dict()
    if _CLASSIFIER[0] in state or not video:  # our naming
        theirs = {name: name for name in state}
    else:
        theirs = dict(zip(expected, state, strict=False))
        if surplus := list(state)[len(expected) :]:
            theirs[surplus[0]] = surplus[0]
    other_classes = video and _has_other_classes(expected, state, theirs)
    untouched = list(_CLASSIFIER) if other_classes else []
    check_same_architecture(network, state, source, remedy, theirs, untouched)
    weights = {name: state[theirs[name]] for name in expected if name not in untouched}
    network.load_state_dict(weights, strict=False)  # strict but for the classifier: checked above
    return untouched


def check_same_architecture(
    network: nn.Module,
    state: Mapping[str, Tensor],
    source: object,
    remedy: str = OURS,
    theirs: Mapping[str, str] | None = None,
    untouched: Sequence[str] = (),
) -> None:
    """Refuse weights whose names or shapes are not a network's, naming the first that differs.

    ``theirs``: names of the network and of the state, where they are not the same; ``source`` and
    ``remedy`` are for messages; what stays ``untouched`` may differ.
    """
    expected = network.state_dict()
    theirs = {name: name for name in state} if theirs is None else theirs
    for name, tensor in expected.items():
        if name not in theirs:
            raise CheckpointError(
                f"{source} has no parameter {name}, of shape {tuple(tensor.shape)}: {remedy}"
            )
        other = theirs[name]
        same = _kind_of(name) == _kind_of(other) and state[other].shape == tensor.shape
        if not same and name not in untouched:
            alias = "" if other == name else f" (the network's {name})"
            raise CheckpointError(
                f"{source}: {other}{alias} has shape {tuple(state[other].shape)}, the network "
                f"needs {tuple(tensor.shape)}: {remedy}"
            )
    if surplus := [theirs[name] for name in theirs if name not in expected]:
        raise CheckpointError(
            f"{source} has a parameter that the network lacks, {surplus[0]}: {remedy}"
        )


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
    """Read a state dict onto the CPU: a bare one, or the network's of a training checkpoint."""
    if not path.is_file():
        raise CheckpointError(
            f"no weights at {path}; give a file that torch.save wrote, such as r3d_18's state dict"
        )
    if path.suffix == ENDING:
        return read_safetensors(path)[0]
    content = read_saved(path)
    state = content.get("state_dict", content) if isinstance(content, Mapping) else content
    named = named_tensors(state, path)
    while prefix := next((p for p in _WRAPPERS if any(n.startswith(p) for n in named)), None):
        named = {n.removeprefix(prefix): t for n, t in named.items() if n.startswith(prefix)}
    return named


def read_saved(path: Path) -> Any:
    """What ``torch.save`` wrote, on the CPU: tensors and plain containers, whatever else it is."""
    try:
        if zipfile.is_zipfile(path):  # PyTorch does not look at its checksums
            with zipfile.ZipFile(path) as archive:
                if (name := archive.testzip()) is not None:
                    raise zipfile.BadZipFile(f"{name} has changed since it was written")
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise half a dozen types
        why = first_line(error)
        if isinstance(error, pickle.UnpicklingError):  # torch's words advise to load it unsafely
            why = "it is no file of torch.save's, or holds more than tensors and plain values"
        raise CheckpointError(
            f"{path} is damaged or not a checkpoint ({why}); restore the file, or "
            "save a network's state_dict() with torch.save"
        ) from error


def named_tensors(state: object, path: Path) -> dict[str, Tensor]:
    """A state dict that was read, if it is one."""
    wrong = None
    if not isinstance(state, Mapping) or not state:
        wrong = f"but {_what(state)}"
    else:
        for name, tensor in state.items():
            if not isinstance(name, str) or not isinstance(tensor, Tensor):
                wrong = f"{name!r} is {_what(tensor)}, not a tensor"
                break
    if wrong is not None:
        raise CheckpointError(
            f"{path} holds no state dict ({wrong}); restore the file, or save a network's "
            "state_dict()"
        )
    return dict(state)  # type: ignore[call-overload, no-any-return]


def _what(value: object) -> str:
    empty = isinstance(value, Mapping) and not value
    return "empty" if empty else f"of type {type(value).__name__}"
