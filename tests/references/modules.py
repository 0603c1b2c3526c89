"""A Hugging Face model as nodes, by calling its own modules: nothing of a weight's layout or of a formula is written again.

A layer is called as the model calls it (positions, masks and all that goes with it are taken from a call of the model), with
hooks that put one value in the place of another: what the queries' projection gives on one input, the keys' on another, the
values' on a third. A head's write is what the output projection makes of its slice alone. The MLP's write is what the layer adds
when attention writes zero, and attention's is what it adds when the MLP writes zero.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import wraps
from typing import Any

import torch
from torch import Tensor, nn

Change = Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Names:
    """Where things are in a Hugging Face model.

    Attributes:
        layers: The list of layers.
        attention: The attention module in a layer.
        projections: Names of the projections in it: three, or one that gives queries, keys and values together.
        together: For one projection: a letter (q, k or v) for each of its outputs, given the model's sizes.
        out: The output projection in the attention module.
        mlp_out: What gives the MLP's write, in a layer.
    """

    layers: str = "model.layers"
    attention: str = "self_attn"
    projections: tuple[str, ...] = ("q_proj", "k_proj", "v_proj")
    together: Callable[[Modules], str] | None = None
    out: str = "o_proj"
    mlp_out: str = "mlp"


def remembered(node: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """A node's value for inputs that it has met, where no gradient is asked for: runs of a circuit differ in few of them."""

    @wraps(node)
    def ask(self: Modules, *inputs: Tensor | int) -> Tensor:
        tensors = [x for x in inputs if isinstance(x, Tensor)]
        if any(x.requires_grad for x in tensors):
            return node(self, *inputs)
        key = (node.__name__, *(x.numpy().tobytes() if isinstance(x, Tensor) else x for x in inputs))
        if key not in self._met:
            with torch.no_grad():
                self._met[key] = node(self, *inputs)
        return self._met[key]

    return ask


class Modules:
    """A Hugging Face model, float64, as `references.literal.Literal` asks for it."""

    mlps = True

    def __init__(self, model: nn.Module, names: Names, parallel: bool) -> None:
        self.model, self.names, self.parallel = model, names, parallel
        config = model.config
        self.n_layers, self.n_heads = config.num_hidden_layers, config.num_attention_heads
        self.n_kv_heads = getattr(config, "num_key_value_heads", None) or self.n_heads
        if getattr(config, "multi_query", False):
            self.n_kv_heads = 1
        self.layers = model.get_submodule(names.layers)
        self.d_head = self._out(0).weight.shape[1] // self.n_heads
        self._met: dict[tuple[Any, ...], Tensor] = {}
        self._called: dict[int, list[tuple[tuple[Any, ...], dict[str, Any]]]] = {}

    # The nodes

    def embed(self, tokens: list[int]) -> Tensor:
        embedded, self._called[len(tokens)] = self._calls(tokens)
        return embedded

    @remembered
    def head(self, layer: int, head: int, q_input: Tensor, k_input: Tensor, v_input: Tensor) -> Tensor:
        attention, parts = self._attention(layer), {"q": q_input, "k": k_input, "v": v_input}
        outputs = {part: self._projections(layer, x) for part, x in parts.items()}
        if self.names.together is None:
            mixed = {name: outputs[part][name] for part, name in zip("qkv", self.names.projections)}
        else:
            (name,) = self.names.projections
            owner = self.names.together(self)
            is_of = {part: torch.tensor([each == part for each in owner], dtype=q_input.dtype) for part in "qkv"}
            mixed = {name: sum(outputs[part][name] * is_of[part] for part in "qkv")}
        rows = slice(head * self.d_head, (head + 1) * self.d_head)
        seen: list[Tensor] = []

        def one_head(z: Tensor) -> Tensor:
            only = torch.zeros_like(z)
            only[..., rows] = z[..., rows]
            return only

        changes = {
            attention.get_submodule(name): (lambda old, new=new: new.view(old.shape)) for name, new in mixed.items()
        }
        with replacing(changes), replacing_inputs({self._out(layer): one_head}), watching(self._out(layer), seen):
            self._layer(layer, v_input)
        bias = getattr(self._out(layer), "bias", None)
        out = seen[0].view(v_input.shape)
        return out if bias is None else out - bias

    @remembered
    def attention_out(self, layer: int, heads: Tensor) -> Tensor:
        bias = getattr(self._out(layer), "bias", None)
        written = heads if bias is None else heads + bias
        silent = self.layers[layer].get_submodule(self.names.mlp_out)
        with replacing({self._out(layer): lambda old: written.view(old.shape), silent: torch.zeros_like}):
            return self._layer(layer, torch.zeros_like(heads))

    @remembered
    def mlp(self, layer: int, x: Tensor) -> Tensor:
        with replacing({self._out(layer): torch.zeros_like}):
            return self._layer(layer, x) - x

    @remembered
    def logits(self, x: Tensor) -> Tensor:
        with replacing({self.layers[-1]: lambda old: x[None]}):
            return self.model(torch.zeros(1, len(x), dtype=torch.long), use_cache=False).logits[0]

    # The model's own calls

    def _attention(self, layer: int) -> nn.Module:
        return self.layers[layer].get_submodule(self.names.attention)

    def _out(self, layer: int) -> nn.Module:
        return self._attention(layer).get_submodule(self.names.out)

    def _calls(self, tokens: list[int]) -> tuple[Tensor, list[tuple[tuple[Any, ...], dict[str, Any]]]]:
        """What the first layer is given for a prompt, and the other arguments of each layer's call."""
        calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

        def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            calls.append((args, kwargs))

        handles = [layer.register_forward_pre_hook(note, with_kwargs=True) for layer in self.layers]
        try:
            with torch.no_grad():
                self.model(torch.tensor([tokens]), use_cache=False)
        finally:
            for handle in handles:
                handle.remove()
        args, kwargs = calls[0]
        embedded = args[0] if args else kwargs["hidden_states"]
        return embedded[0], [
            (args[1:], {name: x for name, x in kwargs.items() if name != "hidden_states"}) for args, kwargs in calls
        ]

    def _layer(self, layer: int, x: Tensor) -> Tensor:
        """What a layer makes of a stream [pos d_model], called as it was when a prompt of this length was embedded."""
        args, kwargs = self._called[len(x)][layer]
        out = self.layers[layer](x[None], *args, **kwargs)
        return (out[0] if isinstance(out, tuple) else out)[0]

    def _projections(self, layer: int, x: Tensor) -> dict[str, Tensor]:
        """What the projections give when attention reads a stream."""
        seen: dict[str, list[Tensor]] = {name: [] for name in self.names.projections}
        attention = self._attention(layer)
        with watching(attention.get_submodule(self.names.projections[0]), seen[self.names.projections[0]]):
            if len(self.names.projections) == 1:
                self._layer(layer, x)
            else:
                _, k, v = self.names.projections
                with watching(attention.get_submodule(k), seen[k]), watching(attention.get_submodule(v), seen[v]):
                    self._layer(layer, x)
        return {name: found[0] for name, found in seen.items()}


@contextmanager
def replacing(changes: dict[nn.Module, Change]) -> Iterator[None]:
    """Modules give something else; of a tuple, its first entry changes."""

    def hook(change: Change) -> Callable[..., Any]:
        return lambda _, args, out: (change(out[0]), *out[1:]) if isinstance(out, tuple) else change(out)

    handles = [module.register_forward_hook(hook(change)) for module, change in changes.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def replacing_inputs(changes: dict[nn.Module, Change]) -> Iterator[None]:
    """Modules read something else as their first argument."""
    handles = [
        module.register_forward_pre_hook(lambda _, args, change=change: (change(args[0]), *args[1:]))
        for module, change in changes.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@contextmanager
def watching(module: nn.Module, seen: list[Tensor]) -> Iterator[None]:
    """What a module gives, noted."""
    handle = module.register_forward_hook(lambda _, args, out: seen.append(out))
    try:
        yield
    finally:
        handle.remove()
