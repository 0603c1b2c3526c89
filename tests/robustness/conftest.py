"""How many examples each property is tried on, always the same ones."""

from __future__ import annotations

import pytest
from hypothesis import settings


def pytest_configure(config: pytest.Config) -> None:
    n_examples = config.getoption("--examples")
    settings.register_profile("asked", max_examples=n_examples, deadline=None, derandomize=True, database=None)
    settings.load_profile("asked")
