"""Dispatchers by hand, with as many platforms as the test wants."""

from __future__ import annotations

import pytest

from tests.service.dispatch.stage import At, DelivererByHand


@pytest.fixture
def start(tmp_path, monkeypatch):
    opened = []

    def started(count=2, due=(), **options):
        deliverers = {f"p{number}": DelivererByHand(f"p{number}") for number in range(1, count + 1)}
        at = At(tmp_path / "kmp.db", monkeypatch, deliverers, **options)
        opened.append(at)
        at.store.routes.set(at.routes)
        at.make_due(*due)
        return at.start()

    yield started
    for at in opened:
        at.store.close()
        at.mine.close()
