"""Means over other prompts, and positions that stay when `input` is cut, against the slow reference."""

from __future__ import annotations

import pytest
import torch
from models import build, logit_difference, prompt_pairs, prompts_of, random_circuit, relative_error, tiny
from references import edges

import edge_circuits as ec
from edge_circuits.graphs.model.adapter import adapt

PAIRS = prompt_pairs([7, 4], positions=[-1, 1], seed=1)
OTHERS = prompt_pairs([8, 5, 6], seed=9)
KINDS = ["gpt2", "llama", "gemma2", "layer-norm"]
TOLERANCE = 1e-12  # float64


def rows_of(pairs: ec.PromptPairs) -> list[list[int]]:
    return [row[:n] for row, n in zip(pairs.corrupted.tolist(), pairs.lengths.tolist())]


def literal_logits(kind, circuit, cuts):
    """The circuit's logits at the answers, given what each source is cut to in each prompt."""
    kept, found = set(circuit.edges), []
    for prompt, cut in zip(prompts_of(PAIRS), cuts):

        def read(source, value, destination, cut=cut):
            return value if f"{source}->{destination}" in kept else cut[source]

        found.append(edges.forward(tiny(kind).literal, prompt.clean, read)[1][prompt.position])
    return torch.stack(found)


def circuit_of(kind, density=0.4):
    return random_circuit(adapt(tiny(kind).model).graph, density, seed=6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [ec.Mean, ec.MeanPositional])
def test_they_are_taken_over_the_prompts_given(kind, how):
    others, word = prompts_of(OTHERS), how.word
    longest = max(range(len(others)), key=lambda row: len(others[row].clean))
    whole = edges.cut_values(tiny(kind).literal, others, word)[longest]
    cuts = [{source: value[: len(prompt.clean)] for source, value in whole.items()} for prompt in prompts_of(PAIRS)]
    for means in (how(rows_of(OTHERS)), how(OTHERS), how(OTHERS.corrupted, attention_mask=OTHERS.mask.long())):
        found = ec.run(tiny(kind).model, circuit_of(kind), PAIRS, means)
        assert relative_error(found, literal_logits(kind, circuit_of(kind), cuts)) < TOLERANCE


@pytest.mark.parametrize("how", [ec.Mean, ec.MeanPositional])
def test_over_the_pairs_own_corrupted_prompts_everything_is_as_by_name(how):
    model, circuit = tiny("llama").model, circuit_of("llama")
    means, word = how(PAIRS), how.word
    assert torch.equal(ec.run(model, circuit, PAIRS, means), ec.run(model, circuit, PAIRS, word))
    for method in ("eap", "eap-ig", "exact"):
        found, named = (
            ec.score(model, PAIRS, logit_difference, method, intervention=i, quiet=True) for i in (means, word)
        )
        assert torch.equal(found.scores, named.scores)
        assert found.metadata["settings"]["intervention"] == str(means) and word in str(means)
    found, named = (ec.discover(model, PAIRS, "kl", 0.02, intervention=i, quiet=True) for i in (means, word))
    assert found.trace.values == named.trace.values and found.metadata["intervention"] == str(means)
    values = [ec.measure(model, circuit, PAIRS, logit_difference, i)[0].values for i in (means, word)]
    assert torch.equal(*values)
    own = ec.as_model(model, circuit, None, means)(PAIRS.clean, attention_mask=PAIRS.mask)
    assert torch.equal(
        own.nan_to_num(), ec.as_model(model, circuit, PAIRS, word)(PAIRS.clean, attention_mask=PAIRS.mask).nan_to_num()
    )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("word", ["zero-tokens", "mean-tokens"])
def test_learned_positions_stay_when_input_is_cut_to_the_mean_or_zero_of_tokens(kind, word):
    model, literal = tiny(kind).model, tiny(kind).literal
    table = {"gpt2": "transformer.wpe.weight", "layer-norm": "pos.weight"}.get(kind)
    positions = torch.zeros(20, 1) if table is None else literal.w[table]
    cuts = edges.cut_values(literal, prompts_of(PAIRS), word.removesuffix("-tokens"))
    tokens = torch.cat([literal.embed(p.corrupted) - positions[: len(p.corrupted)] for p in prompts_of(PAIRS)])
    for cut, prompt in zip(cuts, prompts_of(PAIRS)):
        cut["input"] = (tokens.mean(0) if word == "mean-tokens" else 0 * tokens[0]) + positions[: len(prompt.clean)]
        cut["input"] = cut["input"].expand(len(prompt.clean), tokens.shape[1])
    for density in (0.0, 0.4):
        circuit = circuit_of(kind, density)
        found = ec.run(model, circuit, PAIRS, word)
        assert relative_error(found, literal_logits(kind, circuit, cuts)) < TOLERANCE
        by_name = ec.run(model, circuit, PAIRS, word.removesuffix("-tokens"))
        assert (relative_error(found, by_name) < TOLERANCE) == (table is None)
        if word == "mean-tokens":
            means = ec.Mean(PAIRS, keep_positions=True)
            assert torch.equal(ec.run(model, circuit, PAIRS, means), found) and "positions kept" in str(means)


@pytest.mark.parametrize(
    "made", [ec.Mean(OTHERS), ec.MeanPositional(OTHERS), ec.Mean(OTHERS, keep_positions=True)], ids=str
)
def test_they_are_saved_for_their_model_alone(made, tmp_path):
    model, circuit, path = tiny("gpt2").model, circuit_of("gpt2"), tmp_path / "means.safetensors"
    made.of(model).save(path)
    loaded = ec.Mean.load(path)
    assert type(loaded) is type(made) and str(loaded) == str(made)
    assert torch.equal(ec.run(model, circuit, PAIRS, loaded), ec.run(model, circuit, PAIRS, made))
    other = build("gpt2", torch.float64).model
    with torch.no_grad():
        next(other.original_model.parameters())[3, 3] += 1
    with pytest.raises(
        ValueError, match="intervention: expected the model whose means were loaded, .*take means of this model"
    ):
        ec.run(other, circuit, PAIRS, loaded)
    assert not torch.equal(ec.run(other, circuit, PAIRS, made), ec.run(model, circuit, PAIRS, made))
    content = path.read_bytes()
    for changed in (content[:-1] + bytes([content[-1] ^ 1]), content[:-9], b"{}"):
        path.write_bytes(changed)
        with pytest.raises(ValueError, match="means.safetensors"):
            ec.Mean.load(path)


@pytest.mark.usefixtures("without_type_checks")
def test_refusals(tmp_path):
    model, circuit = tiny("gpt2").model, circuit_of("gpt2")
    refused = {
        "Mean: expected means that a model was asked for, got none yet": lambda: ec.Mean(PAIRS).save(tmp_path / "x"),
        "intervention: expected prompts within the 3 positions that have means, got prompts of 7 tokens": lambda: (
            ec.run(model, circuit, PAIRS, ec.MeanPositional([[1, 2, 3]]))
        ),
        "pairs: expected None under fixed mean": lambda: ec.as_model(model, circuit, PAIRS, ec.Mean(PAIRS)),
        "intervention: expected one of 'patching', .*'mean-tokens', got 'median'; or give an ec.Mean": lambda: ec.run(
            model, circuit, PAIRS, "median"
        ),
        "intervention: expected one of .*features know these": lambda: ec.score_features(
            model, ec.neurons(model), PAIRS, "log_probability", intervention=ec.Mean(PAIRS)
        ),
        "keep_positions: expected True or False": lambda: ec.Mean(PAIRS, keep_positions="yes"),
    }
    for message, call in refused.items():
        with pytest.raises(ValueError, match=message):
            call()
    with pytest.raises(FileNotFoundError):
        ec.Mean.load(tmp_path / "nothing")
