"""Devices that are not there: tensors that say they are on one, compute on the CPU, and refuse what CUDA would refuse.

    with PretendedDevices():
        model.to(DEVICES[0]); model.blocks[1].to(DEVICES[1])
        ...

An operation on tensors of two devices raises `MixedDevices`, but for what CUDA allows: copies, numbers (tensors without
axes) that are on the CPU, and indices that are on the CPU. The devices are of type "lazy", the one that autograd runs in
the calling thread and that no build of torch computes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

DEVICES = (torch.device("lazy:0"), torch.device("lazy:1"))
CPU = torch.device("cpu")
COPIES = ("aten::_to_copy", "aten::copy_", "aten::lift_fresh")
INDEXING = ("aten::index", "aten::index_put", "aten::index_put_", "aten::_index_put_impl_", "aten::_unsafe_index")


class MixedDevices(RuntimeError):
    """One operation was given tensors of two devices."""


class Pretended(Tensor):
    """A tensor that says it is on a device; `held`, on the CPU, has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor, device: torch.device) -> Pretended:
        made = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=device,
        )
        made.held = held
        return made

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})

    def tolist(self) -> list[Any]:
        return self.held.tolist()

    def __repr__(self) -> str:
        return f"{self.held!r} on {self.device}"


class PretendedDevices(TorchDispatchMode):
    """While it is on, tensors can be made on the pretended devices and moved there."""

    def __enter__(self) -> PretendedDevices:
        self._before = torch._C._only_lift_cpu_tensors()
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device=...) begins on the CPU
        return super().__enter__()

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        torch._C._set_only_lift_cpu_tensors(self._before)

    def __torch_dispatch__(self, function: Any, types: Any, args: Sequence[Any] = (), kwargs: Any = None) -> Any:
        return compute(function, args, kwargs or {})


def compute(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """An operation on the CPU, its results on the device where they would be."""
    name, written = described(function)
    held_kwargs = {key: held(value) for key, value in kwargs.items()}
    if "device" in kwargs:
        held_kwargs["device"] = CPU
    device = kwargs.get("device") or device_of(name, args, kwargs)
    if device.type != "cpu" and kwargs.get("generator") is not None:
        raise MixedDevices(f"{name} on {device} with a generator on the CPU")
    result = function(*map(held, args), **held_kwargs)
    if written:
        given = [args[place] if place < len(args) else kwargs[key] for place, key in written]
        return given[0] if len(given) == 1 else tuple(given)
    return result if device.type == "cpu" else on(device, result)


@cache
def described(function: Any) -> tuple[str, list[tuple[int, str]]]:
    """An operation's name, and place and name of each argument that it writes into and returns."""
    arguments = enumerate(function._schema.arguments)
    return function._schema.name, [
        (i, a.name) for i, a in arguments if a.alias_info is not None and a.alias_info.is_write
    ]


def held(value: Any) -> Any:
    """What is computed with: on the CPU."""
    if isinstance(value, Pretended):
        return value.held
    return [held(each) for each in value] if isinstance(value, (list, tuple)) else value


def on(device: torch.device, value: Any) -> Any:
    """An operation's result on a device."""
    if isinstance(value, Tensor):
        return Pretended(value, device)
    return type(value)(on(device, each) for each in value) if isinstance(value, (list, tuple)) else value


def tensors_in(*values: Any) -> Iterator[Tensor]:
    """All tensors among arguments."""
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from tensors_in(*value)


def device_of(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> torch.device:
    """Where an operation takes place.

    Raises:
        MixedDevices: at two places.
    """
    if name in COPIES:
        return args[0].device
    counted = list(tensors_in(*args, *kwargs.values()))
    if name in INDEXING and args[0].device.type != "cpu":
        indices = [id(index) for index in tensors_in(args[1]) if index.device.type == "cpu"]
        counted = [x for x in counted if id(x) not in indices]
    devices = {x.device for x in counted if x.dim() or x.device.type != "cpu"}
    if len(devices) > 1:
        raise MixedDevices(f"{name} on tensors of the devices {', '.join(sorted(map(str, devices)))}")
    return devices.pop() if devices else CPU
