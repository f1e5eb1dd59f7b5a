"""Weights that come with psc: ``psc.create("unet_p2sc2", weights="fib25")``.

Each is a file of safetensors in ``psc/weights``, with its card beside it and its checksum in
``SHA256SUMS``. Its metadata hold all that is needed to use it: the network and its arguments, grey
values, voxel size and, for ``scripts/segment.py``, the configuration and threshold of its run.
``scripts/weights.py`` makes them.

Read and written here, not by the package safetensors: the core needs torch and numpy only, and the
format is a length (8 bytes, little-endian), a header of JSON and the tensors' bytes
(https://huggingface.co/docs/safetensors).
"""

import hashlib
import json
import math
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from psc.errors import CheckpointError, ConfigError

FOLDER = Path(__file__).resolve().parents[1] / "weights"
SUMS, ENDING = "SHA256SUMS", ".safetensors"

_TYPES = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
_TYPES |= {"I64": torch.int64, "I32": torch.int32, "U8": torch.uint8, "BOOL": torch.bool}
_LONGEST_HEADER = 100_000_000  # bytes; the format's own limit


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
