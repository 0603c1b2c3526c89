"""Whether a model still computes what it computed when its logits were compared with those of its weights.

Weights are read afresh on every call, so new values of them need no comparison. What could change the model without being
read is seen without running it:

- another module, class or `forward`, other hooks, another number or word that a module or its configuration holds: the
  model's `make` differs;
- parameters that no reader took (adapters), hooks, and a `forward` of a single module, all of which may change what they
  do from one call to the next: such a model is `foreign`, and compared on every call. What TransformerLens itself sets on a
  model is known: its hooks, its `forward`, and the projection of queries, keys and values together that it keeps beside the
  three that it has split off and computes with (Falcon, BLOOM, MPT).
"""

from __future__ import annotations

import copy
import inspect
import weakref
from collections.abc import Iterator

from torch import Tensor, nn

from edge_circuits.graphs.model.weights import Reader, storage_of

_CONFIGS = ("config", "cfg")


class Make:
    """What a model is made of: its modules, their classes, `forward` and settings, and the hooks on them. Holds no module alive."""

    def __init__(self, model: nn.Module) -> None:
        modules = list(model.modules())
        self._modules = [weakref.ref(module) for module in modules]
        self._functions = [(type(module).forward, vars(module).get("forward")) for module in modules]
        configs = {id(config): config for each in modules for config in map(vars(each).get, _CONFIGS)}
        self._settings = [_settings(each) for each in (*modules, *configs.values())]
        self._hooks = [handle for module in modules for hooks in _hooks_of(module) for handle in hooks]

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Make) or len(self._modules) != len(other._modules):
            return False
        same = all(mine() is its() is not None for mine, its in zip(self._modules, other._modules))
        mine, its = ((make._functions, make._hooks, make._settings) for make in (self, other))
        return same and mine == its

    __hash__ = None


def foreign(model: nn.Module, read: Reader) -> Iterator[str]:
    """What a model has beyond the weights that were read, each by its name in the model."""
    idle = {id(parameter) for module in model.modules() for parameter in _split_off(module)}
    for name, parameter in model.named_parameters():
        if storage_of(parameter) not in read.storages and id(parameter) not in idle:
            yield f"the parameter {_plain(name)}, which is not read"
    for name, module in model.named_modules():
        if "forward" in vars(module) and not _is_bridges_own(module):
            yield f"a forward of its own on {_plain(name) or 'the model'}"
        if any(_is_foreign(hook) for hooks in _hooks_of(module) for hook in hooks.values()):
            yield f"a hook on {_plain(name) or 'the model'}"


def _settings(held: object) -> dict[str, object]:
    """The numbers and words of a module or a configuration; whether it trains changes no logits that are compared."""
    values = getattr(held, "__dict__", {}).items()
    return {name: value for name, value in values if isinstance(value, (bool, int, float, str)) and name != "training"}


def _hooks_of(module: nn.Module) -> tuple[dict[int, object], dict[int, object]]:
    return module._forward_pre_hooks, module._forward_hooks


def _split_off(module: nn.Module) -> Iterator[nn.Parameter]:
    """The fused projection of a bridge that computes with the three it was split into."""
    return module.qkv.parameters() if hasattr(module, "split_qkv_matrix") and "qkv" in module._modules else iter(())


def _is_foreign(hook: object) -> bool:
    """Not one that TransformerLens sets on a model's own modules; those on its hook points are wrapped in one of its functions."""
    function = getattr(hook, "func", hook)
    module = getattr(function, "__module__", "") or ""
    if "hook_point" not in module:
        return not module.startswith("transformer_lens")
    wrapped = inspect.getclosurevars(function).nonlocals if inspect.isfunction(function) else {}
    return not _is_of_bridges(wrapped.get("hook"))


def copied(model: nn.Module) -> nn.Module:
    """A deep copy that computes with its own weights: on Falcon's layers a bridge sets functions that keep to the original's.

    What a bridge holds of its last pass with gradients (an attention pattern) cannot be copied with its history, and comes without.
    """
    held = [value for module in model.modules() for value in vars(module).values() if isinstance(value, Tensor)]
    copy_of_it = copy.deepcopy(model, {id(value): value.detach() for value in held if value.grad_fn is not None})
    for module in copy_of_it.modules():
        if "forward" in vars(module) and _is_of_bridges(module.forward) and not _is_bridges_own(module):
            del module.forward
    return copy_of_it


def _is_bridges_own(module: nn.Module) -> bool:
    """Whether a module's own `forward` is a function that the bridge made for it and no other."""
    forward = vars(module)["forward"]
    held = inspect.getclosurevars(forward).nonlocals.values() if inspect.isfunction(forward) else ()
    return _is_of_bridges(forward) and any(each is module for each in (getattr(forward, "__self__", None), *held))


def _is_of_bridges(function: object) -> bool:
    """Whether a function is one of the bridge itself."""
    return (getattr(function, "__module__", "") or "").startswith("transformer_lens.model_bridge")


def _plain(name: str) -> str:
    return name.replace("_original_component.", "").replace("original_model.", "")
