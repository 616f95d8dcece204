"""The OpenSSH server for tests: without one they are skipped at home, and fail in CI."""

from __future__ import annotations

import os
import shlex
import sys
from pathlib import Path

import pytest

from kmp_smsd.simulator.openssh import OpensshServer, find_sshd
from tests.receiver_store import RECEIVER, new_store


def require_sshd() -> None:
    """Call before the first OpensshServer of a test."""
    if find_sshd() is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have an OpenSSH server")
        pytest.skip("no OpenSSH server on this machine (Debian: openssh-server)")


def platform_server(directory: Path, store: Path, public: str) -> OpensshServer:
    """A server that runs kmp-receive on `store` for the holder of the key `public`; not yet started."""
    require_sshd()
    return OpensshServer(directory, shlex.join(receiver_command(store)), public)


def receiver_command(store: Path) -> list[str]:
    """The command of this checkout's kmp-receive on `store`, which is made where there is none."""
    if not store.exists():
        new_store(store)
    return [sys.executable, str(RECEIVER), "--store", str(store)]
