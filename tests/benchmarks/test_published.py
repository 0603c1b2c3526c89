"""Published figures come out of the published data, and one that does not is told."""

from __future__ import annotations

import json

import pytest
import torch

from edge_circuits.benchmarks import published
from edge_circuits.benchmarks.published import (
    Figure,
    Row,
    figures,
    main,
    published_points,
    published_roc,
    published_scores,
)


@pytest.fixture(scope="module")
def score_rows() -> list[Row]:
    return published.score_rows()


@pytest.fixture(scope="module")
def point_rows() -> list[Row]:
    return published.point_rows()


def test_every_figure_comes_out(score_rows: list[Row], point_rows: list[Row]) -> None:
    assert (len(score_rows), len(point_rows)) == (51, 86)
    differing = [(row.labels, figure) for row in score_rows + point_rows for figure in row.figures if not figure.agrees]
    assert differing == []


@pytest.mark.parametrize(
    ("labels", "auc"),
    [
        (("ioi", "EAP-IG", "acdc", "all", "32491", "963"), 0.868),
        (("ioi", "EAP-IG", "acdc", "no-input", "32046", "905"), 0.879),
        (("ioi", "EAP-IG", "autocircuit", "all", "32491", "739"), 0.883),
        (("ioi", "EAP-IG", "acdc", "acdc (sum)", "32923", "1041"), 0.870),
        (("ioi", "EAP-IG", "acdc", "acdc (max)", "32923", "1041"), 0.871),
        (("ioi", "EAP-IG", "acdc", "eap-repository (sum)", "33367", "1131"), 0.875),
        (("greater_than", "EAP", "acdc", "all", "32491", "235"), 0.908),
        (("greater_than", "EAP-IG", "acdc", "all", "32491", "235"), 0.900),
        (("greater_than", "exact patching", "acdc", "all", "32491", "235"), 0.913),
        (("ioi", "uniform gradient sampling", "acdc", "all", "32491", "963"), 0.944),
        (("greater_than", "uniform gradient sampling", "acdc", "all", "32491", "235"), 0.941),
    ],
)
def test_aucs_of_edge_scores(score_rows: list[Row], labels: tuple[str, ...], auc: float) -> None:
    (row,) = (row for row in score_rows if row.labels == labels)
    assert round(row.figures[0].here, 3) == auc


@pytest.mark.parametrize(
    ("points", "stairs", "trapezoid"),
    [
        ("ioi-acdc-kl-random-2024-10", 0.869, 0.886),
        ("ioi-acdc-task-random-2024-10", 0.589, 0.670),
        ("docstring-acdc-kl-random-2024-10", 0.982, 0.985),
        ("docstring-acdc-task-random-2024-10", 0.972, 0.977),
        ("greater_than-acdc-kl-random-2024-10", 0.853, 0.910),
        ("greater_than-acdc-task-random-2024-10", 0.461, 0.559),
    ],
)
def test_aucs_of_the_acdc_paper(points: str, stairs: float, trapezoid: float) -> None:
    roc = published_roc(points)
    # The published figure is rounded to three digits.
    assert roc.stairs_auc == pytest.approx(stairs, abs=5.1e-4)
    assert roc.trapezoid_auc == pytest.approx(trapezoid, abs=5.1e-4)


def test_headline_rows_are_the_paper_s_six_and_no_mask_learning(score_rows: list[Row], point_rows: list[Row]) -> None:
    assert sum(row.is_headline for row in point_rows) == 6
    assert not any("uniform gradient sampling" in row.labels for row in score_rows if row.is_headline)


def test_scores_are_in_edge_order() -> None:
    scored = published_scores("ioi_eap_ig")
    # Read off the file of the repository by name.
    assert scored.score("input->a0.h0<q>") == pytest.approx(-2.9558488e-04, rel=1e-6)
    assert scored.score("input->a0.h0<k>") == pytest.approx(-3.6612460e-06, rel=1e-6)
    assert scored.score("a11.h10->logits") == pytest.approx(9.1480635e-02, rel=1e-6)
    assert scored.score("m11->logits") == pytest.approx(-2.1074126e-03, rel=1e-6)
    assert scored.metadata["task"] == "ioi"


def test_points_begin_and_end_at_the_corners() -> None:
    thresholds, false_positive_rates, true_positive_rates = published_points("ioi-acdc-kl-random-2024-10")
    assert false_positive_rates[[0, -1]].tolist() == true_positive_rates[[0, -1]].tolist() == [0, 1]
    assert thresholds[[0, -1]].isnan().all() and (thresholds[1:-1] >= 1e-6).all()
    assert published_points("ioi-acdc-kl-random-2024-10", "node").shape == (3, len(thresholds))


def test_a_figure_agrees_when_rounding_gives_it() -> None:
    assert Figure("AUC", 0.86849, 0.868, 3).agrees
    assert not Figure("AUC", 0.8686, 0.868, 3).agrees
    assert Figure("AUC", 0.86854, 0.8685, 4).agrees
    assert not Figure("AUC", 0.8686, 0.8685, 4).agrees


def test_the_table_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    first = shortened(published.figures())
    monkeypatch.setattr(published, "figures", lambda: first)
    assert main([]) == 0
    printed = capsys.readouterr().out
    assert "ioi   EAP-IG  acdc     all       32491  963       0.8677 0.8677  0.3022 0.3022" in printed
    assert "0.8950" in printed and "3 of 3" not in printed and "2 of 2 figures come out." in printed


def test_a_figure_that_does_not_come_out_is_marked(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = shortened(published.figures())
    wrong["edge_scores"][0]["auc"] = 0.8687
    monkeypatch.setattr(published, "figures", lambda: wrong)
    assert main([]) == 1
    printed = capsys.readouterr().out
    assert "0.8677 0.8687 *" in printed and "1 of 2 figures come out; * marks the others." in printed


def shortened(every: dict) -> dict:
    """A copy with the first row of edge scores alone, and no points."""
    copy = json.loads(json.dumps(every))
    return copy | {"edge_scores": copy["edge_scores"][:1], "points": []}


def test_terms_are_shipped_with_the_data() -> None:
    notice = (published.FOLDER / "NOTICE").read_text(encoding="utf-8")
    assert "Copyright 2023 Arthur Conmy" in notice and "Permission is hereby granted" in notice
    assert all(name in notice for name in published.SCORES)
    assert "Apache License" in (published.FOLDER / "LICENSE-APACHE-2.0").read_text(encoding="utf-8")
    assert sum(path.stat().st_size for path in published.FOLDER.iterdir()) < 1.5e6


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ValueError, match="scores: expected one of 'ioi_eap_ig', 'greater_than_eap', .*, got 'ioi_eap'"):
        published_scores("ioi_eap")
    with pytest.raises(
        ValueError, match="edge points: expected one of docstring-acdc-kl-random-2023-08, .*, got 'ioi-acdc-kl'"
    ):
        published_points("ioi-acdc-kl")


def test_every_set_of_points_can_be_read() -> None:
    for entry in figures()["points"]:
        points = published_points(entry["points"], entry["level"])
        assert points.shape[0] == 3 and points.dtype == torch.double
