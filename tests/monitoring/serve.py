"""A role that is shown, in a process of its own: ``python -m tests.monitoring.serve intake`` prints its address."""

from __future__ import annotations

import sys
import threading

from twisted.internet import reactor

from kmp_smsd.config.monitoring import LoopbackPort
from kmp_smsd.monitoring.answers import Sight
from kmp_smsd.service.monitor import Monitor
from tests.monitoring import snapshots

snapshot = getattr(snapshots, sys.argv[1])()
sight = Sight(snapshot, (), sys.argv[2:])
monitor = Monitor(LoopbackPort("127.0.0.1", 0), lambda: sight, reactor, wall=lambda: snapshots.NOW / 1000)


def _start() -> None:
    monitor.open()
    print(f"http://127.0.0.1:{monitor.port}", flush=True)


def _end() -> None:
    sys.stdin.read()  # until whoever started us is gone
    reactor.callFromThread(reactor.stop)


threading.Thread(target=_end, daemon=True).start()
reactor.callWhenRunning(_start)
reactor.run()
