"""Dictionaries: a site's value as a sum of features, and what they leave over.

    value = sum over features of f_i W_dec[i]  +  b_dec  +  error

`Dictionary` is a trained one: a sparse autoencoder, which encodes the site's own value, or a transcoder, which encodes
what the MLP reads. `Coordinates` is the identity: the features are the site's own coordinates, singly (neurons) or in
groups (heads, experts), and there is no error. Activations, with p = x W_enc + b_enc:

- relu: max(p, 0); linear: p;
- jumprelu: p where p > threshold (Rajamanoharan et al. 2024b);
- topk: max(p, 0) of the k largest p; topk-any: p of the k largest (Gao et al. 2024);
- gated: max(exp(r_mag) x W_enc + b_enc, 0) where x W_enc + b_gate > 0 (Rajamanoharan et al. 2024a).

Where the input is normalised (`normalise`), the decoder's output is scaled back; a feature's value here has that scale in
it, so that it is always in the units of the site and `f_i W_dec[i]` is what it writes. What else depends on the input
(a mean that is added back, the skip connection of a transcoder) belongs to the error.
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal, get_args

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from edge_circuits.graphs.checks import refusal
from edge_circuits.graphs.features.sites import Reads, Site
from edge_circuits.graphs.model.adapter import adapt
from edge_circuits.graphs.model.mlp import Experts, Mlp

Activation = Literal["relu", "linear", "jumprelu", "topk", "topk-any", "gated"]
Normalise = Literal["none", "layer_norm", "unit_norm"]
Columns = slice | Int[Tensor, " some"]
ALL = slice(None)
EPSILON = 1e-5  # of "layer_norm", beside the standard deviation


@dataclass(frozen=True, eq=False)
class Coordinates:
    """The identity dictionary: `n_features` groups of `width` coordinates each.

    Attributes:
        site: where.
        n_features: how many groups.
        width: coordinates in a group.
    """

    site: Site
    n_features: int
    width: int = 1
    reads: Reads = "site"
    has_error = False

    @property
    def key(self) -> tuple[Site, Reads]:
        """Place, and what is read there."""
        return self.site, self.reads

    def like(self, device: torch.device, dtype: torch.dtype) -> Coordinates:
        """Itself."""
        return self

    def check(self, d_site: int, d_read: int) -> None:
        """Refuse a site of another width."""
        if self.n_features * self.width != d_site:
            raise refusal(str(self.site), f"{d_site} coordinates", f"{self.n_features} groups of {self.width}")

    def encode(self, x: Float[Tensor, "*n d_site"]) -> Float[Tensor, "*n d_site"]:
        """The coordinates."""
        return x

    def decode(self, features: Float[Tensor, "*n d_site"]) -> Float[Tensor, "*n d_site"]:
        """The site's value."""
        return features

    def written(self, change: Float[Tensor, "*n d_site"], share: Tensor) -> Float[Tensor, "*n d_site"]:
        """What a share [*n n_features] of each feature's change adds to the site's value."""
        return change * share.repeat_interleave(self.width, dim=-1)

    def effects(
        self, change: Tensor, gradient: Float[Tensor, "*n d_site"], columns: Columns = ALL
    ) -> Float[Tensor, "*n some"]:
        """What the change of each feature, or of some, is worth: its write . gradient."""
        return (change * gradient).unflatten(-1, (self.n_features, self.width)).sum(-1)[..., columns]

    def active(self, features: Float[Tensor, "*n d_site"]) -> Float[Tensor, "*n n_features"]:
        """The value of each feature, or its largest coordinate."""
        return features.unflatten(-1, (self.n_features, self.width)).amax(-1)

    def magnitudes(self, x: Tensor, columns: Int[Tensor, " some"], active: Tensor) -> Float[Tensor, "*n some"]:
        """The values of some features, as a differentiable function of what is read."""
        assert self.width == 1, "a group of coordinates has no one value"
        return x[..., columns]


@dataclass(frozen=True, eq=False)
class Dictionary:
    """A trained dictionary.

    Attributes:
        site: whose value is decoded.
        activation: see the module.
        threshold: of jumprelu.
        k: of topk.
        gate: of gated: (exp(r_mag), b_gate); `b_enc` is then the bias of the magnitude.
        centred: the decoder's bias is taken off the input before the encoder.
        normalise: "layer_norm": the input less its mean, by its standard deviation plus 1e-5; "unit_norm": the input
            scaled to norm sqrt(d).
        reads: what is encoded: the site's own value, or for a transcoder what `sites.read_at` says.

    Raises:
        ValueError: shapes or settings that do not fit, or values that are not finite.
    """

    site: Site
    W_enc: Float[Tensor, "d_read n_features"]
    b_enc: Float[Tensor, " n_features"]
    W_dec: Float[Tensor, "n_features d_site"]
    b_dec: Float[Tensor, " d_site"]
    activation: Activation = "relu"
    threshold: Float[Tensor, " n_features"] | None = None
    k: int | None = None
    gate: tuple[Float[Tensor, " n_features"], Float[Tensor, " n_features"]] | None = None
    centred: bool = False
    normalise: Normalise = "none"
    reads: Reads = "site"
    has_error = True

    def __post_init__(self) -> None:
        if self.activation not in get_args(Activation) or self.normalise not in get_args(Normalise):
            raise ValueError(
                f"dictionary at {self.site}: expected an activation of {', '.join(get_args(Activation))} and normalise of "
                f"{', '.join(get_args(Normalise))}, got {self.activation!r} and {self.normalise!r}"
            )
        n, d_site, d_read = len(self.W_dec), self.W_dec.shape[-1], len(self.W_enc)
        shapes = {"W_enc": (d_read, n), "b_enc": (n,), "W_dec": (n, d_site), "b_dec": (d_site,)}
        needed = {"jumprelu": "threshold", "topk": "k", "topk-any": "k", "gated": "gate"}
        for name in ("threshold", "k", "gate"):
            if (getattr(self, name) is not None) != (needed.get(self.activation) == name):
                raise ValueError(f"dictionary at {self.site}: {name} does not go with activation {self.activation!r}")
        shapes |= {"threshold": (n,)} if self.threshold is not None else {}
        for name, shape in shapes.items():
            tensor = getattr(self, name)
            if tuple(tensor.shape) != shape or not torch.isfinite(tensor).all():
                raise refusal(f"dictionary at {self.site}", f"finite {name} of shape {shape}", tuple(tensor.shape))
        self._check_settings(n, d_read, d_site)

    def _check_settings(self, n: int, d_read: int, d_site: int) -> None:
        if self.k is not None and not 0 < self.k <= n:
            raise ValueError(f"dictionary at {self.site}: expected k from 1 to {n}, got {self.k}")
        if self.threshold is not None and (self.threshold < 0).any():
            raise refusal(f"dictionary at {self.site}", "thresholds from 0 on", f"{self.threshold.min():.3g}")
        if self.reads != "site" and (self.site.kind != "mlp_out" or self.centred or self.normalise != "none"):
            raise ValueError(
                f"dictionary at {self.site}: a transcoder reads {self.reads!r} and writes mlp_out, without centred or normalise"
            )
        if self.reads == "site" and d_read != d_site:
            raise ValueError(f"dictionary at {self.site}: it encodes {d_read} numbers and decodes {d_site}")

    @property
    def key(self) -> tuple[Site, Reads]:
        """Place, and what is read there."""
        return self.site, self.reads

    @property
    def n_features(self) -> int:
        """How many features there are."""
        return len(self.W_dec)

    def like(self, device: torch.device, dtype: torch.dtype) -> Dictionary:
        """The same on a device, in the wider of its type and another."""
        wide = torch.promote_types(self.W_dec.dtype, dtype)
        moved = {
            field.name: value.to(device, wide)
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, **moved, gate=None if self.gate is None else tuple(x.to(device, wide) for x in self.gate))

    def check(self, d_site: int, d_read: int) -> None:
        """Refuse a model of another width."""
        if (len(self.W_enc), self.W_dec.shape[1]) != (d_read, d_site):
            raise ValueError(
                f"dictionary at {self.site}: expected to read {d_read} numbers and write {d_site} in this model, got "
                f"{len(self.W_enc)} and {self.W_dec.shape[1]}"
            )

    def encode(self, x: Float[Tensor, "*n d_read"]) -> Float[Tensor, "*n n_features"]:
        """The features' values, in the units of the site."""
        x, scale = self._normalised(x)
        linear = x @ self.W_enc
        values = self._values(linear, ALL)
        return values.where(self._active(linear, values), 0) * scale

    def decode(self, features: Float[Tensor, "*n n_features"]) -> Float[Tensor, "*n d_site"]:
        """`f W_dec + b_dec`."""
        return features @ self.W_dec + self.b_dec

    def written(self, change: Tensor, share: Tensor) -> Float[Tensor, "*n d_site"]:
        """What a share [*n n_features] of each feature's change adds to the site's value."""
        return (change * share) @ self.W_dec

    def effects(
        self, change: Tensor, gradient: Float[Tensor, "*n d_site"], columns: Columns = ALL
    ) -> Float[Tensor, "*n some"]:
        """What the change of each feature, or of some, is worth: its write . gradient."""
        return change[..., columns] * (gradient @ self.W_dec[columns].T)

    def active(self, features: Float[Tensor, "*n n_features"]) -> Float[Tensor, "*n n_features"]:
        """The value of each feature."""
        return features

    def magnitudes(
        self, x: Float[Tensor, "*n d_read"], columns: Int[Tensor, " some"], active: Bool[Tensor, "*n some"]
    ) -> Float[Tensor, "*n some"]:
        """The values of some features where they are active, as a differentiable function of what is read.

        Which features are active is held as it is: the derivative of every activation here, wherever it has one.
        """
        x, scale = self._normalised(x)
        return (self._values(x @ self.W_enc[:, columns], columns) * scale).where(active, 0)

    def _normalised(self, x: Tensor) -> tuple[Tensor, Tensor | float]:
        x, scale = x.to(self.W_dec), 1.0
        if self.normalise == "layer_norm":
            x = x - x.mean(-1, keepdim=True)
            scale = x.std(-1, keepdim=True)
            x = x / (scale + EPSILON)
        if self.normalise == "unit_norm":
            scale = x.norm(dim=-1, keepdim=True) / x.shape[-1] ** 0.5
            x = x / scale
        return (x - self.b_dec if self.centred else x), scale

    def _values(self, linear: Tensor, columns: Columns) -> Tensor:
        return (linear if self.gate is None else linear * self.gate[0][columns]) + self.b_enc[columns]

    def _active(self, linear: Tensor, values: Tensor) -> Bool[Tensor, "*n n_features"]:
        if self.activation == "linear":
            return torch.ones_like(values, dtype=torch.bool)
        if self.activation == "jumprelu":
            return values > self.threshold
        if self.activation == "gated":
            return (linear + self.gate[1] > 0) & (values > 0)
        if self.activation == "relu":
            return values > 0
        largest = torch.zeros_like(values, dtype=torch.bool).scatter_(-1, values.topk(self.k, dim=-1).indices, True)
        return largest if self.activation == "topk-any" else largest & (values > 0)


AnyDictionary = Dictionary | Coordinates


def neurons(model: nn.Module) -> list[Coordinates]:
    """The neurons of every MLP as features: values `act(x W_in + b_in)`, gated ones `act(x W_gate) * (x W_in)`.

    Raises:
        ValueError: the model has no MLP with one layer of neurons.
    """
    transformer = adapt(model)
    sizes = {
        layer: len(block.mlp.W_out) for layer, block in enumerate(transformer.blocks) if isinstance(block.mlp, Mlp)
    }
    if not sizes:
        raise ValueError(f"neurons: {transformer.name} has no MLP with one layer of neurons")
    return [Coordinates(Site("neurons", layer), n) for layer, n in sizes.items()]


def heads(model: nn.Module) -> list[Coordinates]:
    """The heads of every layer as features: each is the group of its d_head mixed values."""
    shapes = [block.attention.W_O.shape for block in adapt(model).blocks]
    return [Coordinates(Site("z", layer), n_heads, d_head) for layer, (n_heads, d_head, _) in enumerate(shapes)]


def experts(model: nn.Module) -> list[Coordinates]:
    """The experts of every routed layer as features: each is what it writes, its weight included, zero where it is not chosen.

    They sum to what the layer writes, and their scores to the layer's. Which experts are chosen is decided anew on what a layer
    reads, so that an expert's change may be from zero or to zero; an expert that is cut keeps its cut value whatever is chosen.

    Raises:
        ValueError: the model has no routed layer.
    """
    transformer = adapt(model)
    layers = {
        layer: block.mlp.W_in.shape for layer, block in enumerate(transformer.blocks) if isinstance(block.mlp, Experts)
    }
    if not layers:
        raise refusal("experts", "a model with routed layers", transformer.name, "take ec.neurons(model)")
    return [Coordinates(Site("experts", layer), n, d_model) for layer, (n, d_model, _) in layers.items()]
