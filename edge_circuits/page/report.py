"""Writing a report page: one HTML file that needs no network and no server.

    write_page("report.html", scores)                                          # a slider over k, and all that scores tell
    write_page("report.html", Side(scores, circuit=circuit, bars=bars), curve=curve, verification=checks)
    write_page("report.html", Side(one, "RelP"), Side(other, "EAP"))           # two circuits side by side

1. `payload` gathers what the page knows as JSON.
2. The scripts and the style of this folder and the payload are put into `page.html`; `graph.js` knows the topology and
   the rule by which dead ends are left out, `layout.js` the places, `drawing.js` the drawing, `panels.js` what stands
   beside it, and `app.js` what the reader has chosen.
"""

from __future__ import annotations

import html
import json
import os
import re
from importlib.resources import files
from pathlib import Path
from typing import Any

from edge_circuits.eap.verification import Verification
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.files.atomic import write_whole
from edge_circuits.graphs.measures.curves import Curve
from edge_circuits.graphs.pruning import prune
from edge_circuits.graphs.scores import ScoredGraph
from edge_circuits.page.payload import (
    MOST_EDGES,
    Prompts,
    Side,
    about,
    checks_payload,
    curve_payload,
    prompts_payload,
    side_payload,
)

SCRIPTS = ("graph.js", "layout.js", "drawing.js", "panels.js", "app.js")
FIRST_K = 200


def write_page(
    path: str | os.PathLike[str],
    here: Side | ScoredGraph | Circuit,
    there: Side | ScoredGraph | Circuit | None = None,
    *,
    k: int | None = None,
    curve: Curve | None = None,
    verification: Verification | None = None,
    prompts: Prompts | None = None,
    title: str | None = None,
    most: int = MOST_EDGES,
) -> Path:
    """Write a page to look at scores or a circuit with.

    Solid edges help (cutting them lowers the metric), dashed ones hurt. The slider over k prunes as `prune(scores, k)`
    does: the k largest |score|, without dead ends.

    Args:
        path: The HTML file; an existing one is replaced.
        here: Scores, or a circuit, or a `Side` of them with intervals, exact effects and a circuit.
        there: A second one of the same graph, shown beside: which edges are shared, in one alone, or of another sign.
        k: Where the slider begins; by default as many edges as the circuit was asked for, or 200.
        curve: Faithfulness over the number of edges.
        verification: The verdicts of `verify`.
        prompts: Prompts with what the circuit does on each.
        title: By default model and task from the metadata.
        most: Edges that the page has, of a large graph the best ones.

    Raises:
        ValueError: The two are of different graphs, a score is not finite, k or `most` is out of range, or the folder
            does not exist.
    """
    sides = [each if isinstance(each, Side) else Side(each) for each in (here, there) if each is not None]
    if len({side.found.graph for side in sides}) > 1:
        raise ValueError("there: expected scores or a circuit of the same graph, got another; make a page of each")
    if most < 1 or (k is not None and not 0 <= k <= most):
        raise ValueError(f"k: expected 0 to most={most}, which is 1 or more, got {k}; raise `most` for more edges")
    content = {
        "title": title if title is not None else _title(sides),
        "subtitle": _subtitle(sides),
        "headline": _headline(sides, prompts, verification),
        "graph": {
            name: getattr(sides[0].found.graph, name)
            for name in ("n_layers", "n_heads", "n_kv_heads", "mlps", "parallel")
        },
        "sides": [side_payload(side, most) | {"most": min(most, _n_offered(side))} for side in sides],
        "k": _first_k(sides, most) if k is None else k,
        "most": max(min(most, _n_offered(side)) for side in sides),
        "alone": any(_is_not_the_best(side) for side in sides),
        "curve": None if curve is None else curve_payload(curve),
        "checks": None if verification is None else checks_payload(verification),
        "prompts": None if prompts is None else prompts_payload(prompts),
        "about": {f"{side.title}: {name}" if there is not None else name: text for side in sides for name, text in about(side.found.metadata).items()},
    }  # fmt: skip
    return write_whole(path, page_text(content).encode())


def page_text(content: dict[str, Any]) -> str:
    """The whole file: what JSON holds cannot end the element that it stands in."""
    folder = files("edge_circuits.page")
    payload = json.dumps(content, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "title": html.escape(content["title"]),
        "style": (folder / "page.css").read_text(encoding="utf-8"),
        "script": "\n".join((folder / name).read_text(encoding="utf-8") for name in SCRIPTS),
        "payload": payload,
    }
    template = (folder / "page.html").read_text(encoding="utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda mark: parts[mark[1]], template)


def _n_offered(side: Side) -> int:
    return side.found.n_edges if isinstance(side.found, Circuit) else side.found.graph.n_edges


def _first_k(sides: list[Side], most: int) -> int:
    """As many edges as were asked for, or all of a circuit."""
    return min(max(map(_n_asked, sides)), most, max(map(_n_offered, sides)))


def _n_asked(side: Side) -> int:
    if isinstance(side.found, Circuit):
        return side.found.n_edges
    return FIRST_K if side.circuit is None else side.circuit.n_requested or side.circuit.n_edges


def _is_not_the_best(side: Side) -> bool:
    """Whether the circuit that was found is another than that of the best edges, so that it is shown alone at first."""
    if side.circuit is None:
        return False
    return prune(side.found, min(_n_asked(side), side.found.graph.n_edges)) != side.circuit.live()


def _title(sides: list[Side]) -> str:
    known = sides[0].found.metadata
    words = [str(known[name]) for name in ("model", "task") if known.get(name)]
    return ", ".join(words) or "Circuit"


def _subtitle(sides: list[Side]) -> str:
    known, graph = sides[0].found.metadata, sides[0].found.graph
    settings = known.get("settings", {})
    words = [" and ".join(dict.fromkeys(side.title for side in sides))]
    words += [f"metric {known['metric']}"] if known.get("metric") else []
    words += [f"{settings['n_prompts']} prompts"] if settings.get("n_prompts") else []
    words += [f"cut edges read {settings['intervention']}"] if settings.get("intervention") else []
    return " · ".join([*words, f"{graph.n_edges:,} edges in all"])


def _headline(sides: list[Side], prompts: Prompts | None, verification: Verification | None) -> str:
    """What was found, and whether it held, in a sentence or two."""
    words = []
    if prompts is not None:
        measures, known = prompts.measures, sides[0].found.metadata
        recovered = f"{measures.circuit.n_edges:,} of {measures.circuit.graph.n_edges:,} edges recover {measures.faithfulness:.1%}"
        words.append(f"{recovered} of {known.get('metric', 'the metric')} on {len(prompts.pairs)} prompts.")
    if verification is not None:
        failed = sum(not check.passed for check in verification.checks)
        words.append(
            f"{failed} of {len(verification.checks)} checks failed."
            if failed
            else f"All {len(verification.checks)} checks passed."
        )
    return " ".join(words)
