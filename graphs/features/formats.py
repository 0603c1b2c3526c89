"""The formats of dictionaries' files, written from what their projects read.

| format | files | what differs |
| --- | --- | --- |
| sae_lens | cfg.json, sae_weights.safetensors | configurations of before 6.0 have other names; hook names tell the site |
| dictionary_learning | ae.pt (config.json) | weights transposed; gated and jumprelu features scaled by the decoder's norms |
| Gemma Scope | params.npz | attention's are at z; transcoders read the input before the norm's gain |
| Gemma Scope 2 | params.safetensors | lower-case names |
| circuit-tracer | config.yaml, layer_0.safetensors, ... | W_enc transposed; hooks in the configuration |
| sparsify | cfg.json, sae.safetensors | encoder transposed, W_dec not; the decoder's bias is taken off first but for transcoders |

Skip connections (W_skip) are known and not kept: what they write belongs to the error (`dictionary`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from edge_circuits.graphs.features.folder import Folder
from edge_circuits.graphs.features.sites import Reads, Site, site_of_hook

READS = {
    "ln2.hook_normalized": "normalised",
    "mlp.hook_in": "normed",
    "hook_mlp_in": "stream",
    "hook_resid_mid": "stream",
}
Tensors = Mapping[str, Tensor]


@dataclass(frozen=True)
class Found:
    """One dictionary in a folder.

    Attributes:
        settings: of `Dictionary`, all but the site; "needs_scale" where inputs are scaled by a factor not in the file.
        site, reads: as the configuration tells; None where it does not.
    """

    path: Path
    settings: Mapping[str, Any]
    site: Site | None = None
    reads: Reads | None = None
    is_transcoder: bool = False


@dataclass(frozen=True)
class Format:
    """A format: the files by which a folder of it is known, and how such a folder is read."""

    name: str
    files: tuple[str, ...]
    read: Callable[[Folder], list[Found]]

    def fits(self, folder: Path) -> bool:
        """Whether a folder has the files."""
        return all((folder / name).is_file() for name in self.files)


def sae_lens(folder: Folder) -> list[Found]:
    """SAEs and transcoders of sae_lens, of any version of its configurations."""
    config = folder.settings("cfg.json")
    config |= config.get("metadata") or {}
    tensors, path = folder.tensors("sae_weights.safetensors"), folder.path
    architecture = config.get("architecture", "standard")
    if (config.get("activation_fn") or config.get("activation_fn_str")) == "topk":
        architecture, config["k"] = "topk", (config.get("activation_fn_kwargs") or {}).get("k", config.get("k"))
    extra = {"jumprelu": ("threshold",), "gated": ("r_mag", "b_gate", "b_mag"), "standard": (), "topk": (), "": ()}
    is_transcoder = "transcoder" in architecture
    base = architecture.replace("skip_transcoder", "").replace("transcoder", "").rstrip("_")
    refuse(path, "architecture", architecture, base in extra)
    refuse(path, "hook_head_index", head := config.get("hook_head_index"), head is None)
    scaling = config.get("normalize_activations")
    scaling = {True: "expected_average_only_in", False: "none", None: "none"}.get(scaling, scaling)
    normalise = {"none": "none", "expected_average_only_in": "none"}
    normalise |= {"layer_norm": "layer_norm", "constant_norm_rescale": "unit_norm"}
    refuse(path, "normalize_activations", scaling, scaling in normalise)
    for name in ("scaling_factor", "finetuning_scaling_factor"):
        refuse(path, name, "other than 1", name not in tensors or bool((tensors[name] == 1).all()))
    weights = ("W_enc", "W_dec", "b_dec", *(() if base == "gated" else ("b_enc",)), *extra[base])
    skip = ("W_skip", "scaling_factor", "finetuning_scaling_factor", *(("b_enc",) if base == "gated" else ()))
    settings = named(path, tensors, weights, skip)
    settings |= activation_of(base, settings, config.get("k"))
    if config.get("rescale_acts_by_decoder_norm"):
        fold_norms(settings)
    settings["centred"] = bool(config.get("apply_b_dec_to_input", True)) and not is_transcoder
    settings |= dict(normalise=normalise[scaling], needs_scale=scaling == "expected_average_only_in")
    hook = config.get("hook_name") or config.get("hook_point")
    out = config.get("hook_name_out") if is_transcoder else hook
    reads = READS.get(str(hook).split(".", 2)[-1]) if is_transcoder else None
    return [Found(path, settings, site_of_hook(out) if out else None, reads, is_transcoder)]


DICTIONARY_LEARNING = {
    "AutoEncoder": ("encoder.weight", "encoder.bias", "decoder.weight", "bias"),
    "AutoEncoderNew": ("encoder.weight", "encoder.bias", "decoder.weight", "decoder.bias"),
    "GatedAutoEncoder": ("encoder.weight", "decoder.weight", "r_mag", "gate_bias", "mag_bias", "decoder_bias"),
    "JumpReluAutoEncoder": ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"),
    "AutoEncoderTopK": ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k"),
    "BatchTopKSAE": ("encoder.weight", "encoder.bias", "decoder.weight", "b_dec", "k", "threshold"),
    "MatryoshkaBatchTopKSAE": ("W_enc", "b_enc", "W_dec", "b_dec", "k", "threshold"),
}
OUR_NAMES = {"encoder.bias": "b_enc", "mag_bias": "b_enc", "bias": "b_dec", "decoder.bias": "b_dec"}
OUR_NAMES |= {"decoder_bias": "b_dec", "gate_bias": "b_gate"}


def dictionary_learning(folder: Folder) -> list[Found]:
    """Dictionaries of Marks et al.; the class from the configuration, or without one from the tensors' names."""
    tensors, path = folder.tensors("ae.pt"), folder.path
    config = folder.settings("config.json").get("trainer", {}) if (path / "config.json").is_file() else {}
    fitting = [name for name, names in DICTIONARY_LEARNING.items() if set(names) == set(tensors)]
    kind = config.get("dict_class") or (fitting[0] if fitting else "of no known tensors")
    refuse(path, "dict_class", kind, kind in DICTIONARY_LEARNING)
    given = named(path, tensors, DICTIONARY_LEARNING[kind], ("threshold", "group_sizes", "k"))
    settings = {OUR_NAMES.get(name, name): value for name, value in given.items() if not name.endswith(".weight")}
    for ours, theirs in (("W_enc", "encoder.weight"), ("W_dec", "decoder.weight")):
        if theirs in given:
            settings[ours] = given[theirs].T
    k, batch_top_k = settings.pop("k", None), "BatchTopK" in kind
    if batch_top_k:  # in use they are thresholds that training has found
        refuse(path, "threshold", settings["threshold"].item(), settings["threshold"].item() >= 0)
        settings["threshold"] = settings["threshold"].expand(len(settings["b_enc"]))
    base = (
        "jumprelu"
        if batch_top_k
        else {"G": "gated", "J": "jumprelu"}.get(kind[0], "topk" if k is not None else "standard")
    )
    settings |= activation_of(base, settings, None if k is None else int(k))
    if kind in ("GatedAutoEncoder", "JumpReluAutoEncoder"):
        fold_norms(settings)
    settings["centred"] = kind not in ("AutoEncoderNew", "JumpReluAutoEncoder")
    return [Found(path, settings)]


def gemma_scope(folder: Folder) -> list[Found]:
    """Gemma Scope: jumprelu; transcoders are known by the name of a folder above."""
    return _gemma(folder, "params.npz", ())


def gemma_scope_2(folder: Folder) -> list[Found]:
    """Gemma Scope 2, of one site."""
    return _gemma(folder, "params.safetensors", ("affine_skip_connection",))


def _gemma(folder: Folder, file: str, skip: tuple[str, ...]) -> list[Found]:
    tensors = {"W_" + name[2:] if name.startswith("w_") else name: x for name, x in folder.tensors(file).items()}
    settings = named(folder.path, tensors, ("W_enc", "b_enc", "W_dec", "b_dec", "threshold"), skip)
    settings |= activation_of("jumprelu", settings, None)
    is_transcoder = "transcoder" in folder.path.resolve().as_posix()
    return [Found(folder.path, settings, None, "normalised" if is_transcoder else None, is_transcoder)]


def circuit_tracer(folder: Folder) -> list[Found]:
    """A set of transcoders, one a layer."""
    config, path = folder.settings("config.yaml"), folder.path
    kind = config.get("model_kind", "transcoder_set")
    refuse(path, "model_kind", kind, kind == "transcoder_set")
    read, out = config.get("feature_input_hook"), config.get("feature_output_hook")
    refuse(path, "feature_input_hook", read, read in READS)
    refuse(path, "feature_output_hook", out, out in ("hook_mlp_out", "mlp.hook_out"))
    found = []
    for file in sorted(path.glob("layer_*.safetensors"), key=lambda each: int(each.stem.split("_")[1])):
        tensors = folder.tensors(file.name)
        own = {"activation_function.threshold": "threshold"}
        tensors = {own.get(name, name): value for name, value in tensors.items()}
        optional = ("W_skip", "k", "threshold")
        settings = named(file, tensors, ("W_enc", "b_enc", "W_dec", "b_dec"), optional)
        k, threshold = tensors.get("k", config.get("k")), tensors.get("threshold")
        base = "topk-any" if k is not None else "standard" if threshold is None else "jumprelu"
        refuse(file, "threshold", "below 0", threshold is None or bool((threshold >= 0).all()))
        settings |= dict(W_enc=settings["W_enc"].T) | ({} if threshold is None else dict(threshold=threshold))
        settings |= activation_of(base, settings, None if k is None else int(k))
        found.append(Found(file, settings, Site("mlp_out", int(file.stem.split("_")[1])), READS[read], True))
    return found


def sparsify(folder: Folder) -> list[Found]:
    """SAEs and transcoders of EleutherAI's sparsify; the site from the folder's name."""
    config, path = folder.settings("cfg.json"), folder.path
    refuse(path, "activation", config.get("activation", "topk"), config.get("activation", "topk") == "topk")
    for name in ("embed_skip", "gram_lookup"):
        refuse(path, name, config.get(name), not config.get(name))
    names = ("encoder.weight", "encoder.bias", "W_dec", "b_dec")
    given = named(path, folder.tensors("sae.safetensors"), names, ("W_skip",))
    settings = dict(
        W_enc=given["encoder.weight"].T, b_enc=given["encoder.bias"], W_dec=given["W_dec"], b_dec=given["b_dec"]
    )
    settings |= activation_of("topk", settings, config.get("k", 32))
    is_transcoder = bool(config.get("transcode"))
    return [Found(path, settings | dict(centred=not is_transcoder), None, "normed", is_transcoder)]


def named(path: Path, tensors: Tensors, needed: Collection[str], skip: Collection[str] = ()) -> dict[str, Tensor]:
    """The tensors that are needed.

    Raises:
        ValueError: one is missing, or there is one of neither list: the file is of something else.
    """
    missing, foreign = set(needed) - set(tensors), set(tensors) - set(needed) - set(skip)
    if missing or foreign:
        raise ValueError(
            f"{path}: expected the tensors {', '.join(sorted(needed))}, got {', '.join(sorted(tensors))}; "
            "this is a file of something else, or of another version"
        )
    return {name: tensors[name] for name in needed}


def activation_of(base: str, settings: dict[str, Any], k: int | None) -> dict[str, Any]:
    """The activation's settings; takes what belongs to it out of the tensors."""
    if base == "gated":
        gate = (settings.pop("r_mag").exp(), settings.pop("b_gate"))
        return dict(activation="gated", gate=gate, b_enc=settings.pop("b_mag", settings.get("b_enc")))
    if base == "jumprelu":  # with a threshold below 0 the rectifier decides
        return dict(activation="jumprelu", threshold=settings["threshold"].clamp(min=0))
    return dict(activation=base, k=k) if base.startswith("topk") else dict(activation="relu")


def fold_norms(settings: dict[str, Any]) -> None:
    """Features scaled by the norms of their decoder's rows, which become 1; what is written stays the same."""
    norms = settings["W_dec"].norm(dim=1)
    settings["W_dec"] = settings["W_dec"] / norms[:, None]
    settings["b_enc"] = settings["b_enc"] * norms
    if settings["activation"] == "gated":
        settings["gate"] = (settings["gate"][0] * norms, settings["gate"][1])
    else:
        settings["W_enc"] = settings["W_enc"] * norms
    if "threshold" in settings:
        settings["threshold"] = settings["threshold"] * norms


def refuse(path: Path, name: str, value: object, supported: bool) -> None:
    """
    Raises:
        ValueError: a setting is not supported.
    """
    if not supported:
        raise ValueError(f"{path}: {name} {value!r} is not supported")


FORMATS = (
    Format("sae_lens", ("cfg.json", "sae_weights.safetensors"), sae_lens),
    Format("dictionary_learning", ("ae.pt",), dictionary_learning),
    Format("Gemma Scope", ("params.npz",), gemma_scope),
    Format("Gemma Scope 2", ("params.safetensors",), gemma_scope_2),
    Format("circuit-tracer", ("config.yaml", "layer_0.safetensors"), circuit_tracer),
    Format("sparsify", ("cfg.json", "sae.safetensors"), sparsify),
)
