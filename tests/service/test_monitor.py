"""The HTTP listener: what it answers, to how many, and what it does where it cannot listen."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Sequence
from typing import Any

import pytest
from twisted.internet.error import CannotListenError, ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.logger import LogLevel, globalLogPublisher
from twisted.python.failure import Failure

from kmp_smsd.config.monitoring import LoopbackPort, SocketFile
from kmp_smsd.monitoring.answers import Sight
from kmp_smsd.service.monitor import (
    CONNECTIONS_MAX,
    IDLE_CLOSE_S,
    LISTEN_AGAIN_S,
    Monitor,
    _is_left_over,
)
from tests.monitoring.snapshots import NOW, intake
from tests.service.by_hand import ReactorByHand

MDN = "8613912345678"


class Stage:
    """A monitor on a reactor by hand."""

    def __init__(self, listening: Any = LoopbackPort("127.0.0.1", 9775)) -> None:  # noqa: B008  # never changed
        self.reactor = ReactorByHand()
        self.snapshot: Any = intake()
        self.not_alive: Sequence[str] = ()
        self.not_ready: Sequence[str] = ()
        self.monitor = Monitor(
            listening,
            lambda: Sight(self.snapshot, self.not_alive, self.not_ready),
            self.reactor,
            wall=lambda: NOW / 1000,
        )

    def start(self) -> Stage:
        self.monitor.open()
        return self

    def connect(self) -> tuple[Any, Any]:
        factory = self.reactor.tcpServers[-1][1]
        protocol, transport = factory.buildProtocol(None), Transport()
        if protocol is not None:
            protocol.makeConnection(transport)
        return protocol, transport

    def ask(self, method: str = "GET", path: str = "/", headers: str = "", body: bytes = b"") -> Said:
        protocol, transport = self.connect()
        protocol.dataReceived(f"{method} {path} HTTP/1.1\r\nHost: here\r\n{headers}\r\n".encode("latin-1") + body)
        return Said(transport.value())


class Transport(StringTransport):
    def setTcpNoDelay(self, _enabled: bool) -> None:
        pass


class Said:
    """One HTTP answer, taken apart."""

    def __init__(self, octets: bytes) -> None:
        head, _, self.body = octets.partition(b"\r\n\r\n")
        first, *lines = head.decode().split("\r\n")
        self.status = int(first.split()[1])
        self.headers = dict(line.split(": ", 1) for line in lines)
        self.text = self.body.decode()


@pytest.fixture
def stage() -> Stage:
    return Stage().start()


@pytest.fixture
def logged():
    """The messages of the log from level error up."""
    found: list[dict[str, Any]] = []

    def observe(event: dict[str, Any]) -> None:
        if event["log_level"] >= LogLevel.error:
            found.append(event)

    globalLogPublisher.addObserver(observe)
    yield found
    globalLogPublisher.removeObserver(observe)


def test_it_listens_at_its_own_address_only(stage):
    ((port, _, _, interface),) = stage.reactor.tcpServers
    assert (port, interface) == (9775, "127.0.0.1")
    assert stage.reactor.unixServers == []


def test_page_is_served_with_the_policy_that_fits_it(stage):
    said = stage.ask()
    assert said.status == 200
    assert said.headers["Content-Type"] == "text/html; charset=utf-8"
    assert said.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert said.headers["Cache-Control"] == "no-store"
    assert "north-b" in said.text


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        ("", "text/plain; version=0.0.4; charset=utf-8"),
        ("Accept: */*\r\n", "text/plain; version=0.0.4; charset=utf-8"),
        (
            "Accept: application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1\r\n",
            "application/openmetrics-text; version=1.0.0; charset=utf-8",
        ),
    ],
)
def test_metrics_come_in_the_format_that_is_asked_for(stage, accept, content_type):
    said = stage.ask(path="/metrics", headers=accept)
    assert said.headers["Content-Type"].startswith(content_type)
    assert 'kmp_smsd_smpp_link_up{link="north-a"} 1.0' in said.text


def test_status_is_served_as_json_without_what_may_be_an_mdn(stage):
    stage.snapshot["links"][0]["last_error"] = f"bad number {MDN}"
    said = stage.ask(path="/status.json?x=1")
    assert said.headers["Content-Type"] == "application/json"
    assert json.loads(said.text)["links"][0]["last_error"] == "bad number ***********78"
    assert MDN not in stage.ask(path="/").text + stage.ask(path="/metrics").text


@pytest.mark.parametrize(
    ("path", "word", "where"), [("/healthz", "alive", "not_alive"), ("/readyz", "ready", "not_ready")]
)
def test_health_is_told_with_its_reasons(stage, path, word, where):
    said = stage.ask(path=path)
    assert (said.status, json.loads(said.text)) == (200, {"v": 1, word: True, "reasons": []})
    setattr(stage, where, ("no link is bound", "the store is not writable"))
    said = stage.ask(path=path)
    assert said.status == 503
    assert json.loads(said.text) == {
        "v": 1, word: False, "reasons": ["no link is bound", "the store is not writable"]
    }  # fmt: skip


def test_health_is_told_even_where_there_is_nothing_to_show(stage, logged):
    stage.snapshot = {}
    assert stage.ask(path="/healthz").status == 200
    assert logged == []


@pytest.mark.parametrize("path", ["/", "/metrics", "/status.json"])
def test_path_that_is_no_text_is_shown_all_the_same(stage, path):
    """A file's name may have octets that are no UTF-8."""
    stage.snapshot["store"]["path"] = "/var/\udcff.db"
    assert stage.ask(path=path).status == 200


def test_fault_of_what_is_shown_is_logged_and_answered(stage, logged):
    stage.snapshot = {}
    said = stage.ask(path="/metrics")
    assert said.status == 500
    assert "the log of the service says why" in said.text
    (event,) = logged
    assert event["log_failure"].type is KeyError


@pytest.mark.parametrize("path", ["/nothing", "/metrics/", "//", "/../etc/passwd", "/%6detrics"])
def test_other_paths_lead_nowhere(stage, path):
    assert stage.ask(path=path).status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "TRACE", "GETX"])
def test_nothing_but_get_is_allowed(stage, method):
    said = stage.ask(method)
    assert said.status == 405
    assert said.headers["Allow"] == "GET, HEAD"


def test_head_is_get_without_a_body(stage):
    said = stage.ask("HEAD", "/metrics")
    assert (said.status, said.body) == (200, b"")
    assert int(said.headers["Content-Length"]) > 1000


def test_body_of_a_request_is_thrown_away_as_it_comes(stage):
    protocol, transport = stage.connect()
    protocol.dataReceived(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 10000000\r\n\r\n")
    request = protocol.requests[0]
    for _ in range(99):
        protocol.dataReceived(b"x" * 100_000)
    assert request.content.seek(0, os.SEEK_END) == 0
    protocol.dataReceived(b"x" * 100_000)
    assert Said(transport.value()).status == 405


def test_connections_are_limited_and_free_again(stage):
    held = [stage.connect()[0] for _ in range(CONNECTIONS_MAX)]
    assert stage.connect()[0] is None
    held[0].connectionLost(Failure(ConnectionDone()))
    assert stage.connect()[0] is not None


def test_silent_connection_is_closed(stage):
    _, transport = stage.connect()
    protocol, asked = stage.connect()
    stage.reactor.pass_time(IDLE_CLOSE_S / 2, 1)
    protocol.dataReceived(b"GET /healthz HTTP/1.1\r\nHost: here\r\n\r\n")
    stage.reactor.pass_time(IDLE_CLOSE_S / 2 + 1, 1)
    assert transport.disconnecting
    assert not asked.disconnecting


def test_port_that_is_taken_is_told_and_tried_again(logged):
    stage = Stage()
    listen, taken = stage.reactor.listenTCP, True

    def may_fail(*args: Any, **kwargs: Any) -> Any:
        if taken:
            raise CannotListenError("127.0.0.1", 9775, OSError(98, "Address already in use"))
        return listen(*args, **kwargs)

    stage.reactor.listenTCP = may_fail
    stage.start()
    (event,) = logged
    assert event["where"] == "127.0.0.1:9775"
    assert event["reason"] == "Address already in use"
    stage.reactor.pass_time(10 * LISTEN_AGAIN_S, 1)
    assert len(logged) == 1  # for as long as it lasts
    taken = False
    stage.reactor.pass_time(LISTEN_AGAIN_S - 1, 1)
    assert stage.reactor.tcpServers == []
    stage.reactor.pass_time(1, 1)
    assert len(stage.reactor.tcpServers) == 1


def test_monitor_that_waits_for_its_port_can_be_stopped():
    stage = Stage()

    def fail(*_args: Any, **_kwargs: Any) -> Any:
        raise CannotListenError("127.0.0.1", 9775, OSError(98, "Address already in use"))

    stage.reactor.listenTCP = fail
    stage.start()
    assert stage.monitor.close().called
    assert stage.reactor.getDelayedCalls() == []


def test_no_timer_runs_while_nobody_asks(stage):
    assert stage.reactor.getDelayedCalls() == []


def test_socket_is_for_the_group(tmp_path):
    path = tmp_path / "x.sock"
    stage = Stage(SocketFile(path)).start()
    ((where, _, _, mode, _),) = stage.reactor.unixServers
    assert (where, mode) == (str(path), 0o660)


def test_only_a_socket_that_nobody_listens_at_is_left_over(tmp_path):
    path = tmp_path / "x.sock"
    assert not _is_left_over(path)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert not _is_left_over(path)
    assert stat.S_ISSOCK(path.stat().st_mode)
    assert _is_left_over(path)
    (tmp_path / "file").touch()
    assert not _is_left_over(tmp_path / "file")


def test_left_over_socket_gives_way(tmp_path):
    path = tmp_path / "x.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    Stage(SocketFile(path)).start()
    assert not path.exists()
