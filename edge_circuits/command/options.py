"""What can be asked on the command line; nothing heavy is imported, so that help comes at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

STUDIES = {
    "roc": ("edge_circuits.benchmarks.roc.study", "how well methods find known circuits"),
    "agreement": ("edge_circuits.benchmarks.agreement.study", "how well scores agree with exact patching"),
    "faithfulness": ("edge_circuits.benchmarks.faithfulness.study", "how good circuits of every size are"),
    "refine-study": ("edge_circuits.benchmarks.refine.study", "what ACDC adds to a pruned graph"),
    "features": ("edge_circuits.benchmarks.features.study", "circuits of features, heads and neurons"),
    "hypotheses": ("edge_circuits.benchmarks.hypotheses", "three tests of circuits, with p-values"),
    "speed": ("edge_circuits.benchmarks.speed.study", "running times as ratios to the bare passes"),
    "needs": ("edge_circuits.benchmarks.needs.study", "what memory and time a size of model needs"),
    "published": ("edge_circuits.benchmarks.published", "published figures, computed again"),
}
SHARED: dict[str, dict[str, Any]] = {
    "--model": dict(default="planted", help="a hub name such as gpt2, a directory, or models of this package: planted (the default), trained (trained:SEED)"),
    "--prompts": dict(type=Path, metavar="FILE", help="your own pairs, CSV or JSON Lines"),
    "--task": dict(help="prompts of a task instead: ioi, docstring, greater_than, text, sort; of planted also induction, twice; of trained number, pronoun, induction, brackets"),
    "--method": dict(default="relp", help="how edges are scored, e.g. relp, eap, eap-ig:steps=10, exact (relp)"),
    "--metric": dict(help="what is measured, by name (the task's own, or logit_difference)"),
    "--intervention": dict(default="patching", choices=("patching", "zero", "mean", "mean-positional", "zero-tokens", "mean-tokens"), help="what a cut edge reads (patching)"),
    "--n-prompts": dict(type=int, help="pairs of a task to find with (100); of a file all are used, halved"),
    "--seed": dict(type=int, default=0, help="of tasks' prompts and of the division into halves (0)"),
    "--device": dict(help="cpu, cuda, ...; by default cuda where there is one"),
    "--dtype": dict(default="float32", choices=("float32", "float64", "bfloat16"), help="of the weights (float32)"),
    "--out": dict(type=Path, help="where results go"),
    "--quiet": dict(action="store_true", help="no progress bars and no notes"),
}  # fmt: skip
MODEL = ("model", "prompts", "task", "metric", "intervention", "n-prompts", "seed", "device", "dtype", "quiet")
CLEAN = tuple(name for name in MODEL if name != "intervention")  # of commands that do not choose what a cut edge reads


def parser() -> argparse.ArgumentParser:
    """The whole command line; `given.work` names the function that does it, as module:function."""
    top = argparse.ArgumentParser(
        prog="edge-circuits",
        description="Which edges of a language model do a task: score, prune, refine, measure, check and look.",
        epilog="edge-circuits COMMAND --help tells more. Prompts are divided into two halves: one to find with, one to measure on.",
    )
    commands = top.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for add in (_find, _score, _prune, _refine, _measure, _verify, _render, _map, _compare, _convert, _again):
        add(commands)
    for name, (_, summary) in STUDIES.items():
        commands.add_parser(name, help=f"study: {summary}", add_help=False)
    return top


def _command(
    commands: Any, name: str, work: str, summary: str, shared: tuple[str, ...], **out: Any
) -> argparse.ArgumentParser:
    made = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    made.set_defaults(work=work)
    for option, settings in SHARED.items():
        if option[2:] in shared:
            made.add_argument(option, **settings)
    if out:
        made.add_argument("--out", **{"type": Path, **out})
    return made


def _k(made: argparse.ArgumentParser, *, required: bool) -> None:
    size = made.add_mutually_exclusive_group(required=required)
    size.add_argument("--k", type=int, help="how many edges to choose")
    size.add_argument("--threshold", type=float, help="choose the edges whose |score| reaches this")
    made.add_argument(
        "--by",
        default="absolute",
        choices=("absolute", "signed", "negative"),
        help="rank by |score|, score or -score (absolute)",
    )
    made.add_argument("--strategy", default="top", choices=("top", "greedy"), help="the best edges anywhere, or grown from logits (top)")  # fmt: skip


def _find(commands: Any) -> None:
    about = "from a model and prompts to a checked circuit and a page to look at it"
    made = _command(
        commands,
        "find",
        "find:find",
        about,
        (*MODEL, "method"),
        default=Path("circuit"),
        metavar="DIR",
        help="folder for all results (circuit)",
    )
    made.add_argument(
        "--k", type=int, help="how many edges to choose; by default the fewest tried that recover --share"
    )
    made.add_argument(
        "--share", type=float, default=0.9, help="of the metric, to be recovered on the prompts to find with (0.9)"
    )
    made.add_argument("--refine", type=float, metavar="TAU", help="refine the circuit with ACDC at this threshold")
    made.add_argument("--objective", default="kl", help="what ACDC keeps: kl, or a metric (kl)")
    made.add_argument("--exact", type=int, default=64, help="edges of the circuit whose effect is measured exactly (64)")  # fmt: skip


def _score(commands: Any) -> None:
    made = _command(
        commands,
        "score",
        "steps:score",
        "score every edge",
        (*MODEL, "method"),
        default=Path("scores.json"),
        metavar="FILE",
        help="scores (scores.json)",
    )
    made.add_argument("--groups", type=int, help="keep scores of this many groups of prompts, for error bars and --stable")  # fmt: skip


def _prune(commands: Any) -> None:
    made = _command(
        commands,
        "prune",
        "saved:prune_file",
        "choose a circuit by score",
        (),
        default=Path("circuit.json"),
        metavar="FILE",
        help="the circuit (circuit.json)",
    )
    made.add_argument("scores", type=Path, help="saved scores")
    _k(made, required=True)
    made.add_argument("--stable", type=float, help="keep only edges that this share of other samples of prompts would choose")  # fmt: skip


def _refine(commands: Any) -> None:
    about = "ACDC, on a circuit or on the whole graph"
    made = _command(
        commands,
        "refine",
        "steps:refine",
        about,
        MODEL,
        default=Path("refined.json"),
        metavar="FILE",
        help="the circuit (refined.json)",
    )
    made.add_argument("circuit", type=Path, nargs="?", help="a saved circuit; none: the whole graph")
    made.add_argument("--threshold", type=float, required=True, help="an edge is cut if the objective rises by less")
    made.set_defaults(metric="kl")  # fmt: skip


def _measure(commands: Any) -> None:
    about = "faithfulness, completeness, accuracy and divergence of circuits, on the held-out half"
    made = _command(commands, "measure", "steps:measure", about, MODEL, metavar="FILE", help="the table as JSON")
    made.add_argument("circuit", type=Path, nargs="+", help="saved circuits")


def _verify(commands: Any) -> None:
    about = "check model, scores and prompts before scores are trusted; exit status 1 if a check fails"
    made = _command(commands, "verify", "steps:verify", about, CLEAN)
    made.add_argument("scores", type=Path, help="saved scores")
    made.add_argument("--edges", type=int, default=64, help="edges that are patched exactly (64)")


def _render(commands: Any) -> None:
    about = "draw a circuit as svg, png, pdf or gv, or make a page (html) of scores or of a circuit"
    made = _command(
        commands, "render", "saved:render_file", about, (), required=True, metavar="FILE", help="its ending says what"
    )
    made.add_argument("file", type=Path, help="a saved circuit, or scores")
    made.add_argument("--k", type=int, help="of scores: how many edges (200)")
    made.add_argument("--title")


def _map(commands: Any) -> None:
    about = "where in layers and positions nodes matter, by estimates and by exact patching, drawn as svg"
    made = _command(
        commands,
        "map",
        "maps:draw_map",
        about,
        CLEAN,
        default=Path("map.svg"),
        metavar="FILE",
        help="the picture (map.svg)",
    )
    made.add_argument("--methods", nargs="+", default=["eap", "relp", "exact"], help="one column each (eap relp exact)")
    made.add_argument("--prompt", type=int, default=0, help="number of the prompt (0); a file with spans: all, by span")


def _compare(commands: Any) -> None:
    about = "two circuits, or scores, side by side: shared, only here, only there, of another sign"
    made = _command(commands, "compare", "saved:compare", about, (), metavar="FILE", help="a page (html) of both")
    made.add_argument("here", type=Path)
    made.add_argument("there", type=Path)
    made.add_argument("--k", type=int, help="of scores: how many edges (200)")


def _convert(commands: Any) -> None:
    about = "files of EAP-IG and MIB (.json, .pt) to files of this project, and back; circuits to Neuronpedia's graphs"
    made = _command(
        commands,
        "convert",
        "saved:convert",
        about,
        (),
        required=True,
        metavar="FILE",
        help=".pt, or .json with --to eap-ig, for EAP-IG",
    )
    made.add_argument("file", type=Path)
    made.add_argument(
        "--to", choices=("edge-circuits", "eap-ig", "neuronpedia"), help="by default the other of the two"
    )
    made.add_argument(
        "--d-model", type=int, help="width of the residual stream, which EAP-IG reads, if the file does not tell"
    )
    made.add_argument("--scan", help="for neuronpedia: the model's name there, e.g. gpt2-small")
    made.add_argument("--prompt", help="for neuronpedia: the prompt that is shown")
    made.add_argument("--keep-sign", action="store_true", help="do not turn the sign: positive there is, as a rule, an edge that helps")  # fmt: skip


def _again(commands: Any) -> None:
    made = _command(
        commands,
        "again",
        "saved:again",
        "make a result again, by the command that it tells of itself",
        (),
        required=True,
        metavar="PATH",
        help="where it goes this time",
    )
    made.add_argument("file", type=Path, help="saved scores or a circuit")  # fmt: skip
