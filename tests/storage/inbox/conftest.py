"""Where an inbox is: beside a database that is there only for those who ask for it."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.storage.fresh import new_database


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kmp.db"


@pytest.fixture
def database(path: Path) -> Path:
    new_database(path)
    return path
