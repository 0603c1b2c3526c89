"""The pretended devices refuse what CUDA refuses, allow what it allows, and compute what the CPU does."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch
from pretend_devices import DEVICES, PretendedDevices
from torch import Tensor

HERE, THERE = DEVICES


@pytest.fixture(autouse=True)
def pretending() -> Iterator[None]:
    with PretendedDevices():
        yield


def on(device: torch.device | str) -> Tensor:
    return torch.arange(9.0).reshape(3, 3).to(device)


@pytest.mark.parametrize("other", [THERE, "cpu"])
@pytest.mark.parametrize(
    "mix",
    [
        lambda x, y: x + y,
        lambda x, y: x @ y,
        lambda x, y: torch.cat((x, y)),
        lambda x, y: torch.stack((x, y)),
        lambda x, y: x.add_(y),
        lambda x, y: torch.where(x > 0, x, y),
        lambda x, y: torch.mm(x, x, out=torch.empty_like(y)),
        lambda x, y: x.index_put_((torch.tensor([0]),), y[0]),
        lambda x, y: torch.nn.functional.layer_norm(x, (3,), y[0]),
        lambda x, y: torch.nn.functional.scaled_dot_product_attention(x[None], y[None], x[None]),
        lambda x, y: x.gather(1, y.long()),
        lambda x, y: y[x.long()[0]],
    ],
)
def test_refuses_tensors_of_two_devices(mix: Callable[[Tensor, Tensor], Tensor], other: torch.device | str) -> None:
    with pytest.raises(RuntimeError, match="device"):
        mix(on(HERE), on(other))


@pytest.mark.parametrize(
    "refused", [lambda x: x.numpy(), lambda x: torch.rand(2, device=HERE, generator=torch.Generator().manual_seed(0))]
)
def test_refuses_what_needs_the_cpu(refused: Callable[[Tensor], object]) -> None:
    with pytest.raises(RuntimeError):
        refused(on(HERE))


def test_allows_copies_numbers_and_indices_on_the_cpu() -> None:
    x = on(HERE)
    x[0] = on(THERE)[2]
    x[torch.tensor([1])] *= torch.tensor(2.0)
    x[[2]] = 0
    assert x.tolist() == [[6, 7, 8], [6, 8, 10], [0, 0, 0]]
    assert x.device == HERE and on(HERE).to(THERE).device == THERE and x.cpu().device.type == "cpu"
    assert x.to(HERE) is x


def test_new_tensors_are_where_they_are_asked_for() -> None:
    x = on(HERE)
    made = [torch.zeros(2, device=HERE), torch.tensor([1, 2], device=HERE), torch.arange(3, device=HERE)]
    made += [x.new_ones(2), x.nonzero(), x.argsort(), torch.empty_like(x), *x.max(0)]
    assert all(each.device == HERE for each in made)


def test_writes_reach_what_is_viewed() -> None:
    x = on(HERE)
    x[1].mul_(2)
    assert torch.mm(x, x, out=(out := torch.empty_like(x))) is out
    assert out.cpu().equal(x.cpu() @ x.cpu()) and x[1].tolist() == [6, 8, 10]


def test_gradients_flow_between_devices() -> None:
    def loss(x: Tensor, weight: Tensor) -> Tensor:
        return ((x @ weight).to(x.device if x.device.type == "cpu" else THERE).softmax(-1)[0] ** 2).sum()

    expected = torch.autograd.functional.vjp(loss, (on("cpu"), on("cpu")))[1]
    x, weight = on(HERE).requires_grad_(), on(HERE).requires_grad_()
    found = torch.autograd.grad(loss(x, weight), (x, weight))
    assert [each.device for each in found] == [HERE, HERE]
    assert all(torch.equal(one.cpu(), other) for one, other in zip(found, expected))
