"""A prompt set spread over processes with `torch.distributed`: which of them runs which batch, and how results come together.

Every process has the whole model and all prompts, and process r of n runs the batches r, r + n, r + 2n, ... Results are put
in the order of the batches before they are added up, so every process ends with what one process alone gets, bit for bit
where that one takes the same batches on as many threads; means that cut edges read are added in float64 in any order.

    torch.distributed.init_process_group()                                        # in a script that torchrun starts
    graph = eap.score(model, pairs, metric, process_group=torch.distributed.group.WORLD)

Before anything is shared the processes agree on every argument (`agreeing`). After that, an error ends the process that
meets it; the others report that it is lost, and at what, and `torchrun` ends them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.prompts.pairs import PromptPairs

Item = TypeVar("Item")

PATIENCE, MANY_TIMES = 300.0, 30.0  # seconds, and in units of the longest item so far
_REFUSED = "refused"


class Processes:
    """The processes of a group, or this one alone.

    Attributes:
        rank: Which of them this one is, from 0.
        size: How many they are.
    """

    def __init__(self, group: dist.ProcessGroup | None = None) -> None:
        """
        Args:
            group: None for this process alone. Tensors are sent from the CPU if its backend can; see `send_from`.

        Raises:
            ValueError: This process is not of the group.
        """
        self._group = group
        self.rank, self.size, self._device = 0, 1, torch.device("cpu")
        self._longest = 0.0  # seconds for an item
        if group is not None:
            self.rank, self.size = dist.get_rank(group), dist.get_world_size(group)
            if self.rank < 0:
                remedy = "call from the group's processes alone"
                raise refusal("process_group", "a group that this process is in", "another", remedy)

    def send_from(self, device: torch.device | str) -> None:
        """Send tensors from a device if the group's backend does not send them from the CPU (nccl)."""
        if self._group is not None and "cpu:" not in dist.get_backend_config(self._group):
            self._device = torch.device(device)

    @property
    def is_first(self) -> bool:
        """Whether this is the process that writes files and shows progress."""
        return self.rank == 0

    def batches(self, pairs: PromptPairs, batch_size: int | None, max_tokens: int) -> list[PromptPairs]:
        """The batches of all processes, at least one for each, from the prompts that all were given.

        Args:
            batch_size: Prompts in a batch; None: as many as fit in `max_tokens`, and no more than gives all processes some.

        Raises:
            ValueError: There are more processes than batches.
        """
        if batch_size is None:
            even = -(-len(pairs) // self.size)
            batches = pairs.batches(even, max_tokens)
            if len(batches) < self.size:
                batches = pairs.batches(max(1, len(pairs) // self.size), max_tokens)
        else:
            batches = pairs.batches(batch_size)
        if len(batches) < self.size:
            came = f"{len(batches)} batches of {len(pairs)} prompts for {self.size} processes"
            remedy = f"start at most {len(pairs)}" if len(pairs) < self.size else "give a smaller batch_size"
            raise refusal("process_group", "a batch for each process", came, remedy)
        return batches

    def mine(self, items: Sequence[Item]) -> list[Item]:
        """What this process runs of the items of all."""
        return list(items[self.rank :: self.size])

    def in_turn(self, items: Sequence[Item], compute: Callable[[Item], Tensor], like: Tensor) -> Iterator[Tensor]:
        """What `compute` gives for each item, in order; each item is computed by one process and sent to all.

        Args:
            items: The same for all processes.
            compute: An item to a tensor like `like`.
        """
        for start in range(0, len(items), self.size):
            some = items[start : start + self.size]
            begun = time.monotonic()
            value = compute(some[self.rank]) if self.rank < len(some) else torch.zeros_like(like)
            self._longest = max(self._longest, time.monotonic() - begun)
            batches = f"batches {start + 1} to {start + len(some)} of {len(items)}, one for each process from 0,"
            yield from self._sent(value, batches)[: len(some)]

    def in_order(self, mine: Shaped[Tensor, "mine ..."], n_items: int) -> Shaped[Tensor, "item ..."]:
        """A row for each item of all processes, from the rows of this process' own."""
        if self.size == 1:
            return mine
        n_rows = -(-n_items // self.size)
        padded = torch.cat((mine, mine.new_zeros(n_rows - len(mine), *mine.shape[1:])))
        return torch.stack(self._sent(padded, "values of prompts"), dim=1).flatten(0, 1)[:n_items]

    def total(self, mine: Tensor) -> Tensor:
        """The sum over processes; theirs are added in any order, so give float64."""
        if self.size == 1:
            return mine
        summed = mine.to(self._device, copy=True)
        with self._reporting("sums"):
            self._wait(dist.all_reduce(summed, group=self._group, async_op=True))
        return summed.to(mine.device)

    def from_first(self, value: Any) -> Any:
        """What the first process gives; what others give does not count."""
        if self.size == 1:
            return value
        held = [value]
        with self._reporting("what the first process read"):
            source = dist.get_global_rank(self._group, 0)
            dist.broadcast_object_list(held, src=source, group=self._group, device=self._device)
        return held[0]

    def read_by_first(self, read: Callable[[], Item]) -> Item:
        """What the first process reads; if it cannot, its error in every process.

        Raises:
            ValueError: In the others, what the first process was refused.
        """
        value, error = None, None
        if self.is_first:
            try:
                value = read()
            except Exception as raised:
                error = raised
        value, told = self.from_first((value, None if error is None else f"{type(error).__name__}: {error}"))
        if error is not None:
            raise error
        if told is not None:
            raise ValueError(f"process_group: process 0 was refused: {told}")
        return value

    @contextmanager
    def agreeing(self) -> Iterator[dict[str, str]]:
        """Come to an agreement on a question before anything is shared.

            with processes.agreeing() as asked:
                ...                            # prepare; errors reach the other processes too
                asked |= question(...)

        Raises:
            ValueError: In every process: another one asks something else (with its rank, the argument, and what came), or
                was refused in its preparation (with its error).
        """
        asked: dict[str, str] = {}
        try:
            yield asked
        except Exception as error:
            self._all_given({_REFUSED: f"{type(error).__name__}: {error}"})
            raise
        self.check_same(asked)

    def check_same(self, given: Mapping[str, Any]) -> None:
        """Refuse processes that were not given the same.

        Args:
            given: Names and what this process was given under them, small.

        Raises:
            ValueError: In every process, with the name and what came.
        """
        all_given = self._all_given(given)
        for rank, other in enumerate(all_given):
            if _REFUSED in other:
                raise ValueError(f"process_group: process {rank} was refused: {other[_REFUSED]}")
        for name in {name: None for each in all_given for name in each}:
            for rank, other in enumerate(all_given):
                if other.get(name) != all_given[0].get(name):
                    raise ValueError(
                        f"process_group: expected the same {name} in every process, got {all_given[0].get(name)} in process 0 "
                        f"and {other.get(name)} in process {rank}; load the same model and prompts, in the same order, and "
                        "give the same arguments in all of them."
                    )

    def _all_given(self, given: Mapping[str, Any]) -> list[dict[str, Any]]:
        """What every process gives, by rank."""
        if self.size == 1:
            return [dict(given)]
        all_given: list[Any] = [None] * self.size
        with self._reporting("arguments"):
            dist.all_gather_object(all_given, dict(given), group=self._group)
        return all_given

    @contextmanager
    def _reporting(self, what: str) -> Iterator[None]:
        """Say what was shared, and by whom, when another process is lost."""
        try:
            yield
        except RuntimeError as error:
            others = ", ".join(str(rank) for rank in range(self.size) if rank != self.rank)
            raise RuntimeError(
                f"process_group: process {self.rank} got no answer from process {others} while sharing {what}; "
                f"it has ended or does not respond, see its own error. ({str(error).splitlines()[0][:200]})"
            ) from error

    def _wait(self, work: dist.Work) -> None:
        """Wait for the others as long as they may take: many times what this process took for any of its items."""
        work.wait(timedelta(seconds=max(PATIENCE, MANY_TIMES * self._longest)))

    def _sent(self, value: Tensor, what: str) -> list[Tensor]:
        """A value of this process and those of the others, by rank."""
        if self.size == 1:
            return [value]
        own = value.to(self._device).contiguous()
        got = [torch.empty_like(own) for _ in range(self.size)]
        with self._reporting(what):
            self._wait(dist.all_gather(got, own, group=self._group, async_op=True))
        return [each.to(value.device) for each in got]


ALONE = Processes()
"""This process alone."""
