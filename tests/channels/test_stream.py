"""What every stream does with what comes, and how it ends."""

from __future__ import annotations

from collections.abc import Collection
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.stream import Stream
from kmp_smsd.channels.tls_stream import TlsStream

LINE_MAX = 10


class Plain(Stream):
    """Hears what it is told to, and nothing else."""

    said = ""

    def __init__(self) -> None:
        super().__init__(Host("far.example", 22), "SHA256:abc", LINE_MAX)
        self.hung_up = 0

    def send(self, octets: bytes, within_s: float, keys: Collection[bytes]) -> None: ...

    def receive(self, within_s: float, keys: Collection[bytes]) -> list[bytes]: ...

    def hear(self, octets: bytes, *keys: bytes) -> list[bytes]:
        return self._lines(octets, keys)

    def _hang_up(self) -> None:
        assert self._closed  # as a thread finds that is woken by it
        self.hung_up += 1

    def _last_words(self, _keys: Collection[bytes]) -> str:
        return self.said


@pytest.fixture
def stream() -> Plain:
    return Plain()


def test_lines_end_where_their_line_feed_comes(stream: Plain) -> None:
    assert [stream.hear(octets) for octets in (b"a", b"b\n", b"", b"\nc\nd", b"d", b"\n")] == [
        [], [b"ab"], [], [b"", b"c"], [], [b"dd"],
    ]  # fmt: skip


@pytest.mark.parametrize("ended", ["", "\n", "\nb\n"])
@pytest.mark.parametrize("begun", ["", "a\n"])
def test_line_may_be_so_long_and_no_longer_whether_it_has_ended_or_not(stream: Plain, begun: str, ended: str) -> None:
    stream.hear(f"{begun}attention\n".encode())
    for letter in "attention":
        stream.hear(letter.encode())
    with pytest.raises(ChannelDown, match=r"^far\.example:22: a line of more than 10 octets: attentions$"):
        stream.hear(f"s{ended}".encode())
    assert stream.hung_up == 1


def test_key_in_a_line_that_is_too_long_is_hidden(stream: Plain) -> None:
    with pytest.raises(ChannelDown) as caught:
        stream.hear(b"a secret line", b"secret line")
    assert "secret" not in str(caught.value)


def test_error_tells_what_the_receiver_said_unless_we_closed_it(stream: Plain) -> None:
    assert str(Plain().down("it broke", ())) == "far.example:22: it broke"
    stream.said = "no room"
    assert str(stream.down("it broke", ())) == "far.example:22: it broke (it said: no room)"
    assert str(stream.down("it broke", ())) == "far.example:22: closed by us"
    assert stream.hung_up == 2


def test_key_in_a_line_that_is_too_long_is_hidden_over_tls_too() -> None:
    connection: Any = SimpleNamespace(receive=lambda _deadline: b"opensesamesecret" * 5, close=lambda: None)
    identity: Any = SimpleNamespace(valid_until=datetime.now(UTC), fingerprint="sha256//abc")
    stream = TlsStream(Host("far.example", 4433), connection, "sha256//def", identity, 64)
    with pytest.raises(ChannelDown, match="a line of more than 64 octets: <hidden: it repeats a key>"):
        stream.receive(1.0, [b"opensesamesecret"])
