"""The control socket, and clients that are slow, long or insane."""

from __future__ import annotations

import fcntl
import os
import socket
import stat
import subprocess
import time
from contextlib import closing, contextmanager

import pytest
from twisted.internet.defer import Deferred
from twisted.internet.error import ConnectionDone
from twisted.internet.testing import StringTransport
from twisted.internet.unix import Port as UnixPort
from twisted.python.failure import Failure

from kmp_smsd.control.protocol import (
    REQUEST_OCTETS_MAX,
    Done,
    NotDone,
    Progress,
    Refused,
    Request,
    decode_answer,
)
from kmp_smsd.service.control import (
    CONNECTIONS_MAX,
    LOOK_EVERY_S,
    READ_WITHIN_S,
    REQUEST_WITHIN_S,
    ControlServer,
)
from kmp_smsd.service.control_socket import ControlPort, ControlUnusable, claim
from tests.mounting import require_root
from tests.service.by_hand import ReactorByHand


class Client:
    """One connection to the server, and what was said over it."""

    def __init__(self, server):
        self.transport = Transport()
        self.protocol = server.buildProtocol(None)
        if self.protocol is not None:
            self.protocol.makeConnection(self.transport)

    def say(self, data):
        self.protocol.dataReceived(data)

    def heard(self):
        return [decode_answer(line) for line in self.transport.value().splitlines()]

    def leave(self):
        self.protocol.connectionLost(Failure(ConnectionDone()))


class Transport(StringTransport):
    aborted = False

    def abortConnection(self):
        self.aborted = True


@pytest.fixture
def reactor():
    return ReactorByHand()


@pytest.fixture
def server(reactor, tmp_path):
    async def echo(arguments, say):
        say("working")
        return {"said": dict(arguments)}

    async def refuse(_arguments, _say):
        raise Refused("no\nnever", 78)

    async def break_(_arguments, _say):
        raise RuntimeError("secret")

    async def hang(_arguments, _say):
        await waiting
        return {}

    waiting: Deferred[None] = Deferred()
    commands = {"echo": echo, "refuse": refuse, "break": break_, "hang": hang}
    made = ControlServer(tmp_path / "intake.sock", commands, reactor)
    made.waiting = waiting
    return made


def test_a_command_is_done_and_answered_and_the_connection_ends(server):
    client = Client(server)
    client.say(Request("echo", {"name": "north"}).encode())
    assert client.heard() == [Progress("working"), Done({"said": {"name": "north"}})]
    assert client.transport.disconnecting


def test_a_request_may_come_in_pieces_and_what_follows_is_not_read(server):
    client = Client(server)
    for octet in Request("echo").encode():
        client.say(bytes([octet]))
    client.say(Request("echo").encode() * 1000)
    assert client.heard() == [Progress("working"), Done({"said": {}})]


def test_a_refusal_is_told_whole(server):
    client = Client(server)
    client.say(Request("refuse").encode())
    assert client.heard() == [NotDone("no\nnever", 78)]


def test_a_fault_of_ours_is_logged_and_the_client_hears_its_kind_only(server, events):
    client = Client(server)
    client.say(Request("break").encode())
    assert client.heard() == [NotDone("a bug in the daemon, which its log shows: RuntimeError", 70)]
    assert any("log_failure" in event for event in events)


@pytest.mark.parametrize(
    ("line", "why"),
    [(b"hello\n", "one JSON object"), (Request("dance").encode(), "knows no command 'dance'")],
)
def test_nonsense_is_answered_with_what_is_wrong(server, line, why):
    client = Client(server)
    client.say(line)
    (answer,) = client.heard()
    assert why in answer.error
    assert (answer.exit_code, client.transport.disconnecting) == (64, True)


def test_a_line_without_an_end_is_cut_off(server):
    client = Client(server)
    client.say(b"x" * (REQUEST_OCTETS_MAX + 1))
    assert client.heard() == [NotDone(f"a line has at most {REQUEST_OCTETS_MAX} octets", 64)]
    assert client.transport.disconnecting
    client.say(b"x" * 1000)
    assert client.protocol._octets == b"x" * (REQUEST_OCTETS_MAX + 1)


def test_a_client_that_asks_nothing_is_hung_up(server, reactor):
    client = Client(server)
    client.say(b'{"v":1')
    reactor.advance(REQUEST_WITHIN_S)
    assert client.transport.aborted


def test_a_client_that_does_not_read_its_answer_is_hung_up(server, reactor):
    client = Client(server)
    client.say(Request("echo").encode())
    reactor.advance(READ_WITHIN_S - 1)
    assert not client.transport.aborted
    reactor.advance(1)
    assert client.transport.aborted


def test_a_command_may_take_its_time(server, reactor):
    client = Client(server)
    client.say(Request("hang").encode())
    reactor.advance(1000)
    assert not client.transport.aborted
    server.waiting.callback(None)
    assert client.heard() == [Done({})]


def test_a_command_is_done_though_its_client_left(server, reactor, events):
    client = Client(server)
    client.say(Request("hang").encode())
    client.leave()
    server.waiting.callback(None)
    assert client.heard() == []
    assert reactor.getDelayedCalls() == []
    assert not any("log_failure" in event for event in events)


def test_more_clients_than_there_is_room_for_are_hung_up(server):
    clients = [Client(server) for _ in range(CONNECTIONS_MAX + 1)]
    assert [client.protocol is None for client in clients] == [False] * CONNECTIONS_MAX + [True]
    clients[0].leave()
    assert Client(server).protocol is not None


def test_who_asks_for_what_stands_in_the_log_but_not_who_looks(server, events):
    server.commands = {**server.commands, "status": server.commands["echo"]}
    Client(server).say(Request("status").encode())
    assert [event for event in events if "words" in event] == []
    Client(server).say(Request("echo", {"kind": "smsc", "name": "a\nb" * 100}).encode())
    (event,) = (event for event in events if "words" in event)
    assert event["words"].startswith("echo smsc a\\nb")
    assert len(event["words"]) <= 80


# The place of the socket


def listening(path):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen()
    return closing(listener)


def refused(directory, role="intake"):
    with pytest.raises(ControlUnusable) as caught:
        claim(directory / f"{role}.sock")
    return caught.value.exit_code, str(caught.value)


def test_a_socket_that_a_killed_process_left_is_removed(tmp_path):
    with listening(tmp_path / "intake.sock"):
        pass
    assert (tmp_path / "intake.sock").exists()
    claim(tmp_path / "intake.sock")
    assert not (tmp_path / "intake.sock").exists()


def test_a_socket_that_somebody_has_open_is_his(tmp_path):
    with listening(tmp_path / "intake.sock"):
        code, sentence = refused(tmp_path)
        assert (tmp_path / "intake.sock").exists()
        claim(tmp_path / "dispatch.sock")
    assert code == 75
    assert sentence == f"intake runs already: another process answers at {tmp_path}/intake.sock"


def test_a_socket_whose_queue_is_full_is_somebody_s_too(tmp_path):
    path = tmp_path / "intake.sock"
    with closing(socket.socket(socket.AF_UNIX)) as listener, closing(socket.socket(socket.AF_UNIX)) as first:
        listener.bind(str(path))
        listener.listen(0)
        first.connect(str(path))
        assert refused(tmp_path)[0] == 75


@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_SEQPACKET])
def test_a_socket_of_another_type_is_somebody_s_too(tmp_path, kind):
    path = tmp_path / "intake.sock"
    with closing(socket.socket(socket.AF_UNIX, kind)) as other:
        other.bind(str(path))
        assert refused(tmp_path)[0] == 75
        assert path.exists()
    claim(path)


def test_a_missing_directory_is_told_with_its_remedy(tmp_path):
    code, sentence = refused(tmp_path / "run")
    assert code == 78
    assert f"no directory {tmp_path}/run for the control socket: create it with 'systemd-tmpfiles --create'" in sentence


def test_a_file_in_the_socket_s_place_is_left_alone(tmp_path):
    (tmp_path / "intake.sock").write_text("precious")
    assert refused(tmp_path) == (78, f"{tmp_path}/intake.sock is in the way, and is no socket: remove it")
    assert (tmp_path / "intake.sock").read_text() == "precious"


def test_a_directory_on_a_file_system_that_is_mounted_read_only_is_told(tmp_path):
    require_root()
    with listening(tmp_path / "intake.sock"):  # left there; of dispatch there is none
        pass
    subprocess.run(["mount", "--bind", "-o", "ro", tmp_path, tmp_path], check=True)
    try:
        assert {refused(tmp_path, role) for role in ("intake", "dispatch")} == {
            (
                78,
                f"{tmp_path} is on a file system that is mounted read-only: let it be written (its mount,"
                " ReadWritePaths= of the unit), or let [control] directory name another; where it was made anew,"
                " restart the role",
            )
        }
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


def test_a_directory_without_room_for_a_socket_is_told(tmp_path):
    require_root()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "nr_inodes=1", "tmpfs", tmp_path], check=True)  # for itself
    try:
        assert refused(tmp_path) == (
            75,
            f"{tmp_path}: no room for the control socket: make some on its volume, inodes too (df -i)",
        )
    finally:
        subprocess.run(["umount", "--lazy", tmp_path], check=True)


@contextmanager
def locked(directory):
    """As by a process that looks for dead sockets there."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    finally:
        os.close(descriptor)


def test_socket_is_not_there_without_its_listener_while_another_process_looks(opened, monkeypatch, tmp_path):
    """Who looks meanwhile would find nobody listening, and remove it."""
    alone = []

    def listen(_):
        with pytest.raises(BlockingIOError), locked(tmp_path):
            pass
        alone.append(True)

    monkeypatch.setattr(UnixPort, "startListening", listen)
    ControlPort(tmp_path / "dispatch.sock", opened, None).listen(0)
    assert alone == [True]


def test_directory_that_another_process_keeps_locked_is_waited_for_a_while(
    opened, reactor, tmp_path, events, monkeypatch
):
    """At a start. Later nobody waits for it in the reactor's thread."""
    with locked(tmp_path):
        with pytest.raises(ControlUnusable, match="is locked by another process") as unusable:
            claim(tmp_path / "dispatch.sock", within_s=0.02)
        assert unusable.value.exit_code == 75
        waited = []
        monkeypatch.setattr(time, "sleep", waited.append)
        opened.path.unlink()
        reactor.advance(LOOK_EVERY_S)
        assert waited == []
        assert not opened.path.exists()
        assert [event["event"] for event in events] == ["control_cannot_listen"]
    reactor.advance(LOOK_EVERY_S)
    assert answers(opened.path)


def test_the_socket_is_the_group_s_and_nobody_else_s(tmp_path):
    from twisted.internet import reactor

    server = ControlServer(tmp_path / "intake.sock", {}, reactor)
    before = os.umask(0)
    os.umask(before)
    server.open()
    try:
        mode = (tmp_path / "intake.sock").stat().st_mode
        assert (stat.S_ISSOCK(mode), stat.S_IMODE(mode)) == (True, 0o660)
        assert os.umask(before) == before
    finally:
        server.close()
        reactor.runUntilCurrent()  # which nobody runs
    assert not (tmp_path / "intake.sock").exists()


def answers(path):
    """Whether somebody listens at `path`."""
    with closing(socket.socket(socket.AF_UNIX)) as caller:
        return caller.connect_ex(str(path)) == 0


@pytest.fixture
def opened(server, reactor):
    server.open()
    yield server
    server.close()
    reactor.advance(0)  # the turn in which a socket is closed


def told(events):
    return [event["event"] for event in events if event.get("event", "").startswith("control_")]


def test_a_socket_that_was_removed_is_made_anew(opened, reactor, events):
    opened.path.unlink()
    reactor.advance(LOOK_EVERY_S)
    reactor.advance(0)
    assert (answers(opened.path), stat.S_IMODE(opened.path.stat().st_mode)) == (True, 0o660)
    assert len(reactor.getReaders()) == 1  # the one before is closed
    reactor.advance(LOOK_EVERY_S)
    assert told(events) == ["control_again"]


def test_a_client_is_served_while_the_socket_is_made_anew(opened, reactor):
    client = Client(opened)
    opened.path.unlink()
    reactor.advance(LOOK_EVERY_S - 1)
    reactor.advance(1)
    client.say(Request("echo").encode())
    assert client.heard() == [Progress("working"), Done({"said": {}})]


def test_a_directory_that_was_removed_is_told_of_once_until_it_is_there_again(opened, reactor, events):
    for _ in range(2):
        opened.path.unlink()
        opened.path.parent.rmdir()
        reactor.pump([LOOK_EVERY_S] * 3)
        opened.path.parent.mkdir()
        reactor.advance(LOOK_EVERY_S)
        assert answers(opened.path)
    assert told(events) == ["control_cannot_listen", "control_again"] * 2
    reason = next(event["reason"] for event in events if "reason" in event)
    assert "systemd-tmpfiles --create" in reason


def test_a_directory_that_cannot_be_looked_into_is_told_of_once_too(opened, reactor, events):
    """As by any other error of the system: the place is a loop, or there are no descriptors left."""
    directory, aside = opened.path.parent, opened.path.parent.with_name("aside")
    directory.rename(aside)
    directory.symlink_to(directory.name)
    reactor.pump([LOOK_EVERY_S] * 3)
    directory.unlink()
    aside.rename(directory)
    opened.path.unlink()
    reactor.advance(LOOK_EVERY_S)
    assert answers(opened.path)
    assert told(events) == ["control_cannot_listen", "control_again"]
    assert "look_failed" not in [event.get("event") for event in events]
    assert "Too many levels of symbolic links" in next(event["reason"] for event in events if "reason" in event)


def test_the_place_of_another_process_is_left_to_it(opened, reactor, events):
    opened.path.unlink()
    with listening(opened.path):
        reactor.advance(LOOK_EVERY_S)
        (event,) = (event for event in events if "reason" in event)
        assert event["reason"] == f"intake runs already: another process answers at {opened.path}"
        opened.close()
        reactor.advance(0)
        assert answers(opened.path)


def test_a_process_that_starts_cannot_have_the_place_of_a_socket_made_anew(opened, reactor, tmp_path):
    opened.path.unlink()
    claim(opened.path)  # nobody answers there
    reactor.advance(LOOK_EVERY_S)
    with closing(socket.socket(socket.AF_UNIX)) as second, pytest.raises(OSError, match="in use"):
        second.bind(str(opened.path))
    assert refused(tmp_path)[0] == 75
