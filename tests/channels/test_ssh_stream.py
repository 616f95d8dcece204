"""What no real peer does reliably, since a network is slower than we are."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import paramiko
import pytest

from kmp_smsd.channels import ssh_stream
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.ssh_stream import SshStream


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
    stream = SshStream("metering", Host(name="far.example", port=22), talker, "kmp-receive", 65_536)
    with pytest.raises(ChannelDown, match=r"no answer for 0.05 s \(it said: and another thing\)"):
        stream.receive(0.05, ())
    assert talker.closed


class Quoting(Talker):
    """Quotes a key on standard error, gives `answer`, and takes nothing; it may show another host key."""

    host_key = b"the host's key"
    answer: bytes | None = b"an answer\n"
    exit_status = -1

    def asbytes(self) -> bytes:
        return self.host_key

    def recv(self, _octets: int) -> bytes:
        self.read_in_vain = 0
        if self.answer is None:
            raise TimeoutError
        return self.answer

    def sendall(self, _octets: bytes) -> None:
        raise TimeoutError

    def is_active(self) -> bool:
        return False


QUOTED = [b"and another thing"]


def quoting() -> tuple[Any, SshStream]:
    peer: Any = Quoting()
    stream = SshStream("metering", Host(name="far.example", port=22), peer, "kmp-receive", 65_536)
    assert stream.receive(0.05, QUOTED) == [b"an answer"]
    return peer, stream


def test_key_that_a_host_quoted_before_it_showed_another_one_is_hidden() -> None:
    peer, stream = quoting()
    peer.host_key = b"another key"
    with pytest.raises(ChannelDown, match=r"host key changed on a live connection \(it said: <hidden"):
        stream.send(b"a delivery\n", 0.05, QUOTED)


def test_key_that_a_host_quoted_before_it_took_no_more_is_hidden() -> None:
    _, stream = quoting()
    with pytest.raises(ChannelDown, match=r"takes no data since 0.05 s \(it said: <hidden"):
        stream.send(b"a delivery\n", 0.05, QUOTED)


@pytest.mark.parametrize(
    ("answer", "told"),
    [
        (None, "no answer for 0.05 s"),
        (b"", "the connection broke"),
        (b"and another thing " * 5_000, "a line of more than 65536 octets: <hidden: it repeats a key>"),
    ],
)
def test_key_that_a_host_quoted_before_it_gave_no_answer_is_hidden(answer: bytes | None, told: str) -> None:
    peer, stream = quoting()
    peer.answer = answer
    with pytest.raises(ChannelDown, match=rf"{told} \(it said: <hidden"):
        stream.receive(0.05, QUOTED)


class Late(Talker):
    """Answers, and says so much meanwhile that we have not read the answer when its time is over."""

    def __init__(self, clock: Clock) -> None:
        super().__init__()
        self._clock = clock
        self._answers = [TimeoutError(), b"an answer\n"]

    def recv(self, _octets: int) -> bytes:
        answer = self._answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    def recv_stderr_ready(self) -> bool:
        return self._clock.seconds == 0.0

    def recv_stderr(self, _octets: int) -> bytes:
        self._clock.seconds = 60.0  # so long it took us to look at this
        return b"and another thing\n"


class Clock:
    seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds


def test_answer_that_has_come_is_read_however_late_we_are(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr(ssh_stream, "time", clock)
    late: Any = Late(clock)
    stream = SshStream("metering", Host(name="far.example", port=22), late, "kmp-receive", 65_536)
    assert stream.receive(30.0, ()) == [b"an answer"]


def test_line_is_looked_at_for_so_many_keys_only(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ssh_stream, "LOOKS", 30)
    caplog.set_level("INFO")
    talker: Any = Talker()
    stream = SshStream("metering", Host(name="far.example", port=22), talker, "kmp-receive", 65_536)
    keys = [number.to_bytes(16, "big") for number in range(1_000, 1_010)]
    with pytest.raises(ChannelDown):
        stream.receive(0.05, keys)
    assert [record.getMessage() for record in caplog.records] == [
        *["platform metering says: and another thing"] * 3,
        "platform metering says much: its standard error is no longer logged",
    ]


class Ending(Talker):
    """Takes nothing, for the reason `error`; ended with `exit_status`, having said `last` on standard error."""

    def __init__(self, error: Exception, *, exit_status: int = -1, last: bytes = b"", active: bool = True) -> None:
        super().__init__()
        self.timeouts: list[float] = []
        self.waits: list[float] = []
        self.exit_status = exit_status
        self.status_event = SimpleNamespace(wait=self.waits.append)
        self._error = error
        self._last = [last, b""]
        self._active = active

    def settimeout(self, seconds: float) -> None:
        self.timeouts.append(seconds)

    def sendall(self, _octets: bytes) -> None:
        raise self._error

    def is_active(self) -> bool:
        return self._active

    def recv_stderr_ready(self) -> bool:
        return True  # at its end too

    def recv_stderr(self, _octets: int) -> bytes:
        return self._last.pop(0)


def sent_in_vain(ending: Any) -> str:
    stream = SshStream("metering", Host(name="far.example", port=22), ending, "kmp-receive", 65_536)
    with pytest.raises(ChannelDown) as caught:
        stream.send(b"a delivery\n", 5.0, ())
    assert ending.closed
    return str(caught.value)


def test_host_that_takes_nothing_has_its_time() -> None:
    ending = Ending(TimeoutError())
    assert sent_in_vain(ending) == "far.example:22: takes no data since 5 s"
    assert ending.timeouts == [5.0]


@pytest.mark.parametrize("error", [OSError("Socket is closed"), EOFError(), paramiko.SSHException("closed")])
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (0, "the receiver ended with exit status 0"),
        (255, "the receiver ended with exit status 255"),
        (256, "the connection broke"),
        (-1, "the connection broke"),
    ],
)
def test_receiver_that_ended_is_told_with_its_last_words(error: Exception, status: int, told: str) -> None:
    ending = Ending(error, exit_status=status, last=b"disk full\nno room")
    assert sent_in_vain(ending) == f"far.example:22: {told} (it said: no room)"
    assert len(ending.waits) == 1


@pytest.mark.parametrize("status", [1, -1])
def test_key_among_the_last_words_is_hidden(caplog: pytest.LogCaptureFixture, status: int) -> None:
    caplog.set_level("INFO")
    key = b"opensesamesecret"
    ending: Any = Ending(EOFError(), exit_status=status, last=b"%b\n%b" % (key, key))
    stream = SshStream("metering", Host(name="far.example", port=22), ending, "kmp-receive", 65_536)
    with pytest.raises(ChannelDown, match="it said: <hidden"):
        stream.send(b"a delivery\n", 5.0, [key])
    assert caplog.messages == ["platform metering says: <hidden: it repeats a key>"]


def test_nobody_waits_for_the_status_of_a_connection_that_broke() -> None:
    ending = Ending(EOFError(), active=False)
    assert sent_in_vain(ending) == "far.example:22: the connection broke"
    assert ending.waits == []


def test_line_of_standard_error_without_an_end_fills_no_memory() -> None:
    ending: Any = Ending(EOFError(), last=b"no room " * 100_000)
    stream = SshStream("metering", Host(name="far.example", port=22), ending, "kmp-receive", 65_536)
    with pytest.raises(ChannelDown):
        stream.send(b"a delivery\n", 5.0, ())
    assert len(stream._muttered) == ssh_stream.EXAMINED_CHARACTERS
