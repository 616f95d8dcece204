from __future__ import annotations

import os
import socket

import pytest
from twisted.internet.task import Clock

from kmp_smsd.service import notify
from kmp_smsd.service.notify import ManagerNotified


class Manager:
    """A service manager's end of the socket."""

    def __init__(self, address):
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(address)
        self._socket.setblocking(False)

    def told(self):
        """What was said since the last look, as one list of assignments for each datagram."""
        told = []
        while True:
            try:
                told.append(self._socket.recv(65_536).decode().split("\n"))
            except BlockingIOError:
                return told

    def close(self):
        self._socket.close()


@pytest.fixture
def manager(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.delenv("WATCHDOG_USEC", raising=False)
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    manager = Manager(str(tmp_path / "notify"))
    yield manager
    manager.close()


class Told:
    """A process's words for the manager, in seconds that pass when they are told to."""

    def __init__(self):
        self.clock = Clock()
        self.sentence, self.lives = "0 of 1 links bound", True
        self.service = ManagerNotified(lambda: self.sentence, lambda: self.lives, self.clock)


def test_without_a_service_manager_nothing_is_said_and_nothing_fails(monkeypatch, tmp_path):
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    notify.notify("READY=1")
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "nobody-listens"))
    notify.notify("READY=1")


def test_socket_without_a_file_is_reached(monkeypatch):
    name = f"kmp-smsd-test-{os.getpid()}"
    monkeypatch.setenv("NOTIFY_SOCKET", f"@{name}")
    manager = Manager(f"\0{name}")
    notify.notify("READY=1", "STATUS=all is well")
    assert manager.told() == [["READY=1", "STATUS=all is well"]]
    manager.close()


def test_ready_is_told_and_then_how_it_goes(manager):
    told = Told()
    assert manager.told() == []
    told.service.startService()
    assert manager.told() == [["READY=1"], ["STATUS=0 of 1 links bound"]]


def test_status_is_told_when_it_changes_and_cannot_become_another_assignment(manager):
    told = Told()
    told.service.startService()
    told.clock.pump([1.0] * 5)
    manager.told()
    told.sentence = "1 of 1 links bound\nREADY=1"
    told.clock.advance(1.0)
    assert manager.told() == [["STATUS=1 of 1 links bound READY=1"]]


def test_stopping_is_told_and_nothing_after_it(manager):
    told = Told()
    told.service.startService()
    manager.told()
    told.service.stopService()
    assert manager.told() == [["STOPPING=1", "STATUS=stopping"]]
    assert told.clock.getDelayedCalls() == []


def test_watchdog_hears_three_times_in_its_time_while_we_live_and_only_then(manager, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", "60000000")
    monkeypatch.setenv("WATCHDOG_PID", str(os.getpid()))
    told = Told()
    told.service.startService()

    def pings():
        return [said for said in manager.told() if said == ["WATCHDOG=1"]]

    assert len(pings()) == 1
    told.clock.pump([20.0] * 3)
    assert len(pings()) == 3
    told.lives = False
    told.clock.pump([20.0] * 6)
    assert pings() == []
    told.lives = True
    told.clock.advance(20.0)
    assert len(pings()) == 1


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", "", 30.0),
        ("500000", str(os.getpid()), 0.5),
        ("30000000", "1", None),
        ("", "", None),
        ("0", "", None),
    ],
)
def test_watchdog_of_another_process_or_of_none_is_not_ours(usec, pid, seconds, monkeypatch):
    monkeypatch.setenv("WATCHDOG_USEC", usec)
    monkeypatch.setenv("WATCHDOG_PID", pid)
    assert notify.watchdog_s() == seconds


def test_reload_says_since_when_so_that_no_manager_waits_for_ever(manager):
    notify.reloading()
    notify.ready()
    ((began, since), ended) = manager.told()
    assert (began, ended) == ("RELOADING=1", ["READY=1"])
    assert since.startswith("MONOTONIC_USEC=")
    assert int(since.partition("=")[2]) > 0
