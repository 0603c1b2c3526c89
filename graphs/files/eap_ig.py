"""Scores and circuits of EAP-IG and of MIB's circuit track, both ways.

`edge_circuits.graphs.files.eap_ig_format` describes their files: `.json` and `.pt`. What differs from the files of `edge_circuits.graphs.files.json_format`, and
what is made of it:

- Sign. There, a score is (corrupted - clean) . gradient of the function that was handed over, which is as a rule a
  loss such as the negative logit difference: positive then says that cutting the edge *lowers* the metric, the opposite
  of the sign here. So signs are turned on the way out and on the way in. A file written here says so in `score_sign`
  ("loss", "metric" as here, or "size" where scores have no sign) and is read by it; `negate=` overrules it. Unit and
  reduction over prompts are not converted.
- Kept edges. Edges decide what is in a circuit, as in EAP-IG, whose pruning derives the nodes from them.
- Grouped-query attention. Their graph has a `<k>` and a `<v>` per query head, as is the default here.
- Nodes and neurons. Their scores have no counterpart here; a circuit that keeps single neurons is refused.
- Metadata. Their files have room for none. A digest is written, and compared where there is one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from edge_circuits.graphs.checks import refusal, whole_number
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files import eap_ig_format
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.files.documents import reading
from edge_circuits.graphs.files.eap_ig_format import Layout, Table
from edge_circuits.graphs.scores import ScoredGraph


def import_scores(
    path: str | os.PathLike[str], *, negate: bool | None = None, metadata: Mapping[str, Any] | None = None
) -> ScoredGraph:
    """Read the scores of all edges from a `.json` or `.pt` file of EAP-IG or MIB.

    Args:
        path: The file.
        negate: Whether to turn the sign. By default as the file says; where it does not, its scores are taken for those
            of a loss, and turned. Positive here: cutting the edge raises the metric.
        metadata: Added to what the file itself says: `imported`, and `d_model` if it is there.

    Returns:
        The scores, in float32 where that holds them exactly and in float64 otherwise.

    Raises:
        ValueError: The file is torn or of another layout, or not every edge has a score; the message names it.
        FileNotFoundError: There is no such file.
    """
    table = _read(path)
    if table.scores is None:
        raise refusal(str(path), "a score for every edge", "fewer", "import_circuit reads which edges are kept")
    negate = _turns(table, negate)
    return ScoredGraph(table.graph, _signed(table.scores, negate), _origin(path, table, negate, metadata))


def import_circuit(
    path: str | os.PathLike[str], *, negate: bool | None = None, metadata: Mapping[str, Any] | None = None
) -> Circuit:
    """Read the circuit that is marked in a `.json` or `.pt` file of EAP-IG or MIB: the edges with `in_graph`.

    Args:
        path: The file.
        negate: Whether to turn the sign of the scores; by default as for `import_scores`.
        metadata: Added to what the file itself says: `imported`, and `d_model` if it is there.

    Returns:
        The circuit as marked, dead ends included; with scores if every edge has one and they are not all 0.

    Raises:
        ValueError: The file is torn or of another layout, does not say which edges are kept, or keeps single neurons;
            the message names it.
        FileNotFoundError: There is no such file.
    """
    table = _read(path)
    if table.kept is None:
        raise refusal(str(path), "edges with in_graph", "edges without", "use import_scores and prune")
    if table.has_neurons:
        raise refusal(str(path), "a circuit of edges", "one that keeps single neurons")
    has_scores, negate = table.scores is not None and bool(table.scores.any()), _turns(table, negate)
    scores = _signed(table.scores, negate) if has_scores else None
    if has_scores and table.scored == "kept edges":
        scores = scores.where(table.kept | ~table.graph.edge_mask, torch.nan)
    return Circuit(table.graph, table.kept, scores, _origin(path, table, negate, metadata))


def export(
    value: ScoredGraph | Circuit,
    path: str | os.PathLike[str],
    *,
    negate: bool | None = None,
    d_model: int | None = None,
) -> None:
    """Write scores or a circuit so that EAP-IG and MIB read them, whole or not at all.

    Args:
        value: Scores are written with no edge kept; a circuit with its scores, or with zeros if it has none.
        path: The file; its ending, `.json` or `.pt`, chooses the layout.
        negate: Whether to turn the sign of the scores to that of a loss, which EAP-IG and MIB expect. By default it is
            turned if the scores have one; a size stays positive.
        d_model: Width of the residual stream, which EAP-IG wants to know; by default `value.metadata["d_model"]`.

    Raises:
        ValueError: The graph has key-value heads as destinations, a score is NaN or infinite, d_model is not known, or
            the path ends otherwise.
    """
    layout, graph = _layout(path), value.graph
    if graph.n_kv_heads is not None:
        expected = "<k> and <v> per query head, as EAP-IG's layout has them"
        raise refusal("value", expected, f"{graph} with key-value heads", "score with kv_destinations='query-head'")
    d_model = value.metadata.get("d_model") if d_model is None else d_model
    d_model = whole_number("d_model", d_model, 1, remedy="the width of the residual stream, which EAP-IG reads")
    scores = torch.zeros(graph.edge_mask.shape, device="cpu") if value.scores is None else value.scores
    scored = "all edges"
    if isinstance(value, Circuit) and (unknown := scores.isnan() & ~value.mask).any():
        scores, scored = scores.where(~unknown, 0), "kept edges"  # a loaded circuit knows those of its edges alone
    if not scores.isfinite().all():
        raise refusal("scores", "finite numbers, as EAP-IG's layout has them", "NaN or infinite ones")
    kept = value.mask if isinstance(value, Circuit) else torch.zeros_like(graph.edge_mask)
    is_signed = value.metadata.get("signed") is not False
    turned = is_signed if negate is None else negate
    sign = "size" if not is_signed else "loss" if turned else "metric"
    table = Table(graph, _signed(scores, turned), kept, d_model, sign=sign, scored=scored)
    write_whole(path, eap_ig_format.write(table, layout))


def _read(path: str | os.PathLike[str]) -> Table:
    layout = _layout(path)
    content = Path(path).read_bytes()
    with reading(path):
        return eap_ig_format.read(content, layout)


def _layout(path: str | os.PathLike[str]) -> Layout:
    ending = Path(path).suffix.lower()
    if ending not in (".json", ".pt"):
        raise refusal("path", "an ending .json or .pt, as files of EAP-IG and MIB have", path)
    return ending


def _turns(table: Table, negate: bool | None) -> bool:
    """Whether a file's signs are turned: as asked, else as it says, else as those of a loss are."""
    return table.sign in (None, "loss") if negate is None else negate


def _signed(scores: Float[Tensor, "source destination"], negate: bool) -> Float[Tensor, "source destination"]:
    return 0 - scores if negate else scores  # not -scores, which makes -0 of 0


def _origin(
    path: str | os.PathLike[str], table: Table, negate: bool, metadata: Mapping[str, Any] | None
) -> dict[str, Any]:
    """Metadata of an imported value."""
    imported = {"layout": f"EAP-IG {_layout(path)}", "file": Path(path).name, "negated": negate}
    known: dict[str, Any] = {} if table.d_model is None else {"d_model": table.d_model}
    known |= {"signed": False} if table.sign == "size" else {}
    return {**known, "imported": imported, **(metadata or {})}
