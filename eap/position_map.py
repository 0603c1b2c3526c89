"""Maps of layers and positions: where in layers and prompt nodes matter, by estimates and by exact patching.

    found = position_map(model, pairs[[0]], "logit_difference", tokenizer=tokenizer)
    print(found.table())                  # how far each estimate agrees with exact patching
    found.save("map.svg")

Nodes are the residual stream before each layer, what attention adds to it, and what the MLP adds. "noising" cuts a node in the
clean run, "denoising" restores it in the corrupted one; positive always means that the metric is higher with the node cut.

Reference: Jafari et al. 2025, RelP, figures 2, 4 and 5.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from edge_circuits.eap.gradient_method import OnePass
from edge_circuits.eap.methods.exact import Exact
from edge_circuits.eap.methods.lookup import find
from edge_circuits.eap.node_scores import Direction, NodeScores, score_nodes
from edge_circuits.graphs import PromptPairs
from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.drawing.looks import short_name
from edge_circuits.graphs.drawing.position_panels import Panel, panels_svg
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.prompts.pairs import check_pairs
from edge_circuits.graphs.prompts.tokenization import token_texts
from edge_circuits.graphs.tables import Table

EXACT = "exact"
KINDS = {
    "resid_pre": "residual stream", "resid_mid": "stream behind attention", "resid_post": "stream behind the layer",
    "attention_out": "attention", "mlp_out": "MLP",
}  # fmt: skip
USUAL = ("resid_pre", "attention_out", "mlp_out")


class Place(NamedTuple):
    """Which map: its kind of node, direction and method's label."""

    kind: str
    direction: Direction
    method: str


@dataclass(frozen=True)
class PositionMap:
    """Node scores by layer and position.

    Attributes:
        positions: What stands at each position: a token, `clean|corrupted` where a pair differs, or a span.
        maps: The mean over prompts, in the metric's unit. [layer pos]
        metadata: Model, metric and number of prompts.
    """

    positions: tuple[str, ...]
    maps: Mapping[Place, Float[Tensor, "layer pos"]]
    metadata: Mapping[str, Any]

    def pearson(self, place: Place) -> float | None:
        """Pearson's r of a map with that of exact patching, over layers and positions; None where one is constant.

        Raises:
            ValueError: There is no such map, or none of "exact".
        """
        both = [self._map(each).flatten().double() for each in (place, place._replace(method=EXACT))]
        if any(bool((each == each[0]).all()) for each in both):
            return None
        return float(torch.corrcoef(torch.stack(both))[0, 1])

    def table(self) -> Table:
        """Each estimate's agreement with exact patching."""
        known = [place for place in self.maps if place.method != EXACT and place._replace(method=EXACT) in self.maps]
        rows = tuple((KINDS[place.kind], place.direction, place.method, self.pearson(place)) for place in known)
        return Table(("nodes", "direction", "method", "Pearson with exact"), rows)

    def save(self, path: str | os.PathLike[str], title: str | None = None) -> Path:
        """Draw the maps as SVG: a row a kind and direction, a column a method.

        Raises:
            ValueError: The ending is another, or a score is not finite.
        """
        path = Path(path)
        if path.suffix.lower() != ".svg":
            raise refusal("path", "an ending .svg", path)
        if not all(each.isfinite().all() for each in self.maps.values()):
            raise refusal("maps", "finite numbers to draw", "NaN or infinite ones")
        rows: dict[tuple[str, str], list[Panel]] = {}
        for place, values in self.maps.items():
            heading = f"{KINDS[place.kind]}, {place.direction}, {place.method}"
            rows.setdefault((place.kind, place.direction), []).append(Panel(heading, values))
        known = f"{short_name(self.metadata['model'])}, {self.metadata['metric']}; blue: cutting it lowers the metric"
        return write_whole(path, panels_svg(list(rows.values()), self.positions, title or known).encode())

    def _map(self, place: Place) -> Float[Tensor, "layer pos"]:
        if place not in self.maps:
            raise refusal("place", f"one of {', '.join(' '.join(each) for each in self.maps)}", " ".join(place))
        return self.maps[place]


def position_map(
    model: nn.Module,
    pairs: PromptPairs,
    metric: Metric | str,
    methods: Sequence[OnePass | Exact | str] = ("eap", "relp", EXACT),
    *,
    directions: Sequence[Direction] = ("noising", "denoising"),
    kinds: Sequence[str] = USUAL,
    tokenizer: Any = None,
    batch_size: int | None = None,
    quiet: bool = False,
) -> PositionMap:
    """Where nodes matter, by several methods.

    Args:
        model: A TransformerLens model; left unchanged.
        pairs: Prompts of one length, a column a token; or prompts with spans, a column a span, over which scores are summed.
        metric: A function or a name, as for `score`.
        methods: Of `score_nodes`, "exact" among them to compare with.
        directions: "noising", "denoising" or both.
        kinds: Nodes to show, of `NodeScores.kinds` without "heads"; those that the model has not are left out.
        tokenizer: Tells tokens as text; None: the model's, if it has one, else ids are shown.

    Raises:
        ValueError: Prompts of several lengths without spans, no such kind or direction, or what `score_nodes` refuses.
    """
    check_pairs(pairs)
    for name, given, known in (("kinds", kinds, KINDS), ("directions", directions, get_args(Direction))):
        for each in given:
            choice(name, each, known)
    positions = _columns(pairs, tokenizer or getattr(model, "tokenizer", None))
    maps: dict[Place, Tensor] = {}
    asked = dict(batch_size=batch_size, quiet=quiet)
    for method, direction in product([find(each) for each in methods], directions):
        scores = score_nodes(model, pairs, metric, method, direction, **asked)
        maps |= {
            Place(kind, direction, method.label): _by_column(scores, kind, pairs)
            for kind in kinds
            if kind in scores.kinds
        }
    maps = dict(sorted(maps.items(), key=lambda item: (kinds.index(item[0].kind), directions.index(item[0].direction))))
    about = {name: scores.metadata[name] for name in ("model", "metric", "n_prompts")}
    return PositionMap(positions, maps, about)


def _columns(pairs: PromptPairs, tokenizer: Any) -> tuple[str, ...]:
    """What stands at each position: a token that all prompts share, its number where they differ, or a span."""
    if pairs.spans is not None:
        return pairs.spans.names
    pairs.by_token()  # refuses several lengths
    clean, corrupted = (token_texts(tokenizer, each[0].tolist()) for each in (pairs.clean, pairs.corrupted))
    shared = ((each == each[0]).all(0).tolist() for each in (pairs.clean, pairs.corrupted))
    return tuple(
        (one if one == other else f"{one.strip()}|{other.strip()}") if same and alike else str(at)
        for at, (one, other, same, alike) in enumerate(zip(clean, corrupted, *shared))
    )


def _by_column(scores: NodeScores, kind: str, pairs: PromptPairs) -> Float[Tensor, "layer pos"]:
    if pairs.spans is None:
        return scores.mean(kind)
    values, of_token = scores.per_prompt[kind].nan_to_num(), pairs.spans.of_token.cpu()
    columns = [(values * (of_token == number)[:, None]).sum(2).mean(0) for number in range(len(pairs.spans))]
    return torch.stack(columns, dim=1)
