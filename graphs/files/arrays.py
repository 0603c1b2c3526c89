"""Arrays in one npz file: bounded by what its reader expects, with a digest that is compared; and checks of zip files.

Zip's own checksum of each array is tested by reading it whole; the digest is of all arrays with their names, types and shapes.
"""

from __future__ import annotations

import io
import math
import zipfile
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.files.digest import digest_of_tensors

_HEADER_BYTES = 4096  # of an array's name, type and shape, and more than they take


def to_npz(arrays: Mapping[str, Tensor]) -> bytes:
    """The bytes of a compressed npz file of tensors, with their digest."""
    content = io.BytesIO()
    held = {name: tensor.numpy() for name, tensor in arrays.items()}
    np.savez_compressed(content, **held, digest=np.array(digest_of_tensors(arrays)))
    return content.getvalue()


def from_npz(content: bytes, expected: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors that `to_npz` wrote.

    Args:
        content: The bytes of the file.
        expected: A tensor for each array, of its dtype and shape; nothing larger is read.

    Raises:
        ValueError: The file is torn, was changed, or holds other arrays.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        names = {*expected, "digest"}
        if (found := {name.removesuffix(".npy") for name in file.namelist()}) != names:
            raise refusal("file", f"the arrays {', '.join(sorted(names))}", ", ".join(sorted(found)) or "none")
        arrays = {name: torch.from_numpy(_array(file, name, tensor)) for name, tensor in expected.items()}
        digest = _array(file, "digest", None)
    if str(digest) != digest_of_tensors(arrays):
        raise refusal("digest", f"{digest_of_tensors(arrays)} by what the file holds", str(digest), "it was changed")
    return arrays


def check_stored(content: bytes) -> None:
    """Compare the checksums of a zip file's entries, as torch does not; none may hold more than the file has bytes.

    Raises:
        ValueError: An entry differs, is compressed, or is larger than the file.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as file:
        for entry in file.infolist():
            if entry.compress_type != zipfile.ZIP_STORED or entry.file_size > len(content):
                raise ValueError(f"the entry {entry.filename} is compressed")
        if (bad := file.testzip()) is not None:
            raise ValueError(f"the checksum of the entry {bad} differs")


def _array(file: zipfile.ZipFile, name: str, expected: Tensor | None) -> np.ndarray:
    """One array, read after its size is known; without `expected` a short text."""
    size = 0 if expected is None else expected.nbytes
    if (given := file.getinfo(f"{name}.npy").file_size) > size + _HEADER_BYTES:
        raise refusal(name, f"at most {size + _HEADER_BYTES} bytes", given)
    stream = io.BytesIO(file.read(f"{name}.npy"))
    version = np.lib.format.read_magic(stream)
    if version != (1, 0):
        raise refusal(name, "an array of npy's version 1.0", version)
    shape, by_columns, dtype = np.lib.format.read_array_header_1_0(stream)
    wanted = None if expected is None else (tuple(expected.shape), expected.numpy().dtype)
    if (
        wanted not in (None, (shape, dtype))
        or dtype.hasobject
        or (expected is None and (shape, dtype.kind) != ((), "U"))
    ):
        raise refusal(name, wanted or "a text", f"{dtype} of shape {shape}")
    content = stream.read()
    if len(content) != math.prod(shape) * dtype.itemsize:
        raise refusal(name, f"{math.prod(shape) * dtype.itemsize} bytes", len(content))
    return np.frombuffer(bytearray(content), dtype).reshape(shape, order="F" if by_columns else "C")
