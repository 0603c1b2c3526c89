"""What a page knows of a circuit: its edges by rank, their intervals and exact effects, and what was measured.

Edges are ranked as `prune` ranks them by |score|, ties in edge order, so the first k of them, without dead ends, are
`prune(scores, k)`; the page removes the dead ends itself. Of a large graph the best `most` edges are given, and those of
the circuit that was found.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from edge_circuits.eap.intervals import ErrorBars
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.verification import Verification
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.measures.curves import Curve
from edge_circuits.graphs.measures.quality import Measures
from edge_circuits.graphs.prompts.pairs import NO_ANSWER, PromptPairs
from edge_circuits.graphs.scores import ScoredGraph

MOST_EDGES = 5000
DIGITS = 6


@dataclass(frozen=True, eq=False)
class Side:
    """One of the circuits that a page shows.

    Attributes:
        found: Scores, whose best edges the page's slider chooses among; or a circuit, whose own edges it chooses among.
        name: What it is called; by default its method.
        circuit: With scores, the circuit that was made from them, which the page can show alone.
        bars: With scores, their error bars.
        exact: What cutting an edge does to the metric, by name, for edges where it was measured.
    """

    found: ScoredGraph | Circuit
    name: str | None = None
    circuit: Circuit | None = None
    bars: ErrorBars | None = None
    exact: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not isinstance(self.found, ScoredGraph | Circuit):
            raise refusal("found", "a ScoredGraph or a Circuit", type(self.found).__name__, "score or load one")
        scored = None if self.bars is None else self.bars.graph
        for name, other in (("circuit", self.circuit), ("bars", scored)):
            if other is not None and (isinstance(self.found, Circuit) or other.graph != self.found.graph):
                raise ValueError(f"{name}: expected one of the graph of the scores, beside scores; leave it out")

    @property
    def title(self) -> str:
        """The name, or else the method."""
        return self.name or str(self.found.metadata.get("method", "circuit"))

    @property
    def own(self) -> Circuit | None:
        """The circuit that was found, if there is one."""
        return self.found if isinstance(self.found, Circuit) else self.circuit


@dataclass(frozen=True, eq=False)
class Prompts:
    """Prompts to show, with what model and circuit do on each.

    Attributes:
        measures: Of the circuit on these prompts.
        pairs: The prompts.
        tokenizer: Anything with `decode`, or None: token ids are shown.
        note: Which prompts they are, in words.
    """

    measures: Measures
    pairs: PromptPairs
    tokenizer: Any = None
    note: str = ""


def side_payload(side: Side, most: int) -> dict[str, Any]:
    """The edges of a side, the best first, as columns; a column without values is left out."""
    graph, scores = side.found.graph, side.found.scores
    places = _ranked(side, most)
    source, destination = places.T
    columns: dict[str, Any] = {"source": source.tolist(), "destination": destination.tolist()}
    if scores is not None:
        columns["score"] = rounded(scores[source, destination])
    if side.bars is not None:
        for name, matrix in (("low", side.bars.low), ("high", side.bars.high), ("stability", side.bars.sign_stability)):
            columns[name] = rounded(matrix[source, destination])
    if side.exact:
        known = {graph.edge_index(edge): value for edge, value in side.exact.items()}
        columns["exact"] = _numbers([known.get((s, d)) for s, d in places.tolist()])
    if side.circuit is not None:
        columns["kept"] = side.circuit.mask[source, destination].int().tolist()
    return {"name": side.title, "signed": _is_signed(side), **columns}


def _is_signed(side: Side) -> bool:
    """Whether scores tell if an edge helps or hurts; those of a method that is not known here are taken to."""
    try:
        return find(str(side.found.metadata.get("method"))).signed
    except ValueError:
        return True


def _ranked(side: Side, most: int) -> Int[Tensor, "edge 2"]:
    """Sources and destinations of the edges that are given, the best first, ties in edge order."""
    offered = side.found.mask if isinstance(side.found, Circuit) else side.found.graph.edge_mask
    places = offered.T.nonzero().flip(1)
    if side.found.scores is None:
        return places
    sizes = side.found.scores[places[:, 0], places[:, 1]].abs()
    if not sizes.isfinite().all():
        raise ValueError("scores: expected finite numbers, got NaN or infinite ones; score again in a wider dtype")
    places = places[sizes.sort(descending=True, stable=True).indices]
    if side.own is None:
        return places[:most]
    beyond = places[most:]
    return torch.cat((places[:most], beyond[side.own.mask[beyond[:, 0], beyond[:, 1]]]))


def curve_payload(curve: Curve) -> dict[str, Any]:
    """Faithfulness over the number of edges, with 95 % intervals over prompts where there are two prompts or more."""
    values, n_prompts = curve.faithfulness, curve.values.shape[1]
    low = high = values
    if n_prompts > 1:
        tails = torch.tensor([0.025, 0.975], dtype=torch.double)
        low, high = curve.resampled_faithfulness().double().quantile(tails, dim=0)
    note = f"Share of the metric that the circuit recovers on {n_prompts} prompts; area CPR {curve.area('cpr'):.3f}, CMD {curve.area('cmd'):.3f}."
    return {
        "k": list(curve.k),
        "n_edges": list(curve.n_edges),
        **{name: rounded(column) for name, column in (("faithfulness", values), ("low", low), ("high", high))},
        "note": note,
    }


def checks_payload(verification: Verification) -> list[dict[str, Any]]:
    """The verdicts of `verify`."""
    return [
        asdict(check) | {"value": _number(check.value), "limit": _number(check.limit), "passed": check.passed}
        for check in verification.checks
    ]


def prompts_payload(prompts: Prompts) -> dict[str, Any]:
    """Prompts token by token, with the metric of model, circuit, and with everything cut."""
    pairs, measures = prompts.pairs, prompts.measures
    if len(pairs) != len(measures.values):
        raise ValueError(
            f"prompts: expected the {len(measures.values)} that were measured, got {len(pairs)}; give those to `measure`"
        )
    columns = {
        "model": rounded(measures.ends.clean),
        "circuit": rounded(measures.values),
        "cut": rounded(measures.ends.corrupted),
    }
    rows = []
    for row, length in enumerate(pairs.lengths.tolist()):
        texts = {name: _texts(prompts.tokenizer, getattr(pairs, name)[row, :length]) for name in ("clean", "corrupted")}
        rows.append(texts | _answers(prompts, row) | {name: column[row] for name, column in columns.items()})
    return {"note": prompts.note, "rows": rows}


def about(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Metadata as lines: what is nested comes under its own name."""
    lines = {}
    for name, value in metadata.items():
        if isinstance(value, Mapping):
            lines |= {f"{name}, {inner}" if inner in metadata else inner: text for inner, text in about(value).items()}
        elif value is not None:
            lines[name.replace("_", " ")] = str(value)
    return lines


def _answers(prompts: Prompts, row: int) -> dict[str, list[str]]:
    found = {}
    for name, column in (("answers", prompts.pairs.answers), ("wrong", prompts.pairs.wrong_answers)):
        ids = [] if column is None else column[row]
        alone = [] if column is None else ids[ids != NO_ANSWER][:12].split(1)
        found[name] = [text for token in alone for text in _texts(prompts.tokenizer, token)]
    return found


def _texts(tokenizer: Any, ids: Int[Tensor, "token"]) -> list[str]:
    if tokenizer is None:
        return [f"{token} " for token in ids.tolist()]
    tokens, texts, before = ids.tolist(), [], ""
    for end in range(1, len(tokens) + 1):  # what each token adds, since alone it may lose its space
        text = tokenizer.decode(tokens[:end])
        texts.append(text[len(before) :] if text.startswith(before) else tokenizer.decode([tokens[end - 1]]))
        before = text
    return texts


def rounded(values: Float[Tensor, "n"]) -> list[float | None]:
    """Six digits of each number, None for what is none."""
    return _numbers(values.tolist())


def _numbers(values: Sequence[float | None]) -> list[float | None]:
    return [None if value is None else _number(value) for value in values]


def _number(value: float) -> float | None:
    """Six digits are plenty on a page; what is no number is told as none."""
    return float(f"{value:.{DIGITS}g}") if math.isfinite(value) else None
