"""What every test shares."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

import hypothesis
import pytest


@pytest.fixture(autouse=True)
def _ordinary_arithmetic() -> Iterator[None]:
    """Training makes its process count tiny numbers as zero (speed); other tests get ordinary arithmetic back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)


# The same examples each time, so that a change is judged by what it changed; LANG1_FUZZ=1 draws new ones.
hypothesis.settings.register_profile("steady", derandomize=True)
hypothesis.settings.register_profile("fuzz", derandomize=False)
hypothesis.settings.load_profile("fuzz" if os.environ.get("LANG1_FUZZ") else "steady")
