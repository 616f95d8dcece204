"""Platforms as a carrier would have them: kmp-receive behind OpenSSH, or behind stunnel."""

from __future__ import annotations

import base64
import shlex
import sqlite3
import sys
from abc import ABC, abstractmethod
from collections import deque
from pathlib import Path
from typing import Any

from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.hiding import KEYS_KEPT
from kmp_smsd.channels.kinds import ChannelOptions
from kmp_smsd.channels.line_channel import LineChannel
from kmp_smsd.channels.opening import open_channel
from kmp_smsd.channels.protocol import Bind, Withdraw
from kmp_smsd.channels.ssh_options import SshOptions
from kmp_smsd.channels.tls_options import TlsOptions
from kmp_smsd.simulator.openssh import OpensshServer, new_identity
from tests.sshd import platform_server, receiver_command
from tests.stunnel import StunnelServer, new_certificate

HOSTILE = Path(__file__).with_name("hostile_receiver.py")
NOW_S = 1_732_380_000.0
VERSION = 1_732_380_000_000
KEY = bytes.fromhex("5ec2e7ca11ab1e0ddba11c0ffee00d1e")
WORDY = base64.b64decode("ODZIvwxFwaf/PtkJuwkTOA==")  # two words and a sign, which are free where nobody knows the key


class Platform(ABC):
    """Two doors to one store, and the channels that a test has opened; `server` is started by its fixture."""

    server: OpensshServer | StunnelServer
    second: OpensshServer | StunnelServer
    identity: bytes

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.store = directory / "keys.db"
        self.channels: list[LineChannel] = []
        self.sent: deque[bytes] = deque(maxlen=KEYS_KEPT)

    @abstractmethod
    def options(self, **changes: Any) -> ChannelOptions: ...

    @abstractmethod
    def doors(self, *servers: Any) -> dict[str, list[str]]:
        """The options for these, with the key of each pinned."""

    @abstractmethod
    def misbehave(self, *behaviour: str) -> None:
        """From the next connection on, the hostile receiver answers; the second server stays honest."""

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

    def held(self) -> dict[tuple[str, str], tuple[int, bytes | None]]:
        """What the store holds: version and key (None: a tombstone) by MDN and app ID."""
        connection = sqlite3.connect(self.store)
        try:
            rows = connection.execute("SELECT mdn, app_id, version, key FROM held").fetchall()
        finally:
            connection.close()
        return {(mdn, app_id): (version, key) for mdn, app_id, version, key in rows}

    def close(self) -> None:
        for channel in self.channels:
            channel.close()
        self.server.stop()
        self.second.stop()


class SshPlatform(Platform):
    """OpenSSH, an authorized key, and kmp-receive as its forced command."""

    server: OpensshServer
    second: OpensshServer

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.identity, public = new_identity()
        self.server = platform_server(directory / "sshd", self.store, public)
        self.second = platform_server(directory / "sshd-2", self.store, public)

    def options(self, **changes: Any) -> SshOptions:
        return SshOptions.model_validate({"kind": "ssh", "user": self.server.user} | self.doors(self.server) | changes)

    def doors(self, *servers: OpensshServer) -> dict[str, list[str]]:
        return {
            "hosts": [server.address for server in servers],
            "host_keys": [server.host_key for server in servers],
        }

    def misbehave(self, *behaviour: str) -> None:
        self.server.command(shlex.join([sys.executable, str(HOSTILE), *behaviour]))


class TlsPlatform(Platform):
    """stunnel, which lets our certificate in, and kmp-receive behind it."""

    server: StunnelServer
    second: StunnelServer

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        certificate, private = new_certificate("kmp")
        self.identity = certificate + private
        self.server = StunnelServer(directory / "stunnel", receiver_command(self.store), certificate)
        self.second = StunnelServer(directory / "stunnel-2", receiver_command(self.store), certificate)

    def options(self, **changes: Any) -> TlsOptions:
        return TlsOptions.model_validate(
            {"kind": "tls", "identity": {"credential": "tls_metering"}} | self.doors(self.server) | changes
        )

    def doors(self, *servers: StunnelServer) -> dict[str, list[str]]:
        return {
            "hosts": [server.address for server in servers],
            "server_keys": [server.server_key for server in servers],
        }

    def misbehave(self, *behaviour: str) -> None:
        self.server.command([sys.executable, str(HOSTILE), *behaviour])


def secret_bind(version: int = VERSION) -> Bind:
    return Bind(
        mdn="8613912345678", app_id="meter", version=version, key_id="8A3F", algorithm="aes", kcv="BE7ED6", key=KEY
    )


def withdraw(bind: Bind, version: int) -> Withdraw:
    return Withdraw(mdn=bind.mdn, app_id=bind.app_id, version=version)


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
