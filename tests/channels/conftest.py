from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

# `tests.sshd` is shared with other rooms' tests: found by `pytest` as by `python -m pytest`.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from kmp_smsd.channels import ssh_stream
from kmp_smsd.channels.protocol import Bind
from tests.channels.peer import Platform, make_binds


@pytest.fixture
def platform(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Platform]:
    monkeypatch.setattr(ssh_stream, "EXIT_STATUS_WITHIN_S", 20.0)  # a starved sshd may be late with it
    platform = Platform(tmp_path)
    platform.server.start()
    yield platform
    for channel in platform.channels:
        channel.close()
    platform.server.stop()
    platform.second.stop()


@pytest.fixture
def binds() -> list[Bind]:
    return make_binds(50)
