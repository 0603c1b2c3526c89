"""What a scoring method is: a value that carries its settings, and says what is true of it.

    @dataclass(frozen=True)
    class Halved(Method):
        short_names = {"halved": {}}
        share: float = 0.5

        def scores(self, job, batch):
            return self.share * EAP().scores(job, batch)

A method of the project is one file beside this one. A method of a user is a class like this one, handed to `score` as
a value. Settings are the dataclass' fields: what a method does not have cannot be given.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args, get_origin, get_type_hints

from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs import Graph, PromptPairs
from edge_circuits.graphs.checks import choice
from edge_circuits.graphs.files.digest import digest_of
from edge_circuits.graphs.metrics import Metric

if TYPE_CHECKING:
    from edge_circuits.eap.context import Job
    from edge_circuits.graphs.model.transformer import Transformer


@dataclass(frozen=True)
class Method:
    """A way to score every edge; the fields of a subclass are its settings.

    Class attributes, what is true of a method whatever its settings:
        short_names: names it is asked for by, each with the settings in which it differs from the defaults.
        signed: a score is an estimate of the edge's effect, with its sign; otherwise it is only a size.
        not_additive: why scores over all prompts are not the mean of scores over parts of them; empty: they are.
        needs_gradient: it takes the gradient of the metric.
        only_at_clean: it takes it on the clean prompt alone, where it so must not be zero.
        needs_metric: the metric enters the scores.
        takes_all: it needs all batches at once (`scores_of_all`), instead of one after the other (`scores`).
        knows_spans: it can score span by span.
        slow: it takes many passes, so that it is not asked for without being named on large graphs.

    Raises:
        ValueError: a setting that is none of its choices.
    """

    short_names: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    signed: ClassVar[bool] = True
    not_additive: ClassVar[str] = ""
    needs_gradient: ClassVar[bool] = True
    only_at_clean: ClassVar[bool] = True
    needs_metric: ClassVar[bool] = True
    takes_all: ClassVar[bool] = False
    slow: ClassVar[bool] = False
    knows_spans: ClassVar[bool] = False

    def __post_init__(self) -> None:
        hints = get_type_hints(type(self))
        for field in fields(self):
            if get_origin(hints[field.name]) is Literal:
                choice(f"{type(self).__name__}: {field.name}", getattr(self, field.name), get_args(hints[field.name]))

    @property
    def additive(self) -> bool:
        """Scores are means over prompts, so that groups of prompts add up, and error bars have a meaning."""
        return not self.not_additive

    @property
    def name(self) -> str:
        """The short name that fits its settings best."""
        fitting = [
            (len(given), name)
            for name, given in self.short_names.items()
            if all(getattr(self, key) == value for key, value in given.items())
        ]
        return max(fitting, default=(0, type(self).__name__))[1]

    @property
    def label(self) -> str:
        """Name and settings that differ from those of the name, as `find` reads them: "relp:attention=ah"."""
        usual = type(self)(**self.short_names.get(self.name, {})).settings
        other = [f"{key}={value}" for key, value in self.settings.items() if value != usual[key]]
        return f"{self.name}:{','.join(other)}" if other else self.name

    @property
    def settings(self) -> dict[str, Any]:
        """All settings, as JSON has them; a mask as its number of edges and a digest."""
        return {field.name: _plain(getattr(self, field.name)) for field in fields(self)}

    @property
    def described(self) -> str:
        """The method by its name, its settings, and the text of its class, which a user may have changed."""
        try:
            text = inspect.getsource(type(self))
        except (OSError, TypeError):  # typed into an interpreter
            text = ""
        return f"{type(self).__module__} {self.name} {self.settings} {digest_of(text)}"

    def with_seed(self, seed: int) -> Method:
        """The same method with another seed; itself where it has none."""
        return replace(self, seed=seed) if any(field.name == "seed" for field in fields(self)) else self

    def check_model(self, transformer: Transformer) -> None:
        """Refuse a model that this method, with these settings, cannot be asked of.

        Raises:
            ValueError: with what to do.
        """

    def check_metric(self, metric: Metric) -> None:
        """Refuse a metric that this method cannot be asked with.

        Raises:
            ValueError: with what to do.
        """
        if self.needs_gradient and self.only_at_clean and getattr(metric, "zero_gradient_at_clean", False):
            raise ValueError(
                "this metric's gradient on the clean prompt is zero (a divergence from the model itself is at its minimum "
                "there), so every score would be zero; score with a task metric, with method='exact' or, for nodes, with direction='denoising'."
            )

    def scores(self, job: Job, batch: PromptPairs) -> Float[Tensor, "source destination *span"]:
        """Scores of every edge, summed over the prompts of a batch."""
        raise NotImplementedError(f"{type(self).__name__} has to define `scores`, or `scores_of_all` with `takes_all`")

    @property
    def members(self) -> tuple[Method, ...]:
        """The methods whose scores over all prompts it joins (`joined`); by itself, it is its only one."""
        return (self,)

    def joined(self, each: Float[Tensor, "*group source destination *more"], graph: Graph) -> Tensor:
        """The scores of all prompts from those of its members, along the last axis if there are several; of groups of prompts, what
        each adds to them."""
        return each

    def scores_of_all(self, job: Job, batches: Sequence[PromptPairs]) -> Float[Tensor, "source destination"]:
        """Scores of every edge over all prompts, for a method with `takes_all`."""
        raise NotImplementedError(f"{type(self).__name__} has `takes_all`, so it has to define `scores_of_all`")


def _plain(value: Any) -> Any:
    if isinstance(value, Tensor):
        return f"{int(value.count_nonzero())} of {value.numel()}, {digest_of(repr(value.tolist()))}"
    return value
