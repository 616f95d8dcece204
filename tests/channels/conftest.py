"""A platform as a carrier would have it: OpenSSH, an authorized key, and kmp-receive as its forced command."""

from __future__ import annotations

import os
import shlex
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.channels.options import SshOptions
from kmp_smsd.channels.protocol import Bind
from kmp_smsd.channels.ssh import SshChannel, open_channel
from tests.sshd import OpensshServer, find_sshd

ROOT = Path(__file__).resolve().parents[2]
RECEIVER = ROOT / "scripts" / "kmp-receive"
HOSTILE = Path(__file__).with_name("hostile_receiver.py")
NOW_S = 1_732_380_000.0
VERSION = 1_732_380_000_000


class Platform:
    def __init__(self, directory: Path) -> None:
        self.store = directory / "keys.db"
        self.honest = shlex.join([sys.executable, str(RECEIVER), "--store", str(self.store)])
        self.server = OpensshServer(directory / "sshd", self.honest)
        self.channels: list[SshChannel] = []

    def options(self, **changes: Any) -> SshOptions:
        plain = {
            "kind": "ssh",
            "hosts": [self.server.address],
            "user": self.server.user,
            "host_keys": [self.server.host_key],
        }
        return SshOptions.model_validate(plain | changes)

    def open(self, identity: bytes | None = None, **changes: Any) -> SshChannel:
        channel = open_channel(
            self.options(**changes), lambda _reference: identity or self.server.identity, "metering", lambda: NOW_S
        )
        self.channels.append(channel)
        return channel

    def misbehave(self, *behaviour: str) -> None:
        """From the next connection on, the hostile receiver answers."""
        self.server.command(shlex.join([sys.executable, str(HOSTILE), *behaviour]))

    def behave(self) -> None:
        self.server.command(self.honest)

    def held(self) -> dict[tuple[str, str], tuple[int, bytes | None]]:
        """What the platform's store holds: version and key (None: a tombstone) by MDN and app ID."""
        if not self.store.exists():
            return {}
        connection = sqlite3.connect(self.store)
        try:
            rows = connection.execute("SELECT mdn, app_id, version, key FROM held").fetchall()
        finally:
            connection.close()
        return {(mdn, app_id): (version, key) for mdn, app_id, version, key in rows}


@pytest.fixture
def platform(tmp_path: Path) -> Iterator[Platform]:
    if find_sshd() is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have an OpenSSH server")
        pytest.skip("no OpenSSH server on this machine (Debian: openssh-server)")
    platform = Platform(tmp_path)
    platform.server.start()
    yield platform
    for channel in platform.channels:
        channel.close()
    platform.server.stop()


@pytest.fixture
def binds() -> list[Bind]:
    return make_binds(50)


def make_binds(count: int, version: int = VERSION) -> list[Bind]:
    """Deliveries with keys that differ."""
    return [
        Bind(
            mdn=str(8613900000000 + number),
            app_id="meter",
            version=version,
            key_id=f"K{number}",
            algorithm="aes",
            kcv="BE7ED6",
            key=number.to_bytes(4, "big") * 4,
        )
        for number in range(count)
    ]
