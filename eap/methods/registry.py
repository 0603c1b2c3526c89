"""The scoring methods that there are, and which settings belong to which."""

from __future__ import annotations

from typing import Any, get_args

from edge_circuits.eap.context import Integration, Method, MethodOfAll
from edge_circuits.eap.methods.edge_attribution_patching import clean_corrupted, eap
from edge_circuits.eap.methods.exact import exact
from edge_circuits.eap.methods.head_importance import hisp
from edge_circuits.eap.methods.information_flow import information_flow_routes
from edge_circuits.eap.methods.integrated_gradients import eap_ig, eap_ig_activations
from edge_circuits.eap.methods.learned_mask import learned_mask
from edge_circuits.eap.methods.random_scores import random
from edge_circuits.eap.methods.relp import relp
from edge_circuits.graphs.metrics import Metric
from edge_circuits.graphs.running.patching import check_intervention

MOST_STEPS = 1000
METHODS: dict[str, Method | MethodOfAll] = {
    "eap": eap,
    "relp": relp,
    "eap-ig": eap_ig,
    "eap-ig-activations": eap_ig_activations,
    "clean-corrupted": clean_corrupted,
    "hisp": hisp,
    "information-flow-routes": information_flow_routes,
    "exact": exact,
    "learned-mask": learned_mask,
    "random": random,
}
OF_ALL = ("learned-mask",)  # need all batches at once
WITHOUT_GRADIENT = ("exact", "information-flow-routes", "learned-mask", "random")
WITHOUT_METRIC = ("information-flow-routes", "random")
STEPS = {"eap-ig": 5, "eap-ig-activations": 5, "learned-mask": 100}
SETTINGS = {
    "eap-ig": ("steps", "integration"),
    "eap-ig-activations": ("steps", "integration"),
    "learned-mask": ("steps", "penalty", "seed"),
    "random": ("seed",),
}
OWNERS = {"rules": "relp", "edges": "exact", "penalty": "learned-mask"}
"""Settings of one method alone."""


def check_method(method: str, metric: Metric, intervention: str, integration: str) -> None:
    """Refuse what cannot be asked.

    Raises:
        ValueError: no such method, intervention or integration, or a metric without a gradient for a method that takes one.
    """
    if method not in METHODS:
        raise ValueError(f"method is one of {', '.join(METHODS)}; got {method!r}.")
    if method not in WITHOUT_GRADIENT and getattr(metric, "zero_gradient_at_clean", False):
        raise ValueError(
            "this metric's gradient on the clean prompt is zero (a divergence from the model itself is at its minimum "
            "there), so every score would be zero; score with a task metric, or with method='exact'."
        )
    check_intervention(intervention)
    if integration not in get_args(Integration):
        raise ValueError(f"integration is 'left' or 'midpoint', got {integration!r}.")


def check_settings(method: str, given: dict[str, Any]) -> None:
    """Refuse settings that have no place in a method, or no such value.

    Args:
        given: `steps`, `token_chunk`, `checkpoint`, `process_group` and those of `OWNERS`; None where nothing was given.

    Raises:
        ValueError: with the setting and what to do.
    """
    for name, owner in OWNERS.items():
        if given[name] is not None and method != owner:
            raise ValueError(f"{name} has no place in method {method!r}; it belongs to {owner}.")
    for name in ("checkpoint", "process_group"):
        if given[name] is not None and method in OF_ALL:
            raise ValueError(
                f"{name} has no place in method {method!r}, which trains on one batch after the other; leave it out."
            )
    if given["penalty"] is not None and not 0 <= given["penalty"] < float("inf"):
        raise ValueError(f"penalty must be a number from 0 up, got {given['penalty']!r}.")
    _check_counts(method, given["steps"], given["token_chunk"])


def _check_counts(method: str, steps: int, token_chunk: int) -> None:
    if steps != 1 and method not in STEPS:
        raise ValueError(f"steps has no place in method {method!r}; it belongs to {', '.join(STEPS)}.")
    if method.startswith("eap-ig") and isinstance(steps, int) and steps > MOST_STEPS:
        raise ValueError(f"steps is {steps}; more than {MOST_STEPS} points add cost and no accuracy: take 5 to 100.")
    for name, value in (("steps", steps), ("token_chunk", token_chunk)):
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"{name} must be a positive whole number, got {value!r}.")
