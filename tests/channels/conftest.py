from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

# `tests.sshd` is shared with other rooms' tests: found by `pytest` as by `python -m pytest`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kmp_smsd.channels import ssh_stream
from kmp_smsd.channels.protocol import Bind
from tests.channels.peer import Platform, SshPlatform, TlsPlatform, make_binds


@contextmanager
def _at_work(platform: Platform) -> Iterator[Any]:
    platform.server.start()
    yield platform
    platform.close()


@pytest.fixture
def ssh_platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SshPlatform]:
    monkeypatch.setattr(ssh_stream, "EXIT_STATUS_WITHIN_S", 20.0)  # a starved sshd may be late with it
    with _at_work(SshPlatform(tmp_path)) as platform:
        yield platform


@pytest.fixture
def tls_platform(tmp_path: Path) -> Iterator[TlsPlatform]:
    with _at_work(TlsPlatform(tmp_path)) as platform:
        yield platform


@pytest.fixture
def binds() -> list[Bind]:
    return make_binds(50)
