"""Problems by the name of a model and its tasks.

open_problems("planted", ["ioi"], n_prompts=100)                # a planted model; the circuit is true by construction
open_problems("gpt2", ["ioi"], n_prompts=100)                   # a task of `edge_circuits.benchmarks.tasks`; a paper's circuit
open_problems("DIRECTORY", ["text"], n_prompts=16)              # the next token of text, with any tokenizer
open_problems("DIRECTORY", ["sort"], n_prompts=16)              # a model that sorts digits, without a tokenizer
open_problems("DIRECTORY", prompts=Path("mine.csv"), circuit=Path("known.json"))       # a user's own
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edge_circuits.benchmarks import planted, trained
from edge_circuits.benchmarks import tasks as known_tasks
from edge_circuits.benchmarks.problems.opening import open_with_tokenizer, told_elsewhere
from edge_circuits.benchmarks.problems.problem import PLANTED, TRAINED, Problem
from edge_circuits.benchmarks.problems.prompt_sets import file_pairs, sort_prompts, text_prompts
from edge_circuits.benchmarks.reference.circuits import TASKS, load_reference
from edge_circuits.graphs import Circuit, Graph, PromptPairs, metrics
from edge_circuits.graphs.checks import choice, refusal, whole_number

SORT, TEXT = "sort", "text"
N_PROMPTS = 100


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What is asked of a model; see `open_problems`."""

    n_prompts: int | None = None
    n_held_out: int | None = None
    seed: int = 0
    metric: str | None = None
    prompts: Path | None = None
    circuit: Path | None = None
    needs_circuit: bool = False
    variant: str | None = None
    edge_set: str | None = None
    text: Path | None = None
    weights: Path | None = None
    device: str | None = None
    dtype: str = "float32"
    quiet: bool = False

    def __post_init__(self) -> None:
        for name in ("n_prompts", "n_held_out"):
            if (number := getattr(self, name)) is not None:
                whole_number(name, number, 1)
        if self.metric not in (None, metrics.KL):
            metrics.load(self.metric)

    @property
    def n(self) -> int:
        """Prompts to score on."""
        return N_PROMPTS if self.n_prompts is None else self.n_prompts

    @property
    def n_drawn(self) -> int:
        """Those and the prompts to measure on."""
        return self.n + (self.n_held_out or 0)


def open_problems(model_name: str, tasks: Sequence[str] | None = None, **asked: Any) -> list[Problem]:
    """A model with each of some tasks.

    Args:
        model_name: "planted", "trained" (with a seed of the training: "planted:1"), a directory or a hub name.
        tasks: None: all planted ones; of another model those with a known circuit where one is needed, else `text`, or `sort`
            without a tokenizer.
        n_prompts: Prompts of each (100); of a user's file all by default.
        n_held_out: As many other prompts to measure on; None: none. Planted models then score on training prompts.
        seed: Of the prompts; 0 gives those of a variant's origin, where it states a seed.
        metric: Name of a metric; None: each task's own.
        prompts: A user's CSV or JSON Lines file of pairs, in the tasks' place.
        circuit: A saved circuit, as the known one.
        needs_circuit: Whether a problem without a known circuit is refused.
        variant: Whose prompts, of a model that is not planted; None: each task's first.
        edge_set: Whose edge set is the circuit; None: each task's first.
        text: File that `text` takes its prompts from; None: the model writes them.
        weights: Folder of the planted models' weights; None: those shipped.
        device: As for `open_model`; planted models stay on the CPU by default.
        dtype: Of the weights.
        quiet: No progress bar while the model is read.

    Raises:
        ValueError: The model cannot be opened, there is no such task or metric, a task does not fit the model, or no circuit is
            known where one is needed.
    """
    wanted = Asked(**asked)
    kind, _, training_seed = model_name.partition(":")
    of_kind = {PLANTED: _planted, TRAINED: _trained}.get(kind)
    if of_kind is None:
        found = _opened(model_name, tasks, wanted)
    elif wanted.prompts is not None and tasks is None:
        what = "planted model" if kind == PLANTED else "task of the trained model"
        raise refusal("--tasks", f"the {what} that the prompts are for", "none", "name it")
    else:
        found = of_kind(model_name, _seed(training_seed or "0"), tasks, wanted)
    if wanted.metric is not None:
        found = [replace(problem, metric_name=wanted.metric) for problem in found]
    return found if wanted.circuit is None else [_with_circuit(problem, wanted.circuit) for problem in found]


def _seed(text: str) -> int:
    if not text.isdecimal():
        raise refusal("model", "the seed of a training behind the colon", repr(text))
    return int(text)


class Drawn(NamedTuple):
    """Pairs to score on, what they are in words, and those to measure on, where they are asked for."""

    pairs: PromptPairs
    prompts: str
    held_out: PromptPairs | None


def _planted(model_name: str, seed: int, tasks: Sequence[str] | None, asked: Asked) -> list[Problem]:
    problems = []
    for name in planted.NAMES if tasks is None else tasks:
        model, circuit, task = planted.load(name, asked.weights, seed)
        if asked.prompts is not None:
            drawn = _own(asked, task.task.word_tokenizer())
        elif asked.n_held_out is None:
            drawn = Drawn(task.pairs(asked.n, seed=asked.seed), "held-out prompts", None)
        else:
            halves = ((asked.n, "train"), (asked.n_held_out, "test"))
            pairs, held_out = (task.pairs(n, seed=asked.seed, split=split) for n, split in halves)
            drawn = Drawn(pairs, "training prompts", held_out)
        known = dict(known=circuit, origin="planted, true by construction", roles=_by_node(task.roles))
        about = dict(model=_moved(model, asked), metric_name=task.task.metric)
        problems.append(Problem(model_name, name, **about, **known, **drawn._asdict()))
    return problems


def _trained(model_name: str, seed: int, tasks: Sequence[str] | None, asked: Asked) -> list[Problem]:
    """The tasks of models that the project trained."""
    if asked.needs_circuit and asked.circuit is None:
        raise refusal("model", "one that has a known circuit", repr(model_name), "give --circuit FILE")
    known = trained.tasks()
    models, problems = {}, []
    for name in known if tasks is None else tasks:
        language, task = known[choice("task", name, known)]
        if language.name not in models:
            models[language.name] = _moved(trained.load(language.name, seed, asked.weights).model, asked)
        if asked.prompts is not None:
            drawn = _own(asked, language.tokenizer)
        else:
            drawn = _parted(task.pairs(asked.n_drawn, asked.seed, "test"), "test prompts", asked)
        about = dict(model=models[language.name], metric_name=task.metric)
        problems.append(Problem(model_name, name, **about, **drawn._asdict()))
    return problems


def _moved(model: nn.Module, asked: Asked) -> nn.Module:
    """A model of this package on the device and of the type that are asked for."""
    if asked.device is None and asked.dtype == "float32":
        return model
    with told_elsewhere(asked.quiet):
        return model.to(asked.device or "cpu", getattr(torch, asked.dtype))


def _opened(model_name: str, tasks: Sequence[str] | None, asked: Asked) -> list[Problem]:
    """The problems of a model that is not of this package."""
    for task in tasks or ():
        choice("task", task, (SORT, TEXT, *known_tasks.names()))
    model, tokenizer = open_with_tokenizer(model_name, asked.device, asked.quiet, asked.dtype)
    graph, problems = Graph.from_model(model), []
    if asked.prompts is not None:
        tasks = [asked.prompts.stem]
    elif tasks is None and asked.needs_circuit and asked.circuit is None:
        tasks = [task for task in TASKS if load_reference(task).circuit.graph == graph]
        if not tasks:
            raise _other_shape(model_name, graph, TASKS)
    for task in tasks or ([SORT] if tokenizer is None else [TEXT]):
        if asked.prompts is not None:
            drawn, metric = _own(asked, tokenizer), "logit_difference"
        else:
            drawn, metric = _drawn(task, model_name, model, tokenizer, asked)
        known = _reference(task, graph, asked)
        if asked.needs_circuit and not known and asked.circuit is None:
            raise _other_shape(model_name, graph, (task,))
        problems.append(Problem(model_name, task, model, metric_name=metric, **known, **drawn._asdict()))
    return problems


def _own(asked: Asked, tokenizer: Any) -> Drawn:
    """A user's prompts; half of them held out where that is asked."""
    pairs, words = file_pairs(asked.prompts, tokenizer), f"prompts of {asked.prompts.name}"
    pairs = pairs if asked.n_prompts is None else pairs[: asked.n_prompts]
    if asked.n_held_out is None:
        return Drawn(pairs, words, None)
    whole_number("--prompts: number of pairs", len(pairs), 4, remedy="half of them are held out to measure on")
    here, held_out = pairs.split(len(pairs) // 2, asked.seed)
    return Drawn(here, words, held_out)


def _parted(pairs: PromptPairs, words: str, asked: Asked) -> Drawn:
    """Pairs that were drawn, parted where some are to be held out."""
    here, held_out = (pairs, None) if asked.n_held_out is None else pairs.split(asked.n, asked.seed)
    return Drawn(here, words, held_out)


def _drawn(task: str, model_name: str, model: nn.Module, tokenizer: Any, asked: Asked) -> tuple[Drawn, str]:
    """Prompts of a task, and the task's metric."""
    n, metric = asked.n_drawn, "logit_difference"
    if task == SORT:
        pairs, words = sort_prompts(model, n, asked.seed)
    elif tokenizer is None:
        got = f"{model_name!r} without one"
        raise refusal("task", f"a model with a tokenizer for {task!r}", got, f"it can do {SORT!r}")
    elif task == TEXT:
        pairs, words = text_prompts(model, tokenizer, n, asked.seed, asked.text)
    else:
        loaded = known_tasks.load(task)
        variant = loaded.variant(asked.variant)
        pairs = loaded.pairs(tokenizer, n, seed=asked.seed, split="all", variant=asked.variant)
        words, metric = f"{variant.name} prompts", variant.metric
    return _parted(pairs, words, asked), metric


def _reference(task: str, graph: Graph, asked: Asked) -> dict[str, Any]:
    """The reference circuit of a task, if it is one of this graph, with its roles and where it is known from."""
    if task not in TASKS or (known := load_reference(task, asked.edge_set)).circuit.graph != graph:
        return {}
    return dict(known=known, origin=f"edge set {known.variant}, of {known.model}", roles=_by_node(known.roles))


def _with_circuit(problem: Problem, path: Path) -> Problem:
    """The problem with a saved circuit as the known one."""
    try:
        circuit = Circuit.load(path)
    except OSError as error:
        raise refusal("--circuit", "a saved circuit", f"{str(path)!r}: {error.strerror}") from error
    if circuit.graph != problem.graph:
        raise refusal("--circuit", f"a circuit of {problem.name}, {problem.graph}", str(circuit.graph))
    roles = problem.roles if circuit == problem.circuit else {}
    return replace(problem, known=circuit, origin=f"circuit of {path.name}", roles=roles)


def _by_node(roles: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """From the nodes of each role to the role of each node, in words."""
    return {node: role.replace("_", " ") for role, nodes in roles.items() for node in nodes}


def _other_shape(model_name: str, graph: Graph, tasks: Sequence[str]) -> ValueError:
    def shape(of: Graph) -> str:
        return f"{of.n_layers} layers of {of.n_heads} heads {'with' if of.mlps else 'without'} MLPs"

    known = [load_reference(task) for task in tasks if task in TASKS]
    circuits = "; ".join(f"{each.task} of {each.model}, {shape(each.circuit.graph)}" for each in known) or "none"
    expected = f"one with a known circuit ({circuits})"
    return refusal("model", expected, f"{model_name!r} of {shape(graph)}", "give --circuit FILE with --prompts FILE")
