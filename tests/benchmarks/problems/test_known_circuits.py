"""Problems of real and of planted models, with what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import hugging_face
from real_directory import save_real_directory, word_level_tokenizer
from toy import toy_problem

from edge_circuits.benchmarks import planted
from edge_circuits.benchmarks.planted.weights import save
from edge_circuits.benchmarks.problems.known_circuits import Problem, planted_problems, reference_problems
from edge_circuits.benchmarks.tasks import load
from edge_circuits.graphs import run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real_directory(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def problem(directory: Path) -> Problem:
    (made,) = reference_problems(str(directory), ["ioi"], n_prompts=3, seed=0, device="cpu", quiet=True)
    return made


def test_a_real_model_is_given_a_papers_circuit_and_prompts(problem: Problem, directory: Path) -> None:
    assert problem.circuit.n_edges == 963 and problem.graph == problem.circuit.graph
    assert len(problem.pairs) == 3 and problem.prompts == "acdc prompts" and problem.metric == "logit_difference"
    assert problem.roles["a9.h9"] == "name mover"
    assert problem.name == f"{directory.name} ioi" and not problem.is_planted


def test_prompts_and_edge_set_can_be_of_others(directory: Path) -> None:
    (made,) = reference_problems(
        str(directory), ["ioi"], n_prompts=2, seed=0, variant="mib", edge_set="autocircuit", device="cpu", quiet=True
    )
    assert made.circuit.n_edges == 739 and made.prompts == "mib prompts" and "autocircuit" in made.origin


@pytest.mark.parametrize("tasks", [None, ["ioi"]])
def test_a_model_of_another_shape_is_refused(tasks: list[str] | None, tmp_path: Path) -> None:
    hugging_face("gpt2").save_pretrained(tmp_path)
    word_level_tokenizer(["Mary"]).save_pretrained(tmp_path)
    message = "has 3 layers of 4 heads with MLPs, and no circuit of such a model is known .*ioi of gpt2, 12 layers of 12 heads"
    with pytest.raises(ValueError, match=message):
        reference_problems(str(tmp_path), tasks, n_prompts=2, seed=0, device="cpu", quiet=True)


def test_the_kl_metric_compares_with_the_model_on_the_clean_prompts(problem: Problem) -> None:
    metric = problem.metric_named("kl")
    clean = run(problem.model, problem.circuit | ~problem.circuit, problem.pairs)
    assert torch.allclose(metric(clean, problem.pairs), torch.zeros(3), atol=1e-6)
    assert (metric(clean.flip(-1), problem.pairs) < -1e-3).all()


def test_an_unknown_metric_is_refused(problem: Problem) -> None:
    with pytest.raises(ValueError, match="metric: expected one of logit_difference, .*came 'beauty'"):
        problem.metric_named("beauty")


@pytest.mark.parametrize("name", planted.NAMES)
def test_a_planted_model_brings_its_circuit(name: str, tmp_path: Path) -> None:
    task = planted.planted_task(name)
    save(task, task.new_model(0), task.training, tmp_path)
    (problem,) = planted_problems([name], n_prompts=4, seed=3, folder=tmp_path)
    assert problem.is_planted and problem.name == f"planted {name}" and problem.metric == load(name).metric
    assert problem.circuit == task.circuit and problem.graph == task.graph
    assert problem.pairs == task.pairs(4, seed=3)
    assert set(problem.roles) <= {*task.graph.sources, "logits"} and problem.roles


def test_without_tasks_all_planted_models_are_meant(monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_circuits.benchmarks.problems import known_circuits

    asked = []
    monkeypatch.setattr(known_circuits, "_planted", lambda name, *rest: asked.append(name) or toy_problem())
    planted_problems(n_prompts=1, seed=0)
    assert asked == list(planted.NAMES)


def test_an_unknown_planted_task_is_refused() -> None:
    with pytest.raises(ValueError, match="planted task: expected one of .*, came 'chess'"):
        planted_problems(["chess"], n_prompts=1, seed=0)


def test_groups_hold_every_prompt_once() -> None:
    problem = toy_problem(n_prompts=7)
    indices = sorted(index for group in problem.pairs.groups(3) for index in group.indices.tolist())
    assert indices == list(range(7))


def test_file_names_have_no_special_characters() -> None:
    problem = toy_problem()
    named = type(problem)(**{**vars(problem), "model_name": "some org/GPT 2*"})
    assert named.stem == "GPT-2--toy"
