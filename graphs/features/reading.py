"""Reading dictionaries from folders: which format a folder has, at which site its dictionary is, and its tensors.

    dictionaries = read_dictionaries("pythia-70m-deduped")       # every dictionary below the folder
    dictionary, = read_dictionaries("my_sae", site=Site("mlp_out", 3))

A folder is known by its files; `edge_circuits.graphs.features.formats` knows what is in them. The site comes from the
configuration, else from the folders' names (`mlp_out_layer3`, `layers.3.mlp`, `gemma-scope-2b-pt-mlp/layer_3`).
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import torch

from edge_circuits.graphs.features.dictionary import Dictionary
from edge_circuits.graphs.features.folder import Folder
from edge_circuits.graphs.features.formats import FORMATS, Found
from edge_circuits.graphs.features.sites import Reads, Site, site_of_hook

SITES = (
    (r"(?:attn|attention)_out_layer_?(\d+)", "attention_out"),
    (r"mlp_out_layer_?(\d+)", "mlp_out"),
    (r"resid_(?:out|post)_layer_?(\d+)", "resid_post"),
    (r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)\.mlp", "mlp_out"),
    (r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)\.(?:self_attn|attention|attn)", "attention_out"),
    (r"(?:[\w.]+\.)?(?:layers|h)\.(\d+)", "resid_post"),
)
GEMMA_SCOPE = {"res": "resid_post", "mlp": "mlp_out", "att": "z", "transcoders": "mlp_out"}


def read_dictionaries(
    path: str | os.PathLike[str], site: Site | None = None, *, reads: Reads | None = None, scale: float | None = None
) -> list[Dictionary]:
    """The dictionaries of a folder and of all folders below it, from the lowest site up.

    Args:
        path: a folder in one of the formats of `edge_circuits.graphs.features.formats`, or above such folders.
        site: where the dictionary is, if there is only one; None: as the configuration or the folder says.
        reads: what a transcoder reads, where nothing says so.
        scale: what inputs are multiplied by, for sae_lens' `expected_average_only_in` when it is not folded in.

    Raises:
        ValueError: no dictionary, a file that is torn or of another format, a site that nothing tells, or a setting that
            is not supported.
    """
    path = Path(path)
    folders = [path, *sorted(each for each in path.rglob("*") if each.is_dir())]
    known = [(folder, kind) for folder in folders for kind in FORMATS if kind.fits(folder)]
    if not known:
        needed = "; ".join(f"{kind.name}: {', '.join(kind.files)}" for kind in FORMATS)
        raise ValueError(f"{path}: expected a folder with dictionaries, found none ({needed})")
    found = [each for folder, kind in known for each in kind.read(Folder(folder))]
    if site is not None and len(found) > 1:
        raise ValueError(f"{path}: expected one dictionary for the site given, found {len(found)}; leave the site out")
    made = [_made(each, site, reads, scale) for each in found]
    return sorted(made, key=lambda each: each.site.depth)


def _made(found: Found, site: Site | None, reads: Reads | None, scale: float | None) -> Dictionary:
    """The dictionary of what a format found."""
    settings = dict(found.settings)
    if settings.pop("needs_scale", False):
        if scale is None:
            raise ValueError(
                f"{found.path}: expected the factor by which inputs are scaled (normalize_activations is "
                "expected_average_only_in); give scale="
            )
        settings |= dict(
            W_enc=settings["W_enc"] * scale, W_dec=settings["W_dec"] / scale, b_dec=settings["b_dec"] / scale
        )
    elif scale is not None:
        raise ValueError(f"{found.path}: scale has no place here, the inputs are not scaled; leave it out")
    at = site or found.site or site_of_path(found.path)
    if found.is_transcoder:
        settings["reads"] = reads or found.reads or "normed"
    elif reads not in (None, "site"):
        raise ValueError(f"{found.path}: reads has no place here, this is no transcoder; leave it out")
    try:
        return Dictionary(at, **settings).like(torch.device("cpu"), torch.float32)
    except ValueError as error:
        raise ValueError(f"{found.path}: {error}") from error


def site_of_path(path: Path) -> Site:
    """The site that folders' names tell, the last name first.

    Raises:
        ValueError: none does.
    """
    parts = path.resolve().parts
    for place, part in reversed(list(enumerate(parts))):
        if re.fullmatch(r"blocks\.\d+\..+|hook_embed", part):
            return site_of_hook(part)
        if re.fullmatch(r"(?:[\w.]+\.)?embed(?:_tokens|_in|ding)?", part):
            return Site("embed")
        for pattern, kind in SITES:
            if named := re.fullmatch(pattern, part):
                return Site(kind, int(named[1]))
        layer = re.fullmatch(r"layer_(\d+)", part)
        above = re.search(r"gemma-scope.*-(res|mlp|att|transcoders)\b", "/".join(parts[:place]))
        if layer and above:
            return Site(GEMMA_SCOPE[above[1]], int(layer[1]))
    raise ValueError(
        f"{path}: expected a folder whose name tells a site, such as mlp_out_layer3; give site=Site(KIND, LAYER)"
    )
