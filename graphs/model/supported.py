"""Which models are read: architectures, versions and settings; nothing of a model is read before they are known.

`edge_circuits.graphs.model.adapter` and `edge_circuits.graphs.model.hooked_transformer` read what passes here.
"""

from __future__ import annotations

import importlib.metadata
from typing import Any

from torch import nn

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.model.families import FAMILIES, LOADED_AS

OLDEST = 2
"""The first version of TransformerLens whose models are read; 2.16 and 3.9 are tested."""

READ_SETTINGS: dict[str, tuple[object, ...]] = {
    "normalization_type": ("LN", "LNPre", "RMS", "RMSPre", None),
    "positional_embedding_type": ("standard", "rotary"),
    "attention_dir": ("causal",),
    "n_devices": (1,),
    "post_embedding_ln": (False,),
    "num_experts": (None,),
    "load_in_4bit": (False,),
    "clip_qkv": (None,),
    "use_attention_sinks": (False,),
    "use_logn_attn": (False,),
    "use_dynamic_ntk_rope": (False,),
}
"""The values of a setting that are read; older versions lack some settings, which counts as the first value."""

POST_NORM_ONLY = ("Olmo2ForCausalLM", "Olmo3ForCausalLM", "OlmoeForCausalLM")

STATE_SPACE = ("Mamba", "Rwkv", "RWKV", "Jamba", "Bamba", "Zamba", "NemotronH", "FalconH1", "RecurrentGemma", "Hyena")
STATE_SPACE += ("Lfm2", "Hybrid", "Qwen3Next", "Qwen3_5")
ENCODERS = ("Bert", "Roberta", "Bart")


def check_model(model: nn.Module) -> None:
    """Refuse what is not read, before anything is read of it."""
    if is_hooked_transformer(model):
        return _check_hooked_settings(model)
    if not (hasattr(model, "cfg") and hasattr(model, "original_model")):
        raise ValueError(
            f"expected a TransformerBridge of TransformerLens 4, got {type(model).__name__}. For a Hugging Face model: "
            "TransformerBridge.boot_transformers(name, hf_model=model, tokenizer=tokenizer). "
            "A HookedTransformer of TransformerLens 2 or 3 is read too."
        )
    config = getattr(model.original_model, "config", model.cfg)
    _check_architecture(model.cfg.architecture, config)
    family = FAMILIES[model.cfg.architecture]
    for setting, read in family.only.items():
        value = getattr(config, setting, read[0])
        if value not in read:
            raise refusal(f"{setting} of {model.cfg.architecture}", " or ".join(map(repr, read)), repr(value))
    if model.training and any(isinstance(module, nn.Dropout) and module.p > 0 for module in model.modules()):
        raise ValueError("the model is in training mode with dropout; call model.eval() first.")


def check_configuration(config: Any) -> None:
    """Refuse a model by its configuration of Hugging Face, before its weights are read."""
    architecture = (getattr(config, "architectures", None) or [""])[0]
    if architecture and not architecture.endswith("Model"):  # a model without a head is read with the one that fits
        _check_architecture(LOADED_AS.get(architecture, architecture), config)


def _check_architecture(architecture: str, config: Any) -> None:
    if architecture not in FAMILIES:
        expected, got = f"a decoder among {', '.join(FAMILIES)}", _described(architecture, config)
        raise refusal("model", expected, got, "docs/architectures.md says how a family of decoders is added")


def _described(architecture: str, config: Any) -> str:
    """An architecture that is not read, and what kind of model that is."""
    if getattr(config, "is_encoder_decoder", False):
        return f"{architecture}, an encoder-decoder model"
    if any(hasattr(config, name) for name in ("vision_config", "audio_config", "image_size", "feat_extract_norm")):
        return f"{architecture}, a model of images or sound"
    if any(name in architecture for name in STATE_SPACE):
        return f"{architecture}, a model with state-space or recurrent layers"
    if any(name in architecture for name in ENCODERS):
        return f"{architecture}, an encoder"
    return architecture


def is_hooked_transformer(model: object) -> bool:
    """Whether a model is a `HookedTransformer`, without importing TransformerLens."""
    return any(kind.__name__ == "HookedTransformer" for kind in type(model).__mro__)


def _check_hooked_settings(model: nn.Module) -> None:
    """Refuse versions and settings that are not read."""
    version = _version()
    if version is not None and int(version.split(".")[0]) < OLDEST:
        raise ValueError(
            f"expected a HookedTransformer of TransformerLens {OLDEST} or later, got version {version}; "
            "install transformer_lens>=2.16."
        )
    config = model.cfg
    for setting, read in READ_SETTINGS.items():
        value = getattr(config, setting, read[0])
        if value not in read:
            raise ValueError(
                f"HookedTransformer with {setting}={value!r} is not supported; supported: {', '.join(map(repr, read))}."
            )
    architecture = getattr(config, "original_architecture", None)
    if architecture in POST_NORM_ONLY:
        raise ValueError(
            f"HookedTransformer with original_architecture={architecture!r} is not supported: its norms come after a layer only."
        )


def _version() -> str | None:
    """The version of TransformerLens; None for a copy that was not installed."""
    try:
        return importlib.metadata.version("transformer_lens")
    except importlib.metadata.PackageNotFoundError:
        return None
