"""Maps of layers and positions: what stands in them, their agreement, and their picture."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from pathlib import Path

import pytest
import torch
from models import curved, prompt_pairs, tiny

from edge_circuits.eap.node_scores import score_nodes
from edge_circuits.eap.position_map import Place, PositionMap, position_map
from edge_circuits.graphs import PromptPairs

SVG = "{http://www.w3.org/2000/svg}"
PAIR = prompt_pairs([5])


def mapped(kind: str = "gpt2", pairs: PromptPairs = PAIR, **settings: object) -> PositionMap:
    return position_map(tiny(kind).model, pairs, curved, quiet=True, **settings)


def test_maps_are_the_means_of_node_scores() -> None:
    pairs = prompt_pairs([4, 4, 4], positions=[-1, -2, 0])
    found = mapped("llama", pairs)
    assert found.positions == ("0", "1", "2", "3") and len(found.maps) == 3 * 2 * 3
    for (kind, direction, method), values in found.maps.items():
        scores = score_nodes(tiny("llama").model, pairs, curved, method, direction, quiet=True)
        assert torch.equal(values, scores.per_prompt[kind].mean(0))


def test_prompts_of_several_lengths_are_aligned_by_span() -> None:
    plain = prompt_pairs([5, 3])
    rows = [[side[row, :n].tolist() for row, n in enumerate((5, 3))] for side in (plain.clean, plain.corrupted)]
    spans = {"name": [(1, 3), 0], "end": [-1, -1]}
    found = mapped(pairs=PromptPairs(*rows, plain.answers, plain.wrong_answers, spans=spans))
    assert found.positions == ("name", "end", "rest")
    each = score_nodes(tiny("gpt2").model, plain, curved, "exact", quiet=True).per_prompt["mlp_out"].nan_to_num()
    by_hand = (each[0, :, 1:3].sum(1) + each[1, :, 0]) / 2
    assert torch.allclose(found.maps[Place("mlp_out", "noising", "exact")][:, 0], by_hand, atol=1e-12)
    with pytest.raises(ValueError, match="pairs: expected prompts of one length, got 3 to 5 tokens"):
        mapped(pairs=plain)


def test_agreement_with_exact_patching() -> None:
    """A model whose last stream goes to a linear metric without a norm: there the estimate is exact."""
    found = mapped("attention-only", kinds=("resid_post",), methods=("eap", "exact"))
    estimate, exact = (found.maps[Place("resid_post", "noising", name)] for name in ("eap", "exact"))
    by_hand = torch.corrcoef(torch.stack((estimate.flatten(), exact.flatten())))[0, 1]
    place = Place("resid_post", "noising", "eap")
    assert found.pearson(place) == pytest.approx(float(by_hand)) and 0.3 < by_hand < 1
    assert found.pearson(place._replace(method="exact")) == pytest.approx(1)
    rows = list(found.table())
    assert [row[:3] for row in rows] == [("stream behind the layer", way, "eap") for way in ("noising", "denoising")]
    flat = PositionMap(("0",), {place: torch.ones(1, 1), place._replace(method="exact"): exact[:1, :1]}, {})
    assert flat.pearson(place) is None


class Words:
    def decode(self, ids: list[int]) -> str:
        return f" w<{ids[0]}>"


def test_the_picture(tmp_path: Path) -> None:
    found = mapped(tokenizer=Words(), methods=("relp",), directions=("noising",))
    clean, corrupted = PAIR.clean[0].tolist(), PAIR.corrupted[0].tolist()
    assert found.positions[1] == f"w<{clean[1]}>|w<{corrupted[1]}>"
    drawn = ElementTree.parse(found.save(tmp_path / "map.svg")).getroot()
    cells = [(box.get("fill"), box.find(f"{SVG}title").text) for box in drawn.iter(f"{SVG}rect") if len(box)]
    values = torch.cat([each.flatten() for each in found.maps.values()])
    assert len(cells) == len(values) == 3 * 3 * 5
    assert [float(text.split()[-1]) for _, text in cells] == pytest.approx(values.tolist(), rel=1e-3, abs=1e-9)
    strongest = [group[group.abs().argmax()] for group in values.split(15)]
    assert [(at > 0) for at in strongest] == [
        colour == "#d55e00" for colour, _ in cells if colour in ("#d55e00", "#004488")
    ]
    assert found.positions[0].strip()[:8] in "".join(text.text for text in drawn.iter(f"{SVG}text"))
    with pytest.raises(ValueError, match=r"path: expected an ending .svg"):
        found.save(tmp_path / "map.png")


@pytest.mark.usefixtures("without_type_checks")
def test_what_cannot_be_mapped_is_refused() -> None:
    with pytest.raises(ValueError, match="kinds: expected one of 'resid_pre', .* got 'heads'"):
        mapped(kinds=("heads",))
    with pytest.raises(ValueError, match="directions: expected one of 'noising', 'denoising', got 'up'"):
        mapped(directions=("up",))
    with pytest.raises(ValueError, match="place: expected one of .*, got mlp_out noising relp"):
        mapped(methods=("exact",)).pearson(Place("mlp_out", "noising", "relp"))
