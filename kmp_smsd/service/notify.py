"""What the service manager is told (sd_notify(3)): ready, how it goes, that we live, stopping."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable
from typing import Any

from twisted.application.service import Service
from twisted.internet.defer import Deferred

from kmp_smsd.service.watching import Watch

LOOK_EVERY_S = 1.0  # at the status text
SEND_WITHIN_S = 1.0


def notify(*assignments: str) -> None:
    """Send ``NAME=VALUE`` assignments to the service manager, where there is one. Never fails."""
    address = os.environ.get("NOTIFY_SOCKET", "")
    if not address:
        return
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as manager:
            manager.settimeout(SEND_WITHIN_S)
            manager.sendto("\n".join(assignments).encode(), "\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        return  # it will notice by itself, and we have work to do


def reloading() -> None:
    """A reload has begun; `ready` ends it, whatever became of it."""
    notify("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}")


def ready() -> None:
    """The service does its work, or does it again."""
    notify("READY=1")


def watchdog_s() -> float | None:
    """Within how many seconds the service manager wants to hear of us; None where it does not ask."""
    usec, pid = os.environ.get("WATCHDOG_USEC", ""), os.environ.get("WATCHDOG_PID", "")
    if not usec.isdecimal() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 1e6


class ManagerNotified(Service):
    """Tells the service manager how this process is; started after all that works, and stopped before it.

    `sentence` is the status text, `alive` our own health and never a peer's: while it is false no ping goes out, and
    the service manager starts us again.
    """

    def __init__(self, sentence: Callable[[], str], alive: Callable[[], bool], reactor: Any) -> None:
        self._sentence, self._alive = sentence, alive
        self._told = ""
        self._looks = [(Watch(self._tell, reactor), LOOK_EVERY_S)]
        limit_s = watchdog_s()
        if limit_s is not None:
            self._looks.append((Watch(self._ping, reactor), limit_s / 3))

    def startService(self) -> None:
        super().startService()
        ready()
        for look, every_s in self._looks:
            look.start(every_s)

    def stopService(self) -> Deferred[None] | None:
        super().stopService()
        for look, _ in self._looks:
            look.stop()
        notify("STOPPING=1", "STATUS=stopping")
        return None

    def _tell(self) -> None:
        sentence = " ".join(self._sentence().split())  # a line end would begin another assignment
        if sentence != self._told:
            self._told = sentence
            notify(f"STATUS={sentence}")

    def _ping(self) -> None:
        if self._alive():
            notify("WATCHDOG=1")
