"""Files of dictionaries: random tensors written in each project's layout, against that project's formulas in a few lines."""

from __future__ import annotations

import json
from pathlib import Path

import numpy
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from edge_circuits.graphs.features.dictionary import Dictionary
from edge_circuits.graphs.features.reading import read_dictionaries, site_of_path
from edge_circuits.graphs.features.sites import Site

D, N, K = 6, 10, 3
X = torch.randn(4, 5, D, generator=torch.Generator().manual_seed(9))


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def write_json(folder: Path, name: str, content: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(content))


W_ENC, B_ENC, W_DEC, B_DEC = normal(D, N), normal(N, seed=1), normal(N, D, seed=2), normal(D, seed=3)
THRESHOLD, R_MAG, B_GATE, B_MAG = normal(N, seed=4).abs(), normal(N, seed=5), normal(N, seed=6), normal(N, seed=7)
OURS = {"W_enc": W_ENC, "b_enc": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
NORMS = W_DEC.norm(dim=1)


def top_k(p: Tensor) -> Tensor:
    values, places = p.relu().topk(K, dim=-1)
    return torch.zeros_like(p).scatter(-1, places, values)


def sae_lens(folder: Path, config: dict, tensors: dict[str, Tensor]) -> list[Dictionary]:
    write_json(folder, "cfg.json", config)
    save_file({name: value.contiguous() for name, value in tensors.items()}, folder / "sae_weights.safetensors")
    return read_dictionaries(folder)


def check(found: Dictionary, features: Tensor, output: Tensor, x: Tensor = X) -> None:
    """Features and reconstruction are those of the reference."""
    assert features.abs().sum() > 0
    assert torch.allclose(found.encode(x), features, atol=1e-5)
    assert torch.allclose(found.decode(found.encode(x)), output, atol=1e-5)


NEW = {"architecture": "standard", "apply_b_dec_to_input": False, "metadata": {"hook_name": "blocks.3.hook_mlp_out"}}


def test_sae_lens_new_and_old_configurations(tmp_path: Path) -> None:
    (new,) = sae_lens(tmp_path / "new", NEW | {"normalize_activations": "none"}, OURS)
    assert new.site == Site("mlp_out", 3)
    features = (X @ W_ENC + B_ENC).relu()
    check(new, features, features @ W_DEC + B_DEC)
    old = {"hook_point": "blocks.2.hook_resid_pre", "activation_fn_str": "relu", "normalize_sae_decoder": True}
    (old,) = sae_lens(tmp_path / "old", old | {"normalize_activations": False, "hook_point_head_index": None}, OURS)
    assert old.site == Site("resid_pre", 2)
    features = ((X - B_DEC) @ W_ENC + B_ENC).relu()  # b_dec comes off by default
    check(old, features, features @ W_DEC + B_DEC)
    old_top_k = {"hook_point": "blocks.2.attn.hook_z", "activation_fn_str": "topk", "activation_fn_kwargs": {"k": K}}
    (old_top_k,) = sae_lens(tmp_path / "topk", old_top_k, OURS)
    assert old_top_k.site == Site("z", 2)
    check(old_top_k, top_k((X - B_DEC) @ W_ENC + B_ENC), top_k((X - B_DEC) @ W_ENC + B_ENC) @ W_DEC + B_DEC)


def test_sae_lens_architectures(tmp_path: Path) -> None:
    (jump,) = sae_lens(tmp_path / "j", NEW | {"architecture": "jumprelu"}, OURS | {"threshold": THRESHOLD})
    p = X @ W_ENC + B_ENC
    check(jump, p.relu() * (p > THRESHOLD), p.relu() * (p > THRESHOLD) @ W_DEC + B_DEC)
    tensors = {"W_enc": W_ENC, "W_dec": W_DEC, "b_dec": B_DEC, "r_mag": R_MAG, "b_gate": B_GATE, "b_mag": B_MAG}
    (gated,) = sae_lens(tmp_path / "g", NEW | {"architecture": "gated"}, tensors)
    features = (X @ W_ENC + B_GATE > 0) * (X @ (W_ENC * R_MAG.exp()) + B_MAG).relu()
    check(gated, features, features @ W_DEC + B_DEC)
    config = NEW | {"architecture": "topk", "k": K, "rescale_acts_by_decoder_norm": True}
    (scaled,) = sae_lens(tmp_path / "t", config, OURS)
    features = top_k(p * NORMS)
    check(scaled, features, (features / NORMS) @ W_DEC + B_DEC)
    assert [each.activation for each in (jump, gated, scaled)] == ["jumprelu", "gated", "topk"]


def test_sae_lens_normalisation(tmp_path: Path) -> None:
    (normed,) = sae_lens(tmp_path / "ln", NEW | {"normalize_activations": "layer_norm"}, OURS)
    mean, spread = X.mean(-1, keepdim=True), X.std(-1, keepdim=True)
    features = ((X - mean) / (spread + 1e-5) @ W_ENC + B_ENC).relu()
    assert torch.allclose(normed.encode(X), features * spread, atol=1e-5)
    output = (features @ W_DEC + B_DEC) * spread + mean  # theirs; ours leaves what is no feature to the error
    ours = normed.decode(normed.encode(X)) - B_DEC + B_DEC * spread + mean
    assert torch.allclose(ours, output, atol=1e-5)
    (unit,) = sae_lens(tmp_path / "unit", NEW | {"normalize_activations": "constant_norm_rescale"}, OURS)
    factor = D**0.5 / X.norm(dim=-1, keepdim=True)
    assert torch.allclose(unit.encode(X), (X * factor @ W_ENC + B_ENC).relu() / factor, atol=1e-5)
    with pytest.raises(ValueError, match="expected the factor by which inputs are scaled.*give scale="):
        sae_lens(tmp_path / "e", NEW | {"normalize_activations": "expected_average_only_in"}, OURS)
    (scaled,) = read_dictionaries(tmp_path / "e", scale=2.5)
    features = (2.5 * X @ W_ENC + B_ENC).relu()
    check(scaled, features, (features @ W_DEC + B_DEC) / 2.5)
    with pytest.raises(ValueError, match="scale has no place here"):
        read_dictionaries(tmp_path / "ln", scale=2.0)


def test_sae_lens_transcoders(tmp_path: Path) -> None:
    for hook, reads in (("ln2.hook_normalized", "normalised"), ("mlp.hook_in", "normed"), ("hook_mlp_in", "stream")):
        metadata = {"hook_name": f"blocks.1.{hook}", "hook_name_out": "blocks.1.hook_mlp_out"}
        config = NEW | {"architecture": "jumprelu_skip_transcoder", "metadata": metadata}
        tensors = OURS | {"threshold": THRESHOLD, "W_skip": normal(D, D)}
        (found,) = sae_lens(tmp_path / reads, config, tensors)
        assert (found.site, found.reads) == (Site("mlp_out", 1), reads)
        p = X @ W_ENC + B_ENC
        check(found, p.relu() * (p > THRESHOLD), p.relu() * (p > THRESHOLD) @ W_DEC + B_DEC)


def test_dictionary_learning(tmp_path: Path) -> None:
    encoder = {"encoder.weight": W_ENC.T.contiguous(), "decoder.weight": W_DEC.T.contiguous()}
    p, centred = X @ W_ENC + B_ENC, (X - B_DEC) @ W_ENC
    gated = (centred + B_GATE > 0) * (R_MAG.exp() * centred + B_MAG).relu() * NORMS
    jump = p.relu() * (p > THRESHOLD) * NORMS
    batch = (centred + B_ENC).relu() * ((centred + B_ENC).relu() > 0.4)
    gate_names = {"r_mag": R_MAG, "gate_bias": B_GATE, "mag_bias": B_MAG, "decoder_bias": B_DEC}
    k = torch.tensor(K, dtype=torch.int)
    plain = encoder | {"encoder.bias": B_ENC}
    cases = {
        "AutoEncoder": (plain | {"bias": B_DEC}, (centred + B_ENC).relu(), 1),
        "AutoEncoderNew": (plain | {"decoder.bias": B_DEC}, p.relu(), 1),
        "GatedAutoEncoder": (encoder | gate_names, gated, NORMS),
        "JumpReluAutoEncoder": (OURS | {"threshold": THRESHOLD}, jump, NORMS),
        "AutoEncoderTopK": (plain | {"b_dec": B_DEC, "k": k}, top_k(centred + B_ENC), 1),
        "BatchTopKSAE": (plain | {"b_dec": B_DEC, "k": k, "threshold": torch.tensor(0.4)}, batch, 1),
        "MatryoshkaBatchTopKSAE": (OURS | {"k": k, "threshold": torch.tensor(0.4), "group_sizes": k[None]}, batch, 1),
    }
    for number, (kind, (tensors, features, norms)) in enumerate(cases.items()):
        folder = tmp_path / kind / f"mlp_out_layer{number}"
        write_json(folder, "config.json", {"trainer": {"dict_class": kind}})
        torch.save(tensors, folder / "ae.pt")
        (found,) = read_dictionaries(folder)
        assert found.site == Site("mlp_out", number)
        check(found, features, (features / norms) @ W_DEC + B_DEC)
    (folder := tmp_path / "resid_out_layer2" / "10_32768").mkdir(parents=True)  # as Marks et al. publish theirs
    torch.save(plain | {"bias": B_DEC}, folder / "ae.pt")
    (found,) = read_dictionaries(folder)
    assert found.site == Site("resid_post", 2)
    check(found, (centred + B_ENC).relu(), (centred + B_ENC).relu() @ W_DEC + B_DEC)


def test_gemma_scope(tmp_path: Path) -> None:
    p = X @ W_ENC + B_ENC
    features = p.relu() * (p > THRESHOLD)
    arrays = {name: value.numpy() for name, value in (OURS | {"threshold": THRESHOLD}).items()}
    kinds = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "mlp_out"}
    for name, kind in kinds.items():
        folder = tmp_path / f"gemma-scope-2b-pt-{name}" / "layer_5" / "width_16k" / "average_l0_71"
        folder.mkdir(parents=True)
        numpy.savez(folder / "params.npz", **arrays)
        (found,) = read_dictionaries(folder)
        assert (found.site, found.reads) == (Site(kind, 5), "normalised" if name == "transcoders" else "site")
        check(found, features, features @ W_DEC + B_DEC)
    lower = {name.replace("W", "w"): value for name, value in (OURS | {"threshold": THRESHOLD}).items()}
    (folder := tmp_path / "second").mkdir()
    save_file(lower, folder / "params.safetensors")
    (found,) = read_dictionaries(folder, Site("resid_post", 1))
    check(found, features, features @ W_DEC + B_DEC)


def test_circuit_tracer_sets(tmp_path: Path) -> None:
    p = X @ W_ENC + B_ENC
    cases = {
        "jump": ({"activation_function.threshold": THRESHOLD}, "", p * (p > THRESHOLD)),
        "relu": ({"W_skip": normal(D, D)}, "activation: relu", p.relu()),
        "topk": ({}, f"k: {K}", torch.zeros_like(p).scatter(-1, p.topk(K).indices, p.topk(K).values)),
    }
    for name, (extra, setting, features) in cases.items():
        (folder := tmp_path / name).mkdir()
        lines = [
            "model_kind: transcoder_set",
            "feature_input_hook: hook_resid_mid",
            "feature_output_hook: hook_mlp_out",
        ]
        (folder / "config.yaml").write_text("\n".join([*lines, setting]))
        for layer in (0, 1, 10):
            tensors = OURS | extra | {"W_enc": W_ENC.T.contiguous() * (layer + 1)}
            save_file(tensors, folder / f"layer_{layer}.safetensors")
        found = read_dictionaries(folder)
        assert [(each.site, each.reads) for each in found] == [(Site("mlp_out", n), "stream") for n in (0, 1, 10)]
        check(found[0], features, features @ W_DEC + B_DEC)
        assert torch.allclose(found[2].W_enc, 11 * W_ENC)
    (folder / "config.yaml").write_text("model_kind: cross_layer_transcoder")
    with pytest.raises(ValueError, match="model_kind 'cross_layer_transcoder' is not supported"):
        read_dictionaries(folder)


def test_sparsify(tmp_path: Path) -> None:
    tensors = {"encoder.weight": W_ENC.T.contiguous(), "encoder.bias": B_ENC, "W_dec": W_DEC, "b_dec": B_DEC}
    for name, site in (
        ("layers.5.mlp", Site("mlp_out", 5)),
        ("layers.11", Site("resid_post", 11)),
        ("embed_tokens", Site("embed")),
    ):
        write_json(tmp_path / name, "cfg.json", {"k": K, "d_in": D, "activation": "topk"})
        save_file(tensors, tmp_path / name / "sae.safetensors")
        (found,) = read_dictionaries(tmp_path / name)
        assert found.site == site
        check(found, top_k((X - B_DEC) @ W_ENC + B_ENC), top_k((X - B_DEC) @ W_ENC + B_ENC) @ W_DEC + B_DEC)
    assert [each.site for each in read_dictionaries(tmp_path)] == [
        Site("embed"),
        Site("mlp_out", 5),
        Site("resid_post", 11),
    ]
    write_json(tmp_path / "layers.5.mlp", "cfg.json", {"k": K, "transcode": True})
    save_file(tensors | {"W_skip": normal(D, D)}, tmp_path / "layers.5.mlp" / "sae.safetensors")
    (found,) = read_dictionaries(tmp_path / "layers.5.mlp")
    assert found.reads == "normed"
    check(found, top_k(X @ W_ENC + B_ENC), top_k(X @ W_ENC + B_ENC) @ W_DEC + B_DEC)


def test_folders_that_tell_a_site() -> None:
    told = {"mlp_out_layer0": Site("mlp_out", 0), "attn_out_layer3/x": Site("attention_out", 3), "embed": Site("embed")}
    told |= {"resid_post_layer_7": Site("resid_post", 7), "gpt_neox.layers.4.attention": Site("attention_out", 4)}
    told |= {"transformer.h.2": Site("resid_post", 2), "blocks.1.hook_attn_out": Site("attention_out", 1)}
    for name, site in told.items():
        assert site_of_path(Path("/somewhere") / name) == site
    with pytest.raises(ValueError, match="expected a folder whose name tells a site"):
        site_of_path(Path("/somewhere/mine"))


def test_foreign_and_torn_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected a folder with dictionaries, found none"):
        read_dictionaries(tmp_path)
    sae_lens(good := tmp_path / "good", NEW, OURS)
    for missing in ("b_enc", "W_dec"):
        tensors = {name: value for name, value in OURS.items() if name != missing}
        with pytest.raises(ValueError, match="a file of something else, or of another version"):
            sae_lens(tmp_path / "less", NEW, tensors)
    with pytest.raises(ValueError, match="a file of something else"):
        sae_lens(tmp_path / "more", NEW, OURS | {"weight": normal(D)})
    with pytest.raises(ValueError, match="expected finite"):
        sae_lens(tmp_path / "nan", NEW, OURS | {"W_enc": W_ENC * torch.nan})
    with pytest.raises(ValueError, match="architecture 'temporal' is not supported"):
        sae_lens(tmp_path / "temporal", NEW | {"architecture": "temporal"}, OURS)
    weights = good / "sae_weights.safetensors"
    for content in (b"", weights.read_bytes()[:-7], b"\x80\x04nonsense"):
        weights.write_bytes(content)
        with pytest.raises(ValueError, match="torn or foreign"):
            read_dictionaries(good)
    (good / "cfg.json").write_text('{"hook_name": ')
    with pytest.raises(ValueError, match="got a torn file"):
        read_dictionaries(good)
    (torn := tmp_path / "mlp_out_layer0").mkdir()
    for content in (b"PK\x03\x04", b"", b"import os"):
        (torn / "ae.pt").write_bytes(content)
        with pytest.raises(ValueError, match="torn or foreign"):
            read_dictionaries(torn)


def test_a_pickle_that_would_run_code_does_not(tmp_path: Path) -> None:
    class Runs:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "ran",))

    (folder := tmp_path / "mlp_out_layer0").mkdir()
    torch.save({"bias": Runs()}, folder / "ae.pt")
    with pytest.raises(ValueError, match="torn or foreign"):
        read_dictionaries(folder)
    assert not (tmp_path / "ran").exists()
