"""Fixtures shared by all tests."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of public data sets that the repository does not carry."""
    here = Path(__file__).resolve().parents[1]
    root = Path(os.environ.get("EQUIPOISE_SHARED_DATA", here.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"public test data not found at {root} (set EQUIPOISE_SHARED_DATA)")
    return root
