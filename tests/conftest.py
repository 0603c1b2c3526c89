"""The suite's set-up: annotations are checked at run time on demand, and nothing runs on more than one thread."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

torch.set_num_threads(1)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--damaged", type=int, default=150, help="how many damaged files each loader is given")
    parser.addoption("--examples", type=int, default=60, help="how many graphs and circuits each property is tried on")
    parser.addoption("--interrupts", type=int, default=6, help="how often each call is interrupted")
    parser.addoption("--kills", type=int, default=6, help="how often each call is killed")
    parser.addoption("--typecheck", action="store_true", help="check annotations at run time, shapes too (slow)")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("--typecheck"):
        jaxtyping.install_import_hook(
            ["edge_circuits.graphs", "edge_circuits.eap", "edge_circuits.acdc"], "beartype.beartype"
        )


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Calls as a user makes them: wrong types get past the suite's run-time checks of annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
