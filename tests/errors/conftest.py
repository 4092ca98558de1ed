"""What all of these tests share."""

from __future__ import annotations

import contextlib

import pytest

import llm_stresstest as st


@pytest.fixture(autouse=True)
def no_full_collections(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out the collection before each run, which takes long in a process as large as pytest's."""
    monkeypatch.setattr(st, "still_collector", contextlib.nullcontext)
