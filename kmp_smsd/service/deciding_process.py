"""A process that decides for intake, so that what answers messages has a processor for itself.

It ends with the pipe to it: at a stop, and where intake was killed. What it is at then it finishes, if it can do so in
seconds, which is harmless: it asks in its own transactions what is settled, as whoever comes after it does. Where it
ends, another is begun.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from mmap import mmap
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

from kmp_smsd import __version__
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.storage.lock_waits import LockWait, ShownWait, Waits
from kmp_smsd.storage.received import Received

log = logging.getLogger(__name__)

CHILD = "kmp_smsd.service.decide"
_NOT_ITS_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")


class DecidingFailed(Exception):
    """A fault in the other process, which goes on; its traceback is a note."""


class DecidingProcess:
    """Has the database at `path` decided on in a process of its own, begun when it is needed; see Deciding.

    `lock_wait` is that of a connection of this process to the same database.
    """

    def __init__(self, path: Path, policy: SyncPolicy, lock_wait: LockWait) -> None:
        self._path = path
        self._policy = _to_be_sent(policy)
        self._process: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any]
        with ExitStack() as opened:
            self._memory = os.memfd_create("kmp-smsd lock wait")
            opened.callback(os.close, self._memory)
            os.ftruncate(self._memory, ShownWait.OCTETS)
            self._shown = ShownWait(mmap(self._memory, ShownWait.OCTETS))  # how the role is may be asked after `close`
            helper = lock_wait.of_helper(self._shown)
            opened.callback(helper.close)
            self.lock_wait: Waits = helper
            self._opened = opened.pop_all()

    @property
    def pid(self) -> int | None:
        """The process, where there is one."""
        return self._process.pid if self._process is not None else None

    def settle(self, batch: Sequence[Received], now: int) -> list[Outcome | None]:
        outcomes = self._ask("settle", [received.line() for received in batch], now)
        return [outcome and Outcome(outcome) for outcome in outcomes]

    def settle_again(self, now: int) -> tuple[list[Outcome], bool]:
        outcomes, more = self._ask("settle_again", now)
        return [Outcome(outcome) for outcome in outcomes], more

    def set_policy(self, policy: SyncPolicy) -> None:
        self._policy = _to_be_sent(policy)
        if self._process is not None:
            self._ask("set_policy", self._policy)

    def close(self) -> None:
        """Let the process end, and wait for that."""
        if self._process is not None:
            self._pipe.close()
            self._process.wait()
            self._process = None
        self._opened.close()

    def _ask(self, *request: Any) -> Any:
        """What the process answers. Raises StoreUnavailable where it has none, or ends over it, and DecidingFailed."""
        if self._process is None:
            self._begin()
        try:
            self._pipe.send(request)
            while (answer := self._pipe.recv())[0] == "log":
                _log(answer[1])
        except (EOFError, OSError) as error:
            raise StoreUnavailable(f"the process that decides {self._end()}; another is begun") from error
        except BaseException:  # an interrupt too: another answer may come, which nobody asked for any more
            self._end()
            raise
        kind, *told = answer
        if kind == "unavailable":
            raise StoreUnavailable(*told)
        if kind == "failed":
            reason, trace = told
            failed = DecidingFailed(reason)
            failed.add_note(trace)
            raise failed
        return told[0]

    def _begin(self) -> None:
        try:
            self._pipe, its = Pipe()
            with its:
                self._process = self._spawned(its)
        except OSError as error:
            raise StoreUnavailable(f"the process that decides cannot be begun: {error.strerror or error}") from error
        try:
            self._ask("set_policy", self._policy)
        except BaseException:  # an interrupt too: it would decide by no policy
            if self._process is not None:
                self._end()
            raise
        told = {"event": "deciding_begins", "pid": self._process.pid}
        log.info("process %d decides", self._process.pid, extra=told)

    def _spawned(self, its: Connection[Any, Any]) -> subprocess.Popen[bytes]:
        descriptors = (its.fileno(), self._memory)
        return subprocess.Popen(
            # No directory that happens to be the current one is looked through for modules.
            [sys.executable, "-P", "-m", CHILD, __version__, str(self._path), *map(str, descriptors)],
            stdin=subprocess.DEVNULL,
            pass_fds=descriptors,
            env={name: value for name, value in os.environ.items() if name not in _NOT_ITS_OWN},
            start_new_session=True,  # a ^C is for us
        )

    def _end(self) -> str:
        """End the process, if it has not; how it ended."""
        process, self._process = self._process, None
        assert process is not None
        self._pipe.close()
        process.kill()
        status = process.wait()
        self._shown.clear()  # it holds nothing any more
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        return f"(PID {process.pid}) {how}"


def _to_be_sent(policy: SyncPolicy) -> SyncPolicy:
    """The same in plain mappings; what only shows one cannot be sent."""
    return replace(policy, gateways={name: _to_be_sent(one) for name, one in policy.gateways.items()})


def _log(fields: dict[str, Any]) -> None:
    """Say what the process said, if it is to be said."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
