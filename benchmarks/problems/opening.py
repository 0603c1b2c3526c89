"""Opening a real model by name: a local directory, or a model of the Hugging Face hub.

    model = open_model("gpt2")               # or a directory with config.json, weights and tokenizer
    model.tokenizer

1. A directory is read as it is, without the hub.
2. A name is looked for in the local cache of the hub.
3. Then the hub is asked once whether it answers, and only then is the model downloaded from it.

"random:" before a name or directory takes its configuration and tokenizer alone, and random weights: what a size of model
costs, or how estimates fare without training.

The transformers library reads the model, and TransformerLens wraps it. Models that TransformerLens published itself
(`LEGACY`) have a format of their own, which TransformerLens reads.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import nn

from edge_circuits.graphs.checks import choice, refusal
from edge_circuits.graphs.model.families import LOADED_AS
from edge_circuits.graphs.model.supported import check_configuration

LEGACY = {"attn-only-4l": "NeelNanda/Attn_Only_4L512W_C4_Code"}
DTYPES = ("float32", "float64", "bfloat16")
RANDOM = "random:"
TOKENIZER_FILES = ("*token*", "vocab.*")
ANSWER_WITHIN = 10  # seconds


class OpenedModel(NamedTuple):
    """A `TransformerBridge` in evaluation mode, frozen, and its tokenizer; None if its directory has no tokenizer."""

    model: nn.Module
    tokenizer: Any


def open_model(name: str, device: str | None = None, quiet: bool = False, dtype: str = "float32") -> nn.Module:
    """The model of a directory or of a hub name, a `TransformerBridge` in evaluation mode, frozen.

    Its tokenizer is `model.tokenizer`; None if its directory has none.

    Args:
        name: A directory with config.json, weights and tokenizer (or without: then prompts are token ids), or a name such as "gpt2"
            or "attn-only-4l"; with "random:" before it, the weights are random (and a directory need not have any).
        device: Where it goes; None: to a CUDA device if there is one.
        quiet: No progress bar.
        dtype: Of the weights.

    Raises:
        ValueError: There is no such directory or model, or the hub does not answer.
    """
    return open_with_tokenizer(name, device, quiet, dtype).model


def open_with_tokenizer(
    name: str, device: str | None = None, quiet: bool = False, dtype: str = "float32"
) -> OpenedModel:
    """The same with its tokenizer; see `open_model`."""
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    is_random, name = name.startswith(RANDOM), name.removeprefix(RANDOM)
    path = Path(name).expanduser()
    with told_elsewhere(quiet):
        if path.is_dir() or _is_written_as_path(name):
            found = _from_directory(path, is_random)
        elif name in LEGACY or name in LEGACY.values():
            found = _from_hub_as_legacy(LEGACY.get(name, name))
        else:
            found = _from_hub(name, is_random)
        return OpenedModel(
            found.model.to(device, getattr(torch, choice("dtype", dtype, DTYPES))).eval().requires_grad_(False),
            found.tokenizer,
        )


def hub_answers() -> bool:
    """Whether the hub can be reached now; asks once and waits a few seconds at most."""
    from huggingface_hub import constants
    from huggingface_hub.utils import get_session

    try:
        get_session().head(constants.ENDPOINT, timeout=ANSWER_WITHIN)
    except Exception:  # of whichever HTTP library the hub's client uses, or its refusal in offline mode
        return False
    return True


@contextmanager
def told_elsewhere(quiet: bool) -> Iterator[None]:
    """What the libraries print goes to standard error, or nowhere; standard output is for results."""
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere if quiet else sys.stderr):
        with redirect_stderr(nowhere) if quiet else nullcontext():
            yield


def _is_written_as_path(name: str) -> bool:
    return name.startswith((".", "~", os.sep)) or name.count("/") > 1


def _from_directory(path: Path, is_random: bool) -> OpenedModel:
    if not path.is_dir():
        raise refusal("model", "a directory or a hub name", f"{str(path)!r}, which does not exist")
    if not (path / "config.json").is_file():
        remedy = "write one with model.save_pretrained(directory) and tokenizer.save_pretrained(directory)"
        expected = "a directory with config.json, weights and tokenizer"
        raise refusal("model", expected, f"{str(path)!r} without config.json", remedy)
    try:
        return _read(str(path), is_random, local_files_only=True)
    except OSError as error:
        raise ValueError(f"model: cannot read the directory {str(path)!r}: {error}") from error


def _from_hub(name: str, is_random: bool) -> OpenedModel:
    try:
        return _read(name, is_random, local_files_only=True)
    except OSError:  # not in the cache
        _check_hub(name)
    try:
        return _read(name, is_random, local_files_only=False)
    except OSError as error:
        raise ValueError(f"model: the Hugging Face hub gave no model named {name!r}: {error}") from error


def _from_hub_as_legacy(name: str) -> OpenedModel:
    from transformer_lens.model_bridge.sources import boot_tl_legacy

    _check_hub(name)
    model = boot_tl_legacy(name, device="cpu")
    return OpenedModel(model, model.tokenizer)


def _check_hub(name: str) -> None:
    if not hub_answers():
        raise ValueError(
            f"model: {name!r} is not in the local cache, and the Hugging Face hub cannot be reached. Without it there "
            "are the planted models that this package brings along (--model planted, the default), or a directory "
            "with the model (--model DIRECTORY): save it where the hub can be reached with model.save_pretrained("
            "directory) and tokenizer.save_pretrained(directory), and copy it here"
        )


def _read(name: str, is_random: bool, local_files_only: bool) -> OpenedModel:
    """A model and tokenizer by the transformers library, wrapped.

    Raises:
        ValueError: It is no decoder that is read.
        OSError: As transformers says that there are none.
    """
    from transformer_lens.model_bridge import TransformerBridge
    from transformer_lens.model_bridge.sources._bridge_builder import build_bridge_from_module
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    config = AutoConfig.from_pretrained(name, local_files_only=local_files_only)
    check_configuration(config)
    path = Path(name)
    without = path.is_dir() and not any(file for glob in TOKENIZER_FILES for file in path.glob(glob))
    tokenizer = None if without else AutoTokenizer.from_pretrained(name, local_files_only=local_files_only)
    if is_random:
        torch.manual_seed(0)
        model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    else:
        model = AutoModelForCausalLM.from_pretrained(name, local_files_only=local_files_only, dtype=torch.float32)
    architecture = type(model).__name__
    if tokenizer is None or architecture in LOADED_AS:
        known = LOADED_AS.get(architecture, architecture)
        return OpenedModel(
            build_bridge_from_module(model, known, hf_config=model.config, tokenizer=tokenizer), tokenizer
        )
    return OpenedModel(TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer), tokenizer)
