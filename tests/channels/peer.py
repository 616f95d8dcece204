"""A platform as a carrier would have it: OpenSSH, an authorized key, and kmp-receive as its forced command."""

from __future__ import annotations

import shlex
import sqlite3
import sys
from collections import deque
from pathlib import Path
from typing import Any

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import KEYS_KEPT
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel
from kmp_smsd.channels.protocol import Bind
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.simulator.openssh import new_identity
from tests.sshd import platform_server

HOSTILE = Path(__file__).with_name("hostile_receiver.py")
NOW_S = 1_732_380_000.0
VERSION = 1_732_380_000_000


# Version and key (None: a tombstone) by MDN and app ID.
Held = dict[tuple[str, str], tuple[int, bytes | None]]


def held_in(store: Path) -> Held:
    """What a platform's store holds."""
    connection = sqlite3.connect(store)
    try:
        rows = connection.execute("SELECT mdn, app_id, version, key FROM held").fetchall()
    finally:
        connection.close()
    return {(mdn, app_id): (version, key) for mdn, app_id, version, key in rows}


class Platform:
    def __init__(self, directory: Path) -> None:
        self.store = directory / "keys.db"
        self.identity, public = new_identity()
        self.server = platform_server(directory / "sshd", self.store, public)
        self.second = platform_server(directory / "sshd-2", self.store, public)
        self.channels: list[LineChannel] = []
        self.sent: deque[bytes] = deque(maxlen=KEYS_KEPT)

    def options(self, **changes: Any) -> SshOptions:
        plain = {
            "kind": "ssh",
            "hosts": [self.server.address],
            "user": self.server.user,
            "host_keys": [self.server.host_key],
        }
        return SshOptions.model_validate(plain | changes)

    def open(self, identity: bytes | None = None, cancel: Cancel | None = None, **changes: Any) -> LineChannel:
        channel = open_channel(
            self.options(**changes),
            lambda _reference: identity or self.identity,
            "metering",
            cancel or Cancel(),
            lambda: NOW_S,
            self.sent,
        )
        self.channels.append(channel)
        return channel

    def misbehave(self, *behaviour: str) -> None:
        """From the next connection on, the hostile receiver answers; the second server stays honest."""
        self.server.command(shlex.join([sys.executable, str(HOSTILE), *behaviour]))

    def held(self) -> Held:
        return held_in(self.store)


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
