"""Commands on saved files, without a model: `prune`, `render`, `compare`, `convert`, `again`."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from contextlib import chdir
from pathlib import Path

from edge_circuits.command import setting
from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.circuit import Circuit
from edge_circuits.graphs.drawing.rendering import render
from edge_circuits.graphs.files import eap_ig, neuronpedia
from edge_circuits.graphs.files.json_format import is_of_eap_ig
from edge_circuits.graphs.pruning import prune
from edge_circuits.graphs.scores import ScoredGraph
from edge_circuits.page.report import FIRST_K, write_page

PAGES = (".html", ".htm")


def prune_file(given: argparse.Namespace) -> None:
    """Scores to a circuit."""
    scores = ScoredGraph.load(given.scores)
    circuit = prune(
        scores, given.k, threshold=given.threshold, by=given.by, strategy=given.strategy, stable=given.stable
    )
    given.quiet = False
    setting.save(setting.told(circuit, given), given.out, given)
    print(f"{circuit.n_edges:,} live edges of {circuit.n_requested:,} chosen, {len(circuit.nodes)} nodes")


def render_file(given: argparse.Namespace) -> None:
    """A picture of a circuit, or a page."""
    value = setting.load(given.file)
    if given.out.suffix.lower() in PAGES:
        setting.folder_for(given.out.parent)
        write_page(given.out, value, k=given.k, title=given.title)
    else:
        circuit = _circuit(value, given.k)
        setting.folder_for(given.out.parent)
        render(circuit, given.out, title=given.title)


def _circuit(value: ScoredGraph | Circuit, k: int | None) -> Circuit:
    """A circuit as it is, or the best edges of scores."""
    return value if isinstance(value, Circuit) else prune(value, min(k or FIRST_K, value.graph.n_edges))


def compare(given: argparse.Namespace) -> None:
    """Counts and names of what two share and do not; a page of both."""
    values = [setting.load(path) for path in (given.here, given.there)]
    here, there = (_circuit(value, given.k) for value in values)
    both = here.compare(there)
    for name, circuit in (("shared", both.shared), ("only here", both.only_here), ("only there", both.only_there)):
        print(f"{name}: {circuit.n_edges:,} edges")
    if here.scores is not None and there.scores is not None:
        flipped = both.shared.mask & (here.scores * there.scores < 0)
        print(f"sign flipped: {int(flipped.sum()):,} of those shared")
    if given.out is not None:
        setting.folder_for(given.out.parent)
        sides = [value if isinstance(value, ScoredGraph) else value.live() for value in values]
        write_page(given.out, *sides, k=given.k, title=f"{given.here.name} and {given.there.name}")


def convert(given: argparse.Namespace) -> None:
    """From EAP-IG's layout to ours, or from ours to theirs, where the sign is turned on both ways; or to Neuronpedia's graphs."""
    if given.to == "neuronpedia":
        _to_neuronpedia(given)
        return
    foreign = _is_eap_ig(given.file)
    to = given.to or ("edge-circuits" if foreign else "eap-ig")
    if foreign == (to == "eap-ig"):
        raise refusal("--to", "the layout that the file has not", to, "leave it out")
    negate = False if given.keep_sign else None
    if foreign:
        circuit = eap_ig.import_circuit(given.file, negate=negate)
        value = circuit if circuit.n_edges else eap_ig.import_scores(given.file, negate=negate)
        setting.folder_for(given.out.parent)
        setting.told(value, given).save(given.out)
    else:
        eap_ig.export(setting.load(given.file), given.out, negate=negate, d_model=given.d_model)
    print(f"{to}: {given.out}; scores {'as they were' if given.keep_sign else f'signed as in {to}'}")


def _to_neuronpedia(given: argparse.Namespace) -> None:
    """A saved circuit for the graph viewer; the words of --prompt stand for its tokens."""
    circuit = Circuit.load(given.file)
    setting.folder_for(given.out.parent)
    words = re.findall(r"\s*\S+", given.prompt or "")
    neuronpedia.export(circuit, given.out, scan=given.scan or "", tokens=words)
    print(f"neuronpedia: {given.out}; every node stands at the last word")


def again(given: argparse.Namespace) -> int:
    """Run the command that made a file once more, with its results elsewhere."""
    from edge_circuits.command.line import main

    known = setting.load(given.file).metadata
    if "command" not in known:
        expected = "a result that tells the command it was made by"
        raise refusal(str(given.file), expected, "one that does not", "only commands write that")
    folder = Path(known.get("folder", "."))
    if not folder.is_dir():
        expected = f"the folder {folder}, in which the command ran"
        raise refusal("folder", expected, "none of that name", "run the command by hand")
    words = [*shlex.split(known["command"])[1:], "--out", os.path.abspath(given.out)]
    print(shlex.join(["edge-circuits", *words]), file=sys.stderr)
    with chdir(folder):
        return main(words)


def _is_eap_ig(path: Path) -> bool:
    """Whether a file has EAP-IG's layout: a .pt, or JSON with cfg, nodes and edges."""
    if path.suffix.lower() == ".pt":
        return True
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise refusal(str(path), "a JSON or .pt file", f"none ({error})") from None
    return is_of_eap_ig(content)
