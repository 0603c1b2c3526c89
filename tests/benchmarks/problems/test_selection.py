"""Problems of real and of planted models, a user's own, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from models import hugging_face
from real_directory import save_real_directory
from toy import EDGES, toy_files, toy_problem

from edge_circuits.benchmarks import planted, trained
from edge_circuits.benchmarks.planted.model import weights_of
from edge_circuits.benchmarks.problems.problem import Problem
from edge_circuits.benchmarks.problems.prompt_sets import sort_pairs
from edge_circuits.benchmarks.problems.selection import open_problems
from edge_circuits.benchmarks.tasks import load
from edge_circuits.graphs import Circuit, Graph, PromptPairs, run


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_real_directory(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="module")
def problem(directory: Path) -> Problem:
    (made,) = open_problems(str(directory), ["ioi"], n_prompts=3, device="cpu", quiet=True)
    return made


@pytest.fixture(scope="module")
def sorter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a tiny GPT-2 of three tokens and eleven positions, without a tokenizer."""
    folder = tmp_path_factory.mktemp("models") / "sorter"
    hugging_face("gpt2", n_layer=1, n_head=2, n_embd=8, n_positions=11, vocab_size=3).save_pretrained(folder)
    return folder


def test_a_real_model_is_given_a_papers_circuit_and_prompts(problem: Problem, directory: Path) -> None:
    assert problem.circuit.n_edges == 963 and problem.graph == problem.circuit.graph
    assert len(problem.pairs) == 3 and problem.prompts == "acdc prompts" and problem.metric_name == "logit_difference"
    assert problem.roles["a9.h9"] == "name mover" and problem.held_out is None
    assert problem.name == f"{directory.name} ioi" and not problem.is_planted


def test_prompts_and_edge_set_can_be_of_others_and_half_of_them_held_out(directory: Path) -> None:
    asked = dict(n_prompts=2, n_held_out=3, variant="acdc", edge_set="autocircuit", device="cpu", quiet=True)
    (made,) = open_problems(str(directory), ["ioi"], **asked, needs_circuit=True)
    assert made.circuit.n_edges == 739 and made.prompts == "acdc prompts"
    assert "autocircuit" in made.origin and (len(made.pairs), len(made.held_out)) == (2, 3)
    pairs = load("ioi").pairs(word_tokenizer(directory), 5, split="all", variant="acdc")
    assert (made.pairs, made.held_out) == pairs.split(2, 0)


def word_tokenizer(directory: Path) -> object:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(directory)


@pytest.mark.parametrize("tasks", [None, ["ioi"]])
def test_a_model_of_another_shape_has_no_known_circuit(tasks: list[str] | None, tmp_path: Path) -> None:
    save_real_directory(tmp_path, n_layer=3, n_head=4)
    message = (
        "model: expected one with a known circuit .*ioi of gpt2, 12 layers of 12 heads.* got .* of 3 layers of 4 heads"
    )
    with pytest.raises(ValueError, match=message):
        open_problems(str(tmp_path), tasks, n_prompts=2, device="cpu", quiet=True, needs_circuit=True)


def test_the_kl_metric_compares_with_the_model_on_the_clean_prompts(problem: Problem) -> None:
    metric = problem.metric_named("kl")
    clean = run(problem.model, problem.circuit | ~problem.circuit, problem.pairs)
    assert torch.allclose(metric(clean, problem.pairs), torch.zeros(3), atol=1e-6)
    assert (metric(clean.flip(-1), problem.pairs) < -1e-3).all()


def test_an_unknown_metric_is_refused(problem: Problem) -> None:
    with pytest.raises(ValueError, match="metric: expected one of .*logit_difference.*'beauty'"):
        problem.metric_named("beauty")


@pytest.mark.parametrize("name", planted.PAPERS)
def test_a_planted_model_brings_its_circuit(name: str, tmp_path: Path) -> None:
    task = planted.planted_task(name)
    weights_of((task,), 0, tmp_path).save(task.new_model(0).original_model, task.training)
    (problem,) = open_problems("planted", [name], n_prompts=4, seed=3, weights=tmp_path)
    assert problem.is_planted and problem.name == f"planted {name}" and problem.metric_name == load(name).metric
    assert problem.circuit == task.circuit and problem.graph == task.graph
    assert problem.pairs == task.pairs(4, seed=3)
    assert set(problem.roles) <= {*task.graph.sources, "logits"} and problem.roles


def test_planted_models_score_on_training_prompts_where_others_are_held_out() -> None:
    task = planted.planted_task("ioi")
    (problem,) = open_problems("planted", ["ioi"], n_prompts=4, n_held_out=4, seed=5, metric="kl", dtype="float64")
    assert problem.pairs == task.pairs(4, seed=5, split="train")
    assert problem.held_out == task.pairs(4, seed=5, split="test")
    assert problem.metric_name == "kl" and next(problem.model.parameters()).dtype == torch.float64


def test_a_training_with_another_seed_has_the_same_circuit_in_other_weights() -> None:
    usual, other = (open_problems(name, ["ioi"], n_prompts=3)[0] for name in ("planted", "planted:1"))
    assert other.is_planted and other.name == "planted:1 ioi" and other.stem == "planted-1-ioi"
    assert other.circuit == usual.circuit and other.pairs == usual.pairs
    assert not torch.equal(next(other.model.parameters()), next(usual.model.parameters()))
    with pytest.raises(ValueError, match="docstring-1.safetensors, got none; run .*planted.train docstring --seed 1"):
        open_problems("planted:1", ["docstring"])
    with pytest.raises(ValueError, match="model: expected the seed of a training behind the colon, got 'x'"):
        open_problems("trained:x")


def test_trained_models_bring_their_tasks() -> None:
    one, other = open_problems("trained", ["number", "pronoun"], n_prompts=3, n_held_out=2, seed=1)
    assert one.model is other.model and (one.name, other.name) == ("trained number", "trained pronoun")
    assert (len(one.pairs), len(one.held_out)) == (3, 2) and one.known is None
    (task,) = [task for task in trained.language_of("grammar").tasks if task.name == "number"]
    assert (one.pairs, one.held_out) == task.pairs(5, 1, "test").split(3, 1)
    with pytest.raises(ValueError, match="task: expected one of 'number', .*, got 'ioi'"):
        open_problems("trained", ["ioi"])
    with pytest.raises(ValueError, match="model: expected one that has a known circuit, got 'trained'; give --circuit"):
        open_problems("trained", needs_circuit=True)
    with pytest.raises(ValueError, match="grammar-7.safetensors.*--seed 7"):
        open_problems("trained:7", ["number"])


def test_trained_models_take_a_users_prompts_and_a_type(tmp_path: Path) -> None:
    path = tmp_path / "mine.csv"
    path.write_text("clean,corrupted,answers,wrong_answers\nthe king runs .,the queen runs .,he,she")
    with pytest.raises(ValueError, match="--tasks: expected the task of the trained model"):
        open_problems("trained", prompts=path)
    (problem,) = open_problems("trained", ["pronoun"], prompts=path, dtype="float64")
    tokenizer = trained.language_of("grammar").tokenizer
    assert problem.prompts == "prompts of mine.csv" and problem.metric_name == "logit_difference"
    assert problem.pairs.clean.tolist() == [tokenizer.encode("the king runs .")]
    assert next(problem.model.parameters()).dtype == torch.float64


def test_without_tasks_all_planted_models_are_meant() -> None:
    assert [problem.task for problem in open_problems("planted", n_prompts=1)] == list(planted.NAMES)


def test_groups_hold_every_prompt_once() -> None:
    problem = toy_problem(n_prompts=7)
    indices = sorted(index for group in problem.pairs.groups(3) for index in group.indices.tolist())
    assert indices == list(range(7))


def test_file_names_have_no_special_characters() -> None:
    problem = toy_problem()
    named = type(problem)(**{**vars(problem), "model_name": "some org/GPT 2*"})
    assert named.stem == "GPT-2--toy"


def test_a_directory_without_tokenizer_sorts(sorter: Path) -> None:
    (one,) = open_problems(str(sorter), n_prompts=3)
    assert (one.name, one.task, one.metric_name) == ("sorter sort", "sort", "logit_difference")
    assert one.pairs == sort_pairs(3) and one.graph == Graph(1, 2) and one.known is None


def test_a_users_prompts_and_circuit(tmp_path: Path) -> None:
    _, model, _, prompts, _, circuit = toy_files(tmp_path)
    own = dict(prompts=Path(prompts), circuit=Path(circuit))
    (one,) = open_problems(model, **own, needs_circuit=True)
    whole = PromptPairs.from_jsonl(prompts)
    assert one.name == "toy mine" and one.pairs == whole and one.held_out is None
    assert one.circuit.edges == Circuit.from_edges(Graph(2, 2), EDGES).edges and one.origin == "circuit of known.json"
    (one,) = open_problems(model, **own, n_prompts=5, n_held_out=100, seed=2)
    assert (one.pairs, one.held_out) == whole[:5].split(2, 2)


def test_a_users_prompts_for_a_planted_model_are_read_with_its_words(tmp_path: Path) -> None:
    task = planted.planted_task("ioi")
    text = task.task.word_tokenizer().decode(task.pairs(1).clean[0].tolist())
    (tmp_path / "mine.csv").write_text(f'clean,corrupted\n"{text}","{text}"\n')
    (one,) = open_problems("planted", ["ioi"], prompts=tmp_path / "mine.csv")
    assert torch.equal(one.pairs.clean, task.pairs(1).clean) and one.circuit == task.circuit


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"tasks": ["ioi"]}, "expected a model with a tokenizer for 'ioi', got .*without one; it can do 'sort'"),
        ({"tasks": ["sorting"]}, "task: expected one of 'sort', 'text', .*'sorting'"),
        ({"n_prompts": 0}, "n_prompts: expected a whole number from 1, got 0"),
        ({"metric": "loss"}, "metric: expected one of .*'loss'"),
        ({"prompts": Path("none.csv")}, "--prompts: expected a CSV or JSON Lines file, got 'none.csv'"),
        ({"circuit": Path("none.json")}, "--circuit: expected a saved circuit, got 'none.json'"),
        ({"needs_circuit": True}, "model: expected one with a known circuit"),
        ({"model_name": "planted", "tasks": ["chess"]}, "planted task: expected one of .*'chess'"),
        ({"model_name": "planted", "prompts": Path("x.csv")}, "--tasks: expected the planted model"),
    ],
)
def test_what_does_not_fit_is_refused(sorter: Path, settings: dict, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        open_problems(**{"model_name": str(sorter), "n_prompts": 2, **settings})


def test_a_circuit_of_another_graph_is_refused(sorter: Path, tmp_path: Path) -> None:
    Circuit.full(Graph(2, 2)).save(tmp_path / "other.json")
    with pytest.raises(ValueError, match="--circuit: expected a circuit of sorter sort, .*1.*got .*2"):
        open_problems(str(sorter), n_prompts=2, circuit=tmp_path / "other.json")
