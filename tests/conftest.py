"""What every test shares."""

from __future__ import annotations

import sys
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True)
def _ordinary_arithmetic() -> Iterator[None]:
    """Training makes its process count tiny numbers as zero (speed); other tests get ordinary arithmetic back."""
    yield
    if "torch" in sys.modules:
        sys.modules["torch"].set_flush_denormal(False)
