"""What no receiver does so that a network shows it: its buffers hold what these fill."""

from __future__ import annotations

import contextlib
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from kmp_smsd.channels import tls_connection
from kmp_smsd.channels.tls_connection import READ_OCTETS, TAKEN_IN_MAX, TlsConnection, tls_reason
from kmp_smsd.channels.tls_identity import client_context
from tests.stunnel import new_certificate

MUCH = 1_500_000  # octets, of which the buffers of a socket pair hold a quarter


@pytest.fixture
def server(tmp_path: Path) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    pem = tmp_path / "server.pem"
    pem.write_bytes(b"".join(new_certificate("far")))
    context.load_cert_chain(pem)
    return context


@contextlib.contextmanager
def connected(server: ssl.SSLContext, answer: Callable[[ssl.SSLSocket], object]) -> Iterator[TlsConnection]:
    """A connection whose far side does `answer` after the handshake."""
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(theirs, server_side=True) as secured:
            answer(secured)

    thread = threading.Thread(target=serve)
    thread.start()
    connection = TlsConnection(ours, client_context(), "far")
    try:
        connection.handshake(time.monotonic() + 20)
        yield connection
    finally:
        connection.close()
        thread.join()


def test_far_side_that_says_much_before_it_takes_more_stops_nothing(server: ssl.SSLContext) -> None:
    """Both would wait for each other for ever, were nothing taken in while something is being sent."""
    heard = bytearray()

    def answer(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"a" * MUCH)
        while len(heard) < MUCH:
            heard.extend(secured.recv(65_536))
        secured.sendall(b"b")

    with connected(server, answer) as connection:
        connection.send(b"q" * MUCH, within_s=20)
        said = b""
        while not said.endswith(b"b"):
            said += connection.receive(time.monotonic() + 20)
    assert heard == b"q" * MUCH
    assert said == b"a" * MUCH + b"b"


def test_far_side_that_talks_without_an_end_and_takes_nothing_fills_no_memory(
    server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(secured: ssl.SSLSocket) -> None:
        while True:
            secured.sendall(b"a" * 16_384)

    with connected(server, answer) as connection:
        really_wait = connection._wait

        def wait(events: int, deadline: float) -> int:
            is_full = events == select.POLLOUT
            return 0 if is_full or connection._arrived.pending > 2 * TAKEN_IN_MAX else really_wait(events, deadline)

        monkeypatch.setattr(connection, "_wait", wait)
        with pytest.raises(TimeoutError):
            connection.send(b"q" * MUCH, within_s=20)
        assert TAKEN_IN_MAX <= connection._arrived.pending < TAKEN_IN_MAX + READ_OCTETS


def test_far_side_that_has_ended_its_own_half_may_still_take_what_it_is_sent(server: ssl.SSLContext) -> None:
    heard = bytearray()

    def answer(secured: ssl.SSLSocket) -> None:
        socket.socket.shutdown(secured, socket.SHUT_WR)
        while len(heard) < MUCH:
            heard.extend(secured.recv(65_536))

    with connected(server, answer) as connection:
        connection.send(b"q" * MUCH, within_s=20)
        with pytest.raises(ssl.SSLError, match=r"(?i)eof"):
            connection.receive(time.monotonic() + 20)
    assert heard == b"q" * MUCH


def test_end_of_what_comes_is_waited_for_once(server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stays there: whoever waits for it again while sending would take a whole processor."""
    ended = threading.Event()
    waits: list[int] = []

    def answer(secured: ssl.SSLSocket) -> None:
        socket.socket.shutdown(secured, socket.SHUT_WR)
        ended.wait(20)
        heard = 0
        while heard < MUCH:
            heard += len(secured.recv(65_536))

    with connected(server, answer) as connection:
        really_wait = connection._wait

        def told_wait(events: int, deadline: float) -> int:
            if connection._at_end:
                waits.append(events)
                ended.set()
            return really_wait(events, deadline)

        monkeypatch.setattr(connection, "_wait", told_wait)
        connection.send(b"q" * MUCH, within_s=20)
    assert set(waits) == {select.POLLOUT}


class SlowSocket:
    """Takes a little whenever it was waited for."""

    def __init__(self, real: socket.socket) -> None:
        real.setblocking(True)
        self._real = real
        self._takes = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, octets: memoryview) -> int:
        self._takes = not self._takes
        if self._takes:
            raise BlockingIOError
        return self._real.send(octets[:100_000])


def test_far_side_that_is_slow_has_its_time_anew_with_all_that_it_takes(
    server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0
    given: list[float] = []  # with each wait

    def wait(_events: int, deadline: float) -> int:
        nonlocal now
        given.append(deadline - now)
        now += 15.0
        return select.POLLOUT

    def answer(secured: ssl.SSLSocket) -> None:
        heard = 0
        while heard < MUCH:
            heard += len(secured.recv(65_536))

    with connected(server, answer) as connection:
        monkeypatch.setattr(connection, "_socket", SlowSocket(connection._socket))
        monkeypatch.setattr(connection, "_wait", wait)
        monkeypatch.setattr(tls_connection, "time", SimpleNamespace(monotonic=lambda: now))
        connection.send(b"q" * MUCH, within_s=20)
        monkeypatch.undo()
    assert len(given) > MUCH // 100_000
    assert set(given) == {20.0}


def test_far_side_is_told_what_was_wrong_with_what_it_said(server: ssl.SSLContext) -> None:
    told: list[str] = []

    def answer(secured: ssl.SSLSocket) -> None:
        socket.socket.send(secured, b"\x17\x03\x03\x00\x20" + bytes(32))  # a record, under no key of theirs
        with pytest.raises(ssl.SSLError) as caught:
            secured.recv(65_536)
        told.append(tls_reason(caught.value))

    # OpenSSL 3.5 names another of its reasons first.
    found = pytest.raises(ssl.SSLError, match=r"BAD_RECORD_MAC|RECORD_LAYER_FAILURE")
    with connected(server, answer) as connection, found:
        connection.receive(time.monotonic() + 20)
    assert told == ["bad record mac"]


def test_what_has_come_is_read_however_late_it_is(server: ssl.SSLContext) -> None:
    said = threading.Event()

    def answer(secured: ssl.SSLSocket) -> None:
        secured.sendall(b"answer")
        said.set()

    with connected(server, answer) as connection:
        assert said.wait(20)
        assert connection.receive(deadline=0.0) == b"answer"


def send_until_it_fails(connection: TlsConnection) -> None:
    while True:
        connection.send(b"q", within_s=20)


def test_what_the_far_side_said_before_it_hung_up_is_found_where_sending_fails(server: ssl.SSLContext) -> None:
    server.verify_mode = ssl.CERT_REQUIRED  # in TLS 1.3 a certificate is judged when our handshake has ended
    with connected(server, lambda _: None) as connection:
        with pytest.raises(ConnectionError) as caught:
            send_until_it_fails(connection)
        ours = ssl.SSLError()
        assert connection.cause(ours) is ours
        found = connection.cause(caught.value)
    assert isinstance(found, ssl.SSLError)
    assert tls_reason(found) == "certificate required"


def test_what_the_far_side_did_not_tell_is_the_error_itself(server: ssl.SSLContext) -> None:
    error = ConnectionResetError()
    with connected(server, lambda _: None) as connection:
        connection.close()
        assert connection.cause(error) is error


def send_much(connection: TlsConnection) -> None:
    connection.send(b"q" * MUCH, within_s=60)


def receive(connection: TlsConnection) -> None:
    connection.receive(time.monotonic() + 60)


@pytest.mark.parametrize("step", [send_much, receive])
def test_close_from_another_thread_wakes_whoever_waits(
    server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, step: Callable[[TlsConnection], None]
) -> None:
    waits, closed, woken = threading.Event(), threading.Event(), threading.Event()

    def wait() -> None:
        with pytest.raises((ssl.SSLError, ConnectionError)):
            step(connection)
        woken.set()

    with connected(server, lambda _: closed.wait(60)) as connection:
        really_wait = connection._wait

        def told_wait(events: int, deadline: float) -> int:
            waits.set()
            return really_wait(events, deadline)

        monkeypatch.setattr(connection, "_wait", told_wait)
        thread = threading.Thread(target=wait)
        thread.start()
        assert waits.wait(20)
        connection.close()
        assert woken.wait(20)
        closed.set()
        thread.join()
        assert connection._socket.fileno() == -1


def test_handshake_that_never_ends_has_its_time_and_no_more() -> None:
    """A HelloRequest means nothing in a handshake and is passed over, however many come, and whoever sends them."""
    flood = (b"\x16\x03\x03\x40\x00" + bytes(0x4000)) * 64
    tired_after_s = 60

    def serve() -> None:
        with contextlib.suppress(OSError), server.accept()[0] as theirs:
            until = time.monotonic() + tired_after_s
            while time.monotonic() < until:
                theirs.sendall(flood)

    with socket.create_server(("127.0.0.1", 0)) as server:  # its buffers are never empty, as those of a pair are
        thread = threading.Thread(target=serve)
        thread.start()
        connection = TlsConnection(socket.create_connection(server.getsockname()), client_context(), "far")
        began = time.monotonic()
        with pytest.raises(TimeoutError):
            connection.handshake(began + 0.3)
        assert time.monotonic() < began + tired_after_s / 2
        connection.close()
        thread.join()


class Stubborn:
    """Takes what it is given so many times, and then nothing."""

    def __init__(self, real: socket.socket, times: int) -> None:
        self._real = real
        self._left = times

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def send(self, octets: memoryview) -> int:
        if not self._left:
            raise BlockingIOError
        self._left -= 1
        return self._real.send(octets)


@pytest.mark.parametrize("taken", [0, 1], ids=["not even our hello", "not our end of it"])
def test_far_side_that_takes_nothing_of_a_handshake_has_its_time_and_no_more(
    server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch, taken: int
) -> None:
    ours, theirs = socket.socketpair()

    def serve() -> None:
        with contextlib.suppress(OSError), server.wrap_socket(theirs, server_side=True):
            pass

    thread = threading.Thread(target=serve)
    thread.start()
    connection = TlsConnection(ours, client_context(), "far")
    really_wait = connection._wait
    waits: list[float] = []

    def wait(events: int, deadline: float) -> int:
        if events & select.POLLOUT:
            waits.append(deadline)
            return 0
        return really_wait(events, deadline)

    monkeypatch.setattr(connection, "_socket", Stubborn(ours, taken))
    monkeypatch.setattr(connection, "_wait", wait)
    monkeypatch.setattr(tls_connection, "time", SimpleNamespace(monotonic=lambda: 100.0))
    with pytest.raises(TimeoutError):
        connection.handshake(deadline=120.0)
    connection.close()
    thread.join()
    assert waits == [120.0]


def test_who_is_late_already_does_not_wait(server: ssl.SSLContext, monkeypatch: pytest.MonkeyPatch) -> None:
    waited_ms: list[float] = []

    class Poll:
        """Finds nothing."""

        def register(self, *_: object) -> None: ...

        def poll(self, ms: float) -> list[tuple[int, int]]:
            waited_ms.append(ms)
            return []

    with connected(server, lambda secured: secured.recv(1)) as connection:
        monkeypatch.setattr(tls_connection, "select", SimpleNamespace(POLLIN=select.POLLIN, poll=Poll))
        with pytest.raises(TimeoutError):
            connection.receive(deadline=0.0)
        monkeypatch.undo()
    assert waited_ms == [0.0]
