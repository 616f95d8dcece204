"""What no real peer does reliably, since a network is slower than we are."""

from __future__ import annotations

from typing import Any

import pytest

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.stream import Stream


class Talker:
    """An SSH transport and its channel: something more stands on standard error whenever one looks; no answer comes."""

    def __init__(self) -> None:
        self.read_in_vain = 0
        self.closed = False

    def get_remote_server_key(self) -> Talker:
        return self

    def asbytes(self) -> bytes:
        return b"the host's key"

    def open_session(self) -> Talker:
        return self

    def exec_command(self, command: str) -> None: ...

    def settimeout(self, seconds: float) -> None: ...

    def recv(self, _octets: int) -> bytes:
        self.read_in_vain = 0
        raise TimeoutError

    def recv_stderr_ready(self) -> bool:
        return True

    def recv_stderr(self, _octets: int) -> bytes:
        self.read_in_vain += 1
        assert self.read_in_vain < 1_000
        return b"and another thing\n"

    def close(self) -> None:
        self.closed = True


def test_peer_that_talks_without_an_end_and_answers_nothing_is_hung_up_on() -> None:
    talker: Any = Talker()
    stream = Stream("metering", Host(name="far.example", port=22), talker, "kmp-receive", 65_536)
    with pytest.raises(ChannelDown, match=r"no answer for 0.05 s \(it said: and another thing\)"):
        stream.receive(0.05)
    assert talker.closed
