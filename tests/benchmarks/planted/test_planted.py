"""Planted models: causal models by hand, the three checks from the shipped weights, and a little training."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from edge_circuits.benchmarks.planted import PAPERS, Planted, docstring, greater_than, load, planted_task
from edge_circuits.benchmarks.planted.attention import at_answer, attention_loss
from edge_circuits.benchmarks.planted.causal import CausalModel, head, sink
from edge_circuits.benchmarks.planted.ioi import OTHER_WORD, SHARPNESS, STRENGTH, VOCABULARY
from edge_circuits.benchmarks.planted.model import PlantedTask, Training
from edge_circuits.benchmarks.planted.train import Losses, Rest, batches, main, train
from edge_circuits.benchmarks.planted.verify import report, verify
from edge_circuits.benchmarks.tasks.docstring import WORD_NOUNS as DOCSTRING_NOUNS
from edge_circuits.benchmarks.tasks.greater_than import WORD_NOUNS
from edge_circuits.benchmarks.weights import shipped
from edge_circuits.graphs import Circuit, PromptPairs, run
from edge_circuits.graphs.model.adapter import adapt

MOST_BYTES = 1_100_000
SHIPPED = shipped("planted")
TINY = Training(steps=30, alone=10, batch_size=16)


@pytest.fixture(autouse=True)
def small_pool(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw few prompts for training at a time."""
    monkeypatch.setattr("edge_circuits.benchmarks.planted.train.POOL", 640)


@pytest.fixture(params=PAPERS)
def task(request: pytest.FixtureRequest) -> PlantedTask:
    """Each planted task, without weights."""
    return planted_task(request.param)


def tiny(name: str = "ioi") -> PlantedTask:
    """The task in a narrow model that trains fast."""
    task = planted_task(name)
    return replace(task, settings={**task.settings, "d_model": 16, "d_head": 4, "d_mlp": 16})


def ioi_pairs(clean: str, corrupted: str) -> PromptPairs:
    """One pair in the small vocabulary; the names are Mary, John, ... as in the text."""
    return PromptPairs([clean], [corrupted], tokenizer=planted_task("ioi").task.word_tokenizer())


# The causal model as such


def add_and_double() -> CausalModel:
    """a0.h0 reads x through <v>; m0 doubles x; the answer is the sum of a0.h0, twice m0 and x."""
    return CausalModel(
        (
            head("a0.h0", lambda v: v[0], v=("input",)),
            sink("m0", lambda inputs: 2 * inputs[0], "input"),
            sink("logits", lambda inputs: inputs[0] + 2 * inputs[1] + inputs[2], "a0.h0", "m0", "input"),
        )
    )


def test_edges_are_what_the_variables_read() -> None:
    model = add_and_double()
    assert model.edges == ("input->a0.h0<v>", "input->m0", "a0.h0->logits", "m0->logits", "input->logits")
    assert model.sources == ("input", "a0.h0", "m0")
    assert model.out_edges("input") == ("input->a0.h0<v>", "input->m0", "input->logits")


@pytest.mark.parametrize(
    ("cut", "answer"),
    [
        ((), 1 + 4 + 1),
        (("input->m0",), 1 + 40 + 1),
        (("m0->logits",), 1 + 40 + 1),
        (("input->a0.h0<v>", "input->logits"), 10 + 4 + 10),
        (("input->m1",), 1 + 4 + 1),
    ],
)
def test_a_cut_edge_carries_the_corrupted_value(cut: tuple[str, ...], answer: float) -> None:
    logits = add_and_double().logits(torch.tensor([[1.0]]), torch.tensor([[10.0]]), cut)
    assert logits.item() == answer


def test_nothing_cut_is_the_clean_answer_and_everything_cut_the_corrupted_one(task: PlantedTask) -> None:
    pairs = task.pairs(40)
    assert torch.equal(task.target(pairs), task.target(pairs.swapped(), task.causal.edges))
    assert torch.equal(task.target(pairs, task.causal.edges), task.target(pairs.swapped()))


def test_causal_model_answers_its_task(task: PlantedTask) -> None:
    pairs = task.pairs(200)
    right = pairs.answers == task.target(pairs).argmax(-1, keepdim=True)
    assert right.any(1).all()


def test_circuit_is_live_and_leaves_heads_to_reject(task: PlantedTask) -> None:
    circuit = task.circuit
    assert circuit.is_live
    assert circuit.n_edges == len(task.causal.edges) < task.graph.n_edges / 20
    assert {node for nodes in task.roles.values() for node in nodes} == set(circuit.nodes) - {"input", "logits"}


# IOI by hand


def test_ioi_by_hand() -> None:
    pairs = ioi_pairs(
        "Then, Jessica and Joshua had a long argument, and afterwards Joshua said to",
        "Then, Amanda and Daniel had a long argument, and afterwards Amanda said to",
    )
    logits = planted_task("ioi").target(pairs)[0]
    taken = torch.sigmoid(torch.tensor(2.0 * SHARPNESS)).item()  # both S-inhibition heads name the second name
    assert logits[VOCABULARY.index("Jessica")].item() == pytest.approx(2 * STRENGTH * taken)
    assert logits[VOCABULARY.index("Joshua")].item() == pytest.approx(2 * STRENGTH * (1 - taken), rel=1e-5)
    assert logits[VOCABULARY.index("Amanda")].item() == 0
    assert logits[VOCABULARY.index("said")].item() == OTHER_WORD


@pytest.mark.parametrize(
    ("cut", "evidence"),
    [
        (("a1.h0->a2.h2<q>", "a1.h0->a2.h5<q>"), 1),  # one S-inhibition head names somebody else
        (("input->a1.h0<v>",), 1),
        (("input->a1.h0<v>", "input->a1.h3<v>"), 0),
    ],
)
def test_ioi_evidence_by_hand(cut: tuple[str, ...], evidence: float) -> None:
    pairs = ioi_pairs(
        "Then, Jessica and Joshua had a long argument, and afterwards Joshua said to",
        "Then, Amanda and Daniel had a long argument, and afterwards Amanda said to",
    )
    logits = planted_task("ioi").target(pairs, cut)[0]
    taken = torch.sigmoid(torch.tensor(SHARPNESS * evidence)).item()
    assert logits[VOCABULARY.index("Jessica")].item() == pytest.approx(2 * STRENGTH * taken)


# Greater-Than by hand


@pytest.mark.parametrize(
    ("cut", "numbers"),
    [
        ((), (50, 50)),
        (("m1->logits",), (20, 50)),
        (("m1->m2",), (50, 35)),
        (("a0.h2->m1",), (40, 45)),
        (("input->a1.h1<v>",), (45, 47.5)),
    ],
)
def test_greater_than_by_hand(cut: tuple[str, ...], numbers: tuple[float, float]) -> None:
    task = greater_than.PLANTED
    text = "The {} lasted from the year {} to {}"
    pairs = PromptPairs(
        [text.format(WORD_NOUNS[0], 1750, 17)],
        [text.format(WORD_NOUNS[0], 1320, 13)],
        tokenizer=task.task.word_tokenizer(),
    )
    logits = task.target(pairs, cut)[0]
    for year in (1, 19, 36, 46, 51, 98):
        above = sum(math.tanh((year - number - 0.5) / greater_than.WIDTH) for number in numbers)
        expected = greater_than.STRENGTH * above
        assert logits[greater_than.FIRST_YEAR + year].item() == pytest.approx(expected, abs=1e-5)


# Docstring by hand


NOUN = DOCSTRING_NOUNS[0]


def docstring_text(*names: str) -> str:
    """A method and its five arguments, of which the docstring has named the second and the third."""
    method, a, b, c, d, e = names
    documented = f":param {b}: {NOUN}\n    :param {c}: {NOUN}\n    :param"
    return f'\ndef {method}(self, {a}, {b}, {c}, {d}, {e}):\n    """{NOUN} {NOUN}\n\n    {documented}'


@pytest.mark.parametrize(
    ("cut", "matches"),
    [
        ((), (1, 1)),
        (("a1.h0->a2.h0<k>",), (0.5, 1)),
        (("a0.h5->a1.h0<v>",), (0.5, 0.5)),
        (("input->a1.h4<v>",), (0.5, 0.5)),
        (("a1.h4->a2.h6<q>",), (1, 0)),
    ],
)
def test_docstring_by_hand(cut: tuple[str, ...], matches: tuple[float, float]) -> None:
    task, names = docstring.PLANTED, docstring.WORD_IDENTIFIERS
    pairs = PromptPairs(
        [docstring_text(*names[:6])], [docstring_text(*names[6:12])], tokenizer=task.task.word_tokenizer()
    )
    logits = task.target(pairs, cut)[0]
    taken = [math.exp(docstring.SHARPNESS * match) / (math.exp(docstring.SHARPNESS * match) + 4) for match in matches]
    answer, other, noun = (docstring.VOCABULARY.index(word) for word in (names[4], names[1], NOUN))
    assert logits[answer].item() == pytest.approx(docstring.STRENGTH * sum(taken), abs=1e-5)
    assert logits[other].item() == pytest.approx(docstring.STRENGTH * sum((1 - part) / 4 for part in taken), abs=1e-5)
    assert logits[noun].item() == docstring.OTHER_WORD


def test_docstring_heads_are_to_look_at_names_by_hand() -> None:
    names = docstring.WORD_IDENTIFIERS[:6]
    words = docstring.TASK.word_tokenizer()
    tokens = torch.tensor([words.encode(docstring_text(*names))])
    texts = [words.decode([token]).strip() for token in tokens[0].tolist()]
    attends = docstring.attends(tokens, torch.tensor([len(texts) - 1]))

    def looks(head: str) -> list[tuple[str, str]]:
        return [(texts[query], texts[key]) for _, query, key in attends[head].nonzero().tolist()]

    arguments = list(names[1:])
    assert looks(docstring.EARLY) == [(name, name) for name in (*arguments, names[3])]
    assert looks(docstring.CARRIER) == [("param", names[3])]
    assert all(looks(head) == list(zip(arguments[1:], arguments)) for head in docstring.MARKERS)
    assert all(looks(head) == [("param", names[4])] for head in docstring.MOVERS)


# The shipped weights


@pytest.fixture(scope="module", params=PAPERS)
def planted(request: pytest.FixtureRequest) -> Planted:
    """Each planted model with its shipped weights."""
    return load(request.param)


def test_shipped_circuit_is_the_circuit(planted: Planted) -> None:
    result = verify(planted, n_prompts=256, quiet=True)
    assert result.passed, report(result)
    assert result.accuracy >= 0.97 and result.corrupted_accuracy <= 0.6


def test_shipped_weights_are_small_and_say_how_they_were_made(planted: Planted) -> None:
    path = SHIPPED / f"{planted.task.name}-0.safetensors"
    about = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
    assert path.stat().st_size < MOST_BYTES
    assert about["command"].startswith(f"python -m edge_circuits.benchmarks.planted.train {planted.task.name} ")
    assert Training(**about["training"]) == planted.task.training
    assert about["edges"] == list(planted.circuit.edges) or set(about["edges"]) == set(planted.circuit.edges)


def test_what_is_outside_the_circuit_is_not_dead(planted: Planted) -> None:
    pairs = planted.task.pairs(64)
    outside = run(planted.model, ~planted.circuit, pairs)
    nothing = run(planted.model, Circuit.empty(planted.task.graph), pairs)
    assert (outside - nothing).abs().max() > 0.1


def test_checks_fail_for_an_untrained_model(task: PlantedTask) -> None:
    result = verify(Planted(task.new_model(seed=0), task.circuit, task), n_prompts=64, quiet=True)
    assert not result.each_edge_matters and not result.passed
    assert "matters, by" in report(result) and ": NO" in report(result)


def test_checks_fail_for_another_circuit(planted: Planted) -> None:
    without = planted.circuit - Circuit.from_edges(planted.circuit.graph, planted.task.causal.edges[-1:])
    assert not verify(planted._replace(circuit=without), n_prompts=64, quiet=True).nothing_else_matters


@pytest.mark.parametrize("seed", [1, 2])
def test_other_trainings_of_ioi_have_the_circuit_too(seed: int) -> None:
    result = verify(load("ioi", seed=seed), n_prompts=256, quiet=True)
    assert result.passed and result.accuracy >= 0.97, report(result)


# Training


def test_training_lowers_the_loss_and_repeats_itself() -> None:
    (model, _), (again, _) = (train((tiny(),), TINY, quiet=True) for _ in range(2))
    batch = next(batches(tiny(), TINY))
    before, after = (
        Losses(tiny(), TINY)(each, batch, step=TINY.alone)["whole"] for each in (tiny().new_model(TINY.seed), model)
    )
    assert after < before - 0.2  # nats, from 4.1
    assert all(torch.equal(*both) for both in zip(model.parameters(), again.parameters()))


def test_the_rest_is_silent_while_the_circuit_is_planted() -> None:
    alone, _ = train((tiny(),), replace(TINY, steps=10), quiet=True)
    batch = next(batches(tiny(), TINY))
    everything = Circuit.full(tiny().graph)
    within = Circuit.from_edges(tiny().graph, [edge for edge in everything.edges if _is_within(edge, tiny().circuit)])
    with torch.no_grad():
        assert torch.allclose(run(alone, everything, batch), run(alone, within, batch), atol=1e-5)
        rest = Rest(alone, tiny().circuit)
        rest.wake(0.1, seed=0)
        assert not torch.allclose(run(alone, everything, batch), run(alone, within, batch), atol=1e-2)
        rest.silence()
        assert torch.allclose(run(alone, everything, batch), run(alone, within, batch), atol=1e-5)


def _is_within(edge: str, circuit: Circuit) -> bool:
    return edge.split("->")[0] in circuit.nodes


def test_attention_loss_by_hand() -> None:
    batch = next(batches(tiny(), TINY))
    transformer = adapt(tiny().new_model(0).requires_grad_(False))
    for block in transformer.blocks:
        block.attention.W_Q.zero_()  # so each query looks at all keys it sees alike
    activations = transformer.forward(transformer.embed(batch.corrupted), batch.positions[:, None])
    first = torch.zeros_like(batch.corrupted, dtype=torch.bool)
    first[:, :2] = True
    attends = {"a0.h1": at_answer(batch.positions, first), "a2.h5": at_answer(batch.positions, first)}
    expected = (batch.positions + 1).log().mean() - math.log(2)
    assert attention_loss(transformer, activations, batch.positions, attends) == pytest.approx(
        expected.item(), abs=1e-5
    )


def test_losses_vanish_for_a_model_that_follows_the_causal_model(planted: Planted) -> None:
    training = planted.task.training
    losses = Losses(planted.task, training)
    for batch in [batch for batch, _ in zip(batches(planted.task, TINY), range(4))]:
        parts = losses(planted.model, batch, step=training.alone)
        assert parts["whole"] < 0.1 and parts["circuit, cut"] < 0.3


def test_command_writes_weights_that_load(tmp_path: Path) -> None:
    main(["ioi", "--out", str(tmp_path / "new"), "--steps", "1", "--seed", "3", "--quiet"])
    about = json.loads((tmp_path / "new" / "ioi-3.json").read_text(encoding="utf-8"))
    assert about["training"]["seed"] == 3 and "--seed 3 --steps 1" in about["command"]
    one, shipped = load("ioi", tmp_path / "new", 3).model, load("ioi").model
    assert not torch.equal(next(one.parameters()), next(shipped.parameters()))
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == ["ioi-3.json", "ioi-3.safetensors"]


def test_weights_of_another_circuit_are_refused(tmp_path: Path) -> None:
    for name in ("ioi-0.json", "ioi-0.safetensors"):
        (tmp_path / name).write_bytes((SHIPPED / name).read_bytes())
    about = json.loads((tmp_path / "ioi-0.json").read_text(encoding="utf-8"))
    (tmp_path / "ioi-0.json").write_text(json.dumps(about | {"edges": about["edges"][1:]}), encoding="utf-8")
    with pytest.raises(ValueError, match="got some with other edges; run python -m .*planted.train ioi --seed 0"):
        load("ioi", tmp_path)


def test_missing_weights_and_unknown_names_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got none; run python -m edge_circuits.benchmarks.planted.train ioi --seed 0"):
        load("ioi", tmp_path)
    with pytest.raises(ValueError, match="expected one of 'ioi'.*got 'sorting'"):
        load("sorting")
