"""NIfTI files assembled byte by byte from nibabel's headers, for tests."""

import gzip
import itertools

import nibabel
import numpy as np
from nibabel.orientations import axcodes2ornt, inv_ornt_aff, ornt_transform

SHAPE = (3, 4, 5)
ZOOMS = (0.9375, 1.5, 1.25)
AXCODES = [
    "".join(pair[side] for pair, side in zip(order, sides, strict=True))
    for order in itertools.permutations(("LR", "PA", "IS"))
    for sides in itertools.product((0, 1), repeat=3)
]
# esize 32, ecode 6 (comment), 24 characters
EXTENSION = b"\x01\0\0\0" + (32).to_bytes(4, "little") + (6).to_bytes(4, "little") + b"keep me!" * 3


def affine_towards(axcodes, ras_shape=SHAPE, rotation=None):
    """Affine of an array of that shape in RAS order, stored as the codes say, then rotated."""
    ras = np.diag([*ZOOMS, 1.0])
    ras[:3, 3] = (-40.5, 12.25, 7.0)
    there = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(axcodes))
    affine = ras @ inv_ornt_aff(there, ras_shape)
    if rotation is not None:
        affine[:3, :3] = rotation.as_matrix() @ affine[:3, :3]
    return affine


def stored_bytes(
    raw,
    affine=None,
    *,
    version=1,
    endianness="<",
    slope=np.nan,
    intercept=np.nan,
    form="sform",
    extension=b"",
    **fields,
):
    """A NIfTI file that holds the numbers ``raw``."""
    header = {1: nibabel.Nifti1Header, 2: nibabel.Nifti2Header}[version](endianness=endianness)
    header.set_data_dtype(raw.dtype)
    header.set_data_shape(raw.shape)
    affine = affine_towards("RAS") if affine is None else affine
    if form in ("sform", "both"):
        header.set_sform(affine, code=1)
    if form in ("qform", "both"):
        header.set_qform(affine, code=2)
    header["xyzt_units"] = 2
    header["descrip"] = b"made by a test"
    header["scl_slope"], header["scl_inter"] = slope, intercept
    header["vox_offset"] = header.single_vox_offset + (len(extension) - 4 if extension else 0)
    for name, value in fields.items():
        header[name] = value
    voxels = raw.astype(raw.dtype.newbyteorder(endianness)).tobytes(order="F")
    return header.binaryblock + (extension or b"\0" * 4) + voxels


def put(path, content):
    path.write_bytes(gzip.compress(content, mtime=0) if path.name.endswith(".gz") else content)
    return path


def unpacked(path):
    content = path.read_bytes()
    return gzip.decompress(content) if path.name.endswith(".gz") else content


def numbered(shape=SHAPE, dtype="i2"):
    """A different number in every voxel."""
    return np.arange(1, np.prod(shape) + 1).reshape(shape).astype(dtype)
