"""Intakes by hand: one, or as many as the test starts."""

from __future__ import annotations

import pytest

from tests.service.intake.stage import At
from tests.storage.fresh import new_database


@pytest.fixture
def start(tmp_path, monkeypatch):
    opened = []

    def started(**options):
        path = tmp_path / "kmp.db"
        new_database(path)
        opened.append(At(path, monkeypatch, **options))
        return opened[-1]

    yield started
    for at in opened:
        at.inbox.close()
        at.store.close()
        at.mine.close()


@pytest.fixture
def at(start):
    return start()
