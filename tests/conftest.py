"""The suite's set-up: annotations are checked at run time, and nothing runs on more than one thread."""

from __future__ import annotations

from collections.abc import Iterator

import jaxtyping
import pytest
import torch

jaxtyping.install_import_hook(["graphs", "eap"], "beartype.beartype")
torch.set_num_threads(1)


@pytest.fixture
def without_type_checks() -> Iterator[None]:
    """Calls as a user makes them: wrong types get past the suite's run-time checks of annotations."""
    before = jaxtyping.config.jaxtyping_disable
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", before)
