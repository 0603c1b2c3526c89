"""Opening models: directories, hub names, and what is said when there is nothing to open. No network."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from hub_models import hub_module
from models import hugging_face, native
from real_directory import word_level_tokenizer

from edge_circuits.benchmarks.problems import opening
from edge_circuits.benchmarks.problems.opening import hub_answers, open_model
from edge_circuits.graphs.model.adapter import adapt


@pytest.fixture
def without_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(opening, "hub_answers", lambda: False)


def test_a_directory_is_opened_frozen_and_without_the_hub(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    hugging_face("gpt2").save_pretrained(tmp_path)
    word_level_tokenizer(["Mary", "John"]).save_pretrained(tmp_path)
    capsys.readouterr()
    model = open_model(str(tmp_path), device="cpu", quiet=True)
    assert capsys.readouterr() == ("", "")
    assert adapt(model).graph.n_layers == 3
    assert not model.training and not any(parameter.requires_grad for parameter in model.parameters())
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert model.tokenizer.convert_ids_to_tokens(model.tokenizer.encode("John Mary")) == ["John", "Mary"]


def test_random_weights_need_a_configuration_and_a_tokenizer_alone(tmp_path: Path) -> None:
    hugging_face("gpt2").config.save_pretrained(tmp_path)
    word_level_tokenizer(["Mary", "John"]).save_pretrained(tmp_path)
    first, second = (open_model(f"random:{tmp_path}", device="cpu", quiet=True).state_dict() for _ in range(2))
    assert all(torch.equal(value, second[name]) for name, value in first.items())
    assert any(value.is_floating_point() and value.std() > 0 for value in first.values())


def test_a_directory_without_a_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match="directory with config.json, .* without config.json; write one with model.save_pretrained"
    ):
        open_model(str(tmp_path))


def test_a_torn_directory_is_refused(tmp_path: Path) -> None:
    hugging_face("gpt2").config.save_pretrained(tmp_path)
    word_level_tokenizer(["Mary"]).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="cannot read the directory"):
        open_model(str(tmp_path))


def test_what_is_no_decoder_is_refused_before_its_weights_are_read(tmp_path: Path) -> None:
    transformers.T5Config(architectures=["T5ForConditionalGeneration"]).save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="a decoder among .*, got T5ForConditionalGeneration, an encoder-decoder model"
    ):
        open_model(str(tmp_path))


def test_ministral_is_opened_as_the_mistral_that_its_modules_are(tmp_path: Path) -> None:
    hub_module("ministral", torch.float32).save_pretrained(tmp_path)
    word_level_tokenizer(["Mary", "John"]).save_pretrained(tmp_path)
    model = open_model(str(tmp_path), device="cpu", quiet=True)
    assert [block.attention.window for block in adapt(model).blocks] == [4, None]
    assert model.tokenizer.convert_ids_to_tokens(model.tokenizer.encode("John")) == ["John"]


@pytest.mark.parametrize("name", ["./nowhere", "/nowhere/at/all", "~/nowhere", "some/where/deep"])
def test_a_directory_that_does_not_exist_is_no_hub_name(name: str) -> None:
    with pytest.raises(ValueError, match="expected a directory or a hub name, got .*, which does not exist"):
        open_model(name)


@pytest.mark.parametrize("name", ["gpt2-that-is-not-cached", "attn-only-4l"])
def test_without_the_hub_the_embedded_models_and_directories_are_named(name: str, without_hub: None) -> None:
    with pytest.raises(
        ValueError, match="hub cannot be reached.*--model planted, the default.*--model DIRECTORY.*save_pretrained"
    ) as caught:
        open_model(name)
    assert "not in the local cache" in str(caught.value)


def test_a_name_that_the_hub_does_not_know_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def read(name: str, local_files_only: bool) -> None:
        asked.append(local_files_only)
        raise OSError("no such repository")

    monkeypatch.setattr(transformers.AutoConfig, "from_pretrained", read)
    monkeypatch.setattr(opening, "hub_answers", lambda: True)
    with pytest.raises(ValueError, match="hub gave no model named 'gpt3': no such repository"):
        open_model("gpt3")
    assert asked == [True, False]  # the cache first


@pytest.mark.parametrize("name", ["attn-only-4l", "NeelNanda/Attn_Only_4L512W_C4_Code"])
def test_models_of_transformer_lens_are_read_by_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from transformer_lens.model_bridge import sources

    made = native(attn_only=True)
    made.tokenizer = SimpleNamespace()
    asked = []
    monkeypatch.setattr(opening, "hub_answers", lambda: True)
    monkeypatch.setattr(sources, "boot_tl_legacy", lambda name, device: asked.append(name) or made)
    assert open_model(name, device="cpu") is made
    assert asked == ["NeelNanda/Attn_Only_4L512W_C4_Code"]


@pytest.mark.parametrize("answer", [True, False])
def test_the_hub_is_asked_once(answer: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.utils

    asked = []

    def head(url: str, timeout: float) -> None:
        asked.append(url)
        if not answer:
            raise ConnectionError("Name or service not known")

    monkeypatch.setattr(huggingface_hub.utils, "get_session", lambda: SimpleNamespace(head=head))
    assert hub_answers() is answer
    assert len(asked) == 1
