"""The study of features on the grammar model: what is known, dictionaries as they are written, tables and pictures."""

from __future__ import annotations

import argparse
import csv
import json
from pathlib import Path

import pytest
import torch
from models import hugging_face
from real_directory import word_level_tokenizer
from tqdm import tqdm

from edge_circuits.benchmarks.features import study, train
from edge_circuits.benchmarks.features.known import known_area, telling
from edge_circuits.benchmarks.features.prompts import ENGLISH, agreement
from edge_circuits.benchmarks.features.study import GRAMMAR, main, results, subject
from edge_circuits.benchmarks.trained import load
from edge_circuits.graphs import metrics
from edge_circuits.graphs.features.dictionary import Coordinates
from edge_circuits.graphs.features.nodes import ERROR, FeatureNodes
from edge_circuits.graphs.features.reading import read_dictionaries
from edge_circuits.graphs.features.running import run_features
from edge_circuits.graphs.features.sites import Site

FORMS = (*ENGLISH.nouns, *ENGLISH.verbs, *ENGLISH.with_object)
WORDS = (*(form for forms in FORMS for form in forms), *ENGLISH.prepositions)


def test_the_shipped_dictionaries_explain_the_grammar_model() -> None:
    trained, dictionaries = load("grammar"), read_dictionaries(train.SHIPPED)
    assert [each.site for each in dictionaries] == [
        Site(kind, n) for n in range(3) for kind in ("attention_out", "mlp_out")
    ]
    found = dict(train.values(trained, 60, seed=5))
    for dictionary in dictionaries:
        told = json.loads(
            (train.SHIPPED / train.FOLDERS[dictionary.site.kind].format(dictionary.site.layer) / "cfg.json").read_text()
        )
        assert train.quality(dictionary, found[dictionary.site])["explained"] == pytest.approx(
            told["explained"], abs=0.02
        )
        assert told["explained"] > 0.95
        active = (dictionary.encode(found[dictionary.site]) > 0).sum(1)
        assert active.max() <= train.K


def test_training_explains_more_and_is_written_as_it_is_read(tmp_path: Path) -> None:
    trained = load("grammar")
    site, x = next(iter(train.values(trained, 40, seed=0)))
    before, after = (train.train(site, x, steps, seed=0, quiet=True) for steps in (1, 60))
    assert train.quality(before, x)["explained"] < train.quality(after, x)["explained"] < 1
    train.save(after, tmp_path, {})
    (read,) = read_dictionaries(tmp_path)
    assert read.site == site and torch.equal(read.encode(x), after.encode(x))


def test_what_tells_the_number_is_known() -> None:
    """At the noun the embedding tells it by some coordinate, before the noun nothing does."""
    trained = load("grammar")
    drawn = agreement("across a phrase", 120, trained.language.tokenizer, GRAMMAR, split="all")
    both = [Coordinates(Site("embed"), 64), Coordinates(Site("resid_post", 2), 64)]
    at_start, at_end = telling(trained.model, both, drawn)
    assert at_start.shape == (len(drawn.pairs.clean[0]), 64)
    assert (at_start[:2] == 0.5).all()
    assert at_start[2].max() > 0.75 > at_start[5].max()  # the second noun's number is independent
    assert at_end[-1].max() > 0.95
    one = telling(trained.model, both[:1], drawn)[0][2]
    values = trained.model.original_model.get_input_embeddings()
    plural = drawn.numbers == 1
    x = torch.stack([values(row[2]) for row in drawn.pairs.clean])[:, 5]
    pairs = (x[plural][:, None] > x[~plural]).double() + 0.5 * (x[plural][:, None] == x[~plural])
    area = max(pairs.mean().item(), 1 - pairs.mean().item())
    assert area == pytest.approx(one[5].item(), abs=0.05)  # positions add the same number to all


def test_the_area_for_known_features_counts_those_that_were_not_scored() -> None:
    tells = [torch.tensor([[1.0, 0.95, 0.6, 0.7, 0.5]])]
    index = torch.tensor([(0, 0, 0), (0, 0, 2), (0, 0, ERROR)])
    nodes = FeatureNodes((Site("mlp_out", 0),), (5,), index, torch.tensor([-3.0, 2.0, 9.0]))
    area, n_known, n_others = known_area(nodes, tells)  # known: 3 and 0; others: 2 and 0
    assert (n_known, n_others) == (2, 2)
    assert area == pytest.approx((1 + 1 + 0 + 0.5) / 4)


@pytest.mark.parametrize("structure", ["within a clause"])
def test_points_of_a_result_are_runs_on_held_out_prompts(structure: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(study, "SIZES", (3, 10))
    monkeypatch.setattr(study, "against_known", lambda *_: {"relp": {}})
    asked = subject("grammar", None, 1)
    given = argparse.Namespace(
        structures=[structure], n_prompts=12, seed=0, intervention="mean-positional", errors="kept"
    )
    features, plain = results(asked, ["relp"], given, tqdm(disable=True))
    assert (features.granularity, plain.granularity) == ("features", "heads and neurons")
    assert {site.layer for site in features.scores.sites} == {1, 2}
    test = agreement(structure, study.N_TEST, asked.tokenizer, asked.words, split="test")
    logits = run_features(
        asked.model, asked.nodes["features"], features.scores.top(10), test.pairs, "mean-positional", errors="kept"
    )
    expected = metrics.logit_difference(logits, test.pairs).double()
    assert torch.allclose(features.curve.values[1], expected, atol=1e-4)


@pytest.mark.slow
def test_the_command_writes_tables_and_a_picture(
    tmp_path: Path, capsys: pytest.CaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study, "N_EXACT", 2)
    words = ["--structures", "simple", "--methods", "relp", "eap-ig:steps=2", "--n-prompts", "8", "--quiet"]
    assert main([*words, "--out", str(tmp_path)]) == 0
    told = capsys.readouterr().out
    assert "faithfulness over the number of nodes" in told and "heads and neurons  eap-ig:steps=2" in told
    rows = list(csv.DictReader((tmp_path / "features.csv").open()))
    assert len(rows) == 2 * 2 * len(study.SIZES) and {row["structure"] for row in rows} == {"simple"}
    ig = next(row for row in rows if row["granularity"] == "features" and row["method"] != "relp")
    assert int(ig["backward_passes"]) == 2 * 6
    best = [row for row in rows if row["granularity"] == "features" and row["size"] == "1000"]
    assert all(abs(float(row["faithfulness"]) - 1) < 0.01 for row in best)
    assert (tmp_path / "features.png").stat().st_size > 10_000


def test_what_cannot_be_asked_is_refused(capsys: pytest.CaptureFixture) -> None:
    for words, message in (
        (["--dictionaries", "/nowhere"], "expected a folder with dictionaries, found none"),
        (["--methods", "nothing"], "method: expected one of"),
        (["--from-layer", "-1"], "--from-layer: expected a whole number from 0"),
        (["--from-layer", "9"], "expected one or more"),
    ):
        assert main([*words, "--quiet", "--structures", "simple"]) == 2
        assert message in capsys.readouterr().err


def test_a_model_of_a_directory_with_dictionaries_as_marks_et_al_publish_them(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """A GPT-NeoX with parallel blocks, as Pythia, and a dictionary at each of its sites in dictionary_learning's layout."""
    tokenizer = word_level_tokenizer([*WORDS, "The", "the", "that"])
    tokenizer.save_pretrained(tmp_path / "model")
    hugging_face("neox-parallel", vocab_size=len(tokenizer)).save_pretrained(tmp_path / "model")
    generator = torch.Generator().manual_seed(0)
    names = ["embed", *(f"{kind}_out_layer{n}" for n in range(2) for kind in ("attn", "mlp", "resid"))]
    shapes = {"encoder.weight": (40, 32), "encoder.bias": (40,), "decoder.weight": (32, 40), "bias": (32,)}
    for name in names:
        (folder := tmp_path / "dictionaries" / name / "10_40").mkdir(parents=True)
        torch.save(
            {key: 0.2 * torch.randn(shape, generator=generator) for key, shape in shapes.items()}, folder / "ae.pt"
        )
    model, dictionaries = str(tmp_path / "model"), str(tmp_path / "dictionaries")
    found = subject(model, tmp_path / "dictionaries", 0, quiet=True).nodes["features"]
    kinds = ("attention_out", "mlp_out", "resid_post")
    assert [each.site for each in found] == [Site("embed"), *(Site(kind, n) for n in range(2) for kind in kinds)]
    words = ["--model", model, "--dictionaries", dictionaries, "--from-layer", "1", "--n-prompts", "6", "--quiet"]
    assert main([*words, "--structures", "across a phrase", "--methods", "relp", "eap-ig:steps=2"]) == 0
    told = capsys.readouterr().out
    costs = told[told.index("cost, and") :]
    assert [line.split()[2] for line in costs.splitlines() if line.startswith("features")] == [
        "1",
        "6",
    ]  # 3 sites, 2 steps


def test_the_guides_example_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    page = (Path(__file__).parents[3] / "docs" / "features.md").read_text()
    names: dict[str, object] = {}
    exec(compile(page.split("```python\n")[1].split("```")[0], "features.md", "exec"), names)
    assert names["curve"].faithfulness[-1] > 0.9 and len(names["nodes"]) == 20 and names["logits"].isfinite().all()
    assert (tmp_path / "features.svg").read_text().startswith("<svg")
