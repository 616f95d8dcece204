"""One carrier for each test file, or for one test."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.e2e.carrier import Carrier
from tests.mounting import require_root
from tests.sshd import require_sshd


@contextmanager
def _at_work(directory: Path) -> Iterator[Carrier]:
    """Both roles run as processes of their own; a test that stops one starts it again."""
    require_sshd()
    with Carrier(directory) as one:
        one.start_role("dispatch")
        one.start_role("intake")
        yield one
        for role in one.roles:
            if role.process.poll() is None:
                assert role.stop() == 0


@pytest.fixture(scope="module")
def carrier(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Carrier]:
    with _at_work(tmp_path_factory.mktemp("carrier")) as one:
        yield one


@pytest.fixture
def own_carrier(tmp_path: Path) -> Iterator[Carrier]:
    """For a test that changes which platforms there are."""
    with _at_work(tmp_path) as one:
        yield one


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    require_root()
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "tmpfs", disk], check=True)
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)
