"""Digests: sixteen hexadecimal digits by which texts and tensors are known again."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import torch
from torch import Tensor

N_BYTES = 8


def digest_of(*texts: str) -> str:
    """Of texts in their order."""
    return digest_of_bytes("\n".join(texts).encode())


def digest_of_bytes(content: bytes) -> str:
    """Of bytes."""
    return hashlib.blake2b(content, digest_size=N_BYTES).hexdigest()


def digest_of_tensors(tensors: Mapping[str, Tensor]) -> str:
    """Of named tensors, wherever they are: names, types, shapes and every byte, in the order of the names."""
    digest = hashlib.blake2b(digest_size=N_BYTES)
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\0".encode())
        whole = tensor.detach().cpu().contiguous()
        flat = whole.as_strided((whole.numel(),), (1,))  # also where an axis of size 1 has another stride
        digest.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return digest.hexdigest()
