"""What can be asked on the command line; nothing heavy is imported, so that help comes at once."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NamedTuple

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
    "--task": dict(help="prompts of a task instead: ioi, docstring, greater_than, text, sort; of planted also induction, twice, two_hops, counts.twice, counts.once, backup; of trained number, pronoun, induction, brackets"),
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


class Command(NamedTuple):
    """A command of `edge-circuits`.

    Attributes:
        work: The function that does it, as module:function.
        summary: What it does.
        shared: Which of the options in `SHARED` it has.
        out: Where results go, if anywhere.
        own: Its other options and arguments, in order.
        either: Options of which one has to be given.
        metric: What is measured where nothing is said.
    """

    work: str
    summary: str
    shared: tuple[str, ...]
    out: dict[str, Any] | None
    own: dict[str, dict[str, Any]]
    either: tuple[str, ...] = ()
    metric: str | None = None


COMMANDS = {
    "find": Command(
        "find:find", "from a model and prompts to a checked circuit and a page to look at it", (*MODEL, "method"),
        dict(default=Path("circuit"), metavar="DIR", help="folder for all results (circuit)"),
        {
            "--k": dict(type=int, help="how many edges to choose; by default the fewest tried that recover --share"),
            "--share": dict(type=float, default=0.9, help="of the metric, to be recovered on the prompts to find with (0.9)"),
            "--refine": dict(type=float, metavar="TAU", help="refine the circuit with ACDC at this threshold"),
            "--objective": dict(default="kl", help="what ACDC keeps: kl, or a metric (kl)"),
            "--exact": dict(type=int, default=64, help="edges of the circuit whose effect is measured exactly (64)"),
        },
    ),
    "score": Command(
        "steps:score", "score every edge", (*MODEL, "method"),
        dict(default=Path("scores.json"), metavar="FILE", help="scores (scores.json)"),
        {"--groups": dict(type=int, help="keep scores of this many groups of prompts, for error bars and --stable")},
    ),
    "prune": Command(
        "saved:prune_file", "choose a circuit by score", (),
        dict(default=Path("circuit.json"), metavar="FILE", help="the circuit (circuit.json)"),
        {
            "scores": dict(type=Path, help="saved scores"),
            "--k": dict(type=int, help="how many edges to choose"),
            "--threshold": dict(type=float, help="choose the edges whose |score| reaches this"),
            "--by": dict(default="absolute", choices=("absolute", "signed", "negative"), help="rank by |score|, score or -score (absolute)"),
            "--strategy": dict(default="top", choices=("top", "greedy"), help="the best edges anywhere, or grown from logits (top)"),
            "--stable": dict(type=float, help="keep only edges that this share of other samples of prompts would choose"),
        },
        either=("--k", "--threshold"),
    ),
    "refine": Command(
        "steps:refine", "ACDC, on a circuit or on the whole graph", MODEL,
        dict(default=Path("refined.json"), metavar="FILE", help="the circuit (refined.json)"),
        {
            "circuit": dict(type=Path, nargs="?", help="a saved circuit; none: the whole graph"),
            "--threshold": dict(type=float, required=True, help="an edge is cut if the objective rises by less"),
        },
        metric="kl",
    ),
    "measure": Command(
        "steps:measure", "faithfulness, completeness, accuracy and divergence of circuits, on the held-out half", MODEL,
        dict(metavar="FILE", help="the table as JSON"),
        {"circuit": dict(type=Path, nargs="+", help="saved circuits")},
    ),
    "verify": Command(
        "steps:verify", "check model, scores and prompts before scores are trusted; exit status 1 if a check fails", CLEAN, None,
        {
            "scores": dict(type=Path, help="saved scores"),
            "--edges": dict(type=int, default=64, help="edges that are patched exactly (64)"),
        },
    ),
    "render": Command(
        "saved:render_file", "draw a circuit as svg, png, pdf or gv, or make a page (html) of scores or of a circuit", (),
        dict(required=True, metavar="FILE", help="its ending says what"),
        {
            "file": dict(type=Path, help="a saved circuit, or scores"),
            "--k": dict(type=int, help="of scores: how many edges (200)"),
            "--title": dict(),
        },
    ),
    "map": Command(
        "maps:draw_map", "where in layers and positions nodes matter, by estimates and by exact patching, drawn as svg", CLEAN,
        dict(default=Path("map.svg"), metavar="FILE", help="the picture (map.svg)"),
        {
            "--methods": dict(nargs="+", default=["eap", "relp", "exact"], help="one column each (eap relp exact)"),
            "--prompt": dict(type=int, default=0, help="number of the prompt (0); a file with spans: all, by span"),
        },
    ),
    "compare": Command(
        "saved:compare", "two circuits, or scores, side by side: shared, only here, only there, of another sign", (),
        dict(metavar="FILE", help="a page (html) of both"),
        {"here": dict(type=Path), "there": dict(type=Path), "--k": dict(type=int, help="of scores: how many edges (200)")},
    ),
    "convert": Command(
        "saved:convert", "files of EAP-IG and MIB (.json, .pt) to files of this project, and back; circuits to Neuronpedia's graphs", (),
        dict(required=True, metavar="FILE", help=".pt, or .json with --to eap-ig, for EAP-IG"),
        {
            "file": dict(type=Path),
            "--to": dict(choices=("edge-circuits", "eap-ig", "neuronpedia"), help="by default the other of the two"),
            "--d-model": dict(type=int, help="width of the residual stream, which EAP-IG reads, if the file does not tell"),
            "--scan": dict(help="for neuronpedia: the model's name there, e.g. gpt2-small"),
            "--prompt": dict(help="for neuronpedia: the prompt that is shown"),
            "--keep-sign": dict(action="store_true", help="do not turn the sign: positive there is, as a rule, an edge that helps"),
        },
    ),
    "again": Command(
        "saved:again", "make a result again, by the command that it tells of itself", (),
        dict(required=True, metavar="PATH", help="where it goes this time"),
        {"file": dict(type=Path, help="saved scores or a circuit")},
    ),
}  # fmt: skip


def parser() -> argparse.ArgumentParser:
    """The whole command line; `given.work` names the function that does it, as module:function."""
    top = argparse.ArgumentParser(
        prog="edge-circuits",
        description="Which edges of a language model do a task: score, prune, refine, measure, check and look.",
        epilog="edge-circuits COMMAND --help tells more. Prompts are divided into two halves: one to find with, one to measure on.",
    )
    commands = top.add_subparsers(dest="name", metavar="COMMAND", required=True)
    for name, command in COMMANDS.items():
        _add(commands, name, command)
    for name, (_, summary) in STUDIES.items():
        commands.add_parser(name, help=f"study: {summary}", add_help=False)
    return top


def _add(commands: Any, name: str, command: Command) -> None:
    summary = command.summary
    made = commands.add_parser(name, help=summary, description=summary[0].upper() + summary[1:] + ".")
    options = {option: settings for option, settings in SHARED.items() if option[2:] in command.shared}
    options |= {} if command.out is None else {"--out": {"type": Path, **command.out}}
    either = made.add_mutually_exclusive_group(required=True) if command.either else made
    for option, settings in (options | command.own).items():
        (either if option in command.either else made).add_argument(option, **settings)
    made.set_defaults(work=command.work, **({} if command.metric is None else {"metric": command.metric}))
