"""A process that decides for intake, so that what answers messages has a processor for itself.

It ends with the pipe to it, and is killed where intake ends without closing that: nobody is to find a lock of it after
that, or a decision by an old policy. Where it ends first, another is begun. It asks in its own transactions what is
settled, so that nothing is settled twice, whichever process ended when.
"""

from __future__ import annotations

import logging
import os
import site
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from dataclasses import replace
from mmap import mmap
from multiprocessing.connection import Connection, Pipe
from pathlib import Path
from typing import Any

import kmp_smsd
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.service.backoff import Backoff
from kmp_smsd.service.deciding import END_WITHIN_S, LOADED
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.lock_waits import Waits
from kmp_smsd.storage.received import Received
from kmp_smsd.storage.wait_memory import WaitMemory

log = logging.getLogger(__name__)

CLOSE_WITHIN_S = END_WITHIN_S + 3.0
BEGIN_MIN_S, BEGIN_MAX_S = 1.0, 30.0  # from one to the next
_CHILD = "kmp_smsd.service.deciding_child"
# By vfork, with Python's lock held, all threads of intake would stand still until the program is there, for which a
# hung disk may have it wait (https://docs.python.org/3/library/subprocess.html#disabling-use-of-vfork-or-posix-spawn).
subprocess._USE_VFORK = False  # type: ignore[misc]  # final, for who does not read that
_OUTCOMES: dict[str | None, Outcome | None] = {None: None, **{outcome.value: outcome for outcome in Outcome}}
_NOT_ITS_OWN = ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", "CREDENTIALS_DIRECTORY")


class DecidingFailed(Exception):
    """A fault in the other process; its traceback is a note."""


class DecidingProcess:
    """Has the database that `store` has open, at `path`, decided on in a process of its own; see Deciding.

    The process is begun when it is needed, in the thread that needs it, and does not outlive that thread.
    """

    def __init__(
        self, path: Path, policy: SyncPolicy, store: Store, *, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._path = path
        self._identity = store.identity
        self._policy = _to_be_sent(policy)
        self._monotonic = monotonic
        self._process: subprocess.Popen[bytes] | None = None
        self._given_up: subprocess.Popen[bytes] | None = None
        self._pipe: Connection[Any, Any]
        self._backoff = Backoff(BEGIN_MIN_S, BEGIN_MAX_S)
        self._begin_at = float("-inf")  # monotonic seconds
        self._why = ""  # there is no process
        with ExitStack() as opened:
            self._memory = os.memfd_create("kmp-smsd lock wait")
            opened.callback(os.close, self._memory)
            os.ftruncate(self._memory, WaitMemory.OCTETS)
            self._shown = WaitMemory(mmap(self._memory, WaitMemory.OCTETS))  # may be asked for after `close`
            helper = store.lock_wait.of_helper(self._shown)
            opened.callback(helper.close)
            self.lock_wait: Waits = helper
            self._opened = opened.pop_all()

    def settle(self, batch: Sequence[Received], now: int) -> list[Outcome | None]:
        outcomes = self._ask("settle", [(one.run, one.first, one.count, one.line) for one in batch], now)
        self._backoff.reset()  # here alone: a batch may be what ends one process after the other
        return [_OUTCOMES[outcome] for outcome in outcomes]

    def settle_again(self, now: int) -> tuple[list[Outcome], bool]:
        outcomes, more = self._ask("settle_again", now)
        return [Outcome(outcome) for outcome in outcomes], more

    def set_policy(self, policy: SyncPolicy) -> None:
        self._policy = _to_be_sent(policy)
        if self._process is not None:
            self._tell_policy()

    def give_up(self) -> None:
        process = self._process
        if process is not None and process is not self._given_up:
            self._given_up, pid = process, process.pid
            log.error(
                "process %d, which decides, hangs and is killed", pid, extra={"event": "deciding_hangs", "pid": pid}
            )
            process.kill()

    def close(self) -> None:
        """Let the process end, and wait for that."""
        self._begin_at, self._why = float("inf"), "intake is stopping"
        try:
            if self._process is not None:
                self._pipe.close()
                with suppress(subprocess.TimeoutExpired):
                    self._process.wait(CLOSE_WITHIN_S)
                self._end()
        finally:
            self._opened.close()

    def _ask(self, *request: Any) -> Any:
        """What the process answers. Raises StoreUnavailable where it has none, or ends over it, and DecidingFailed."""
        if self._process is None:
            self._begin()
        return self._exchange(request)

    def _exchange(self, request: Any) -> Any:
        try:
            self._pipe.send(request)
            while (answer := self._pipe.recv())[0] == "log":
                _log(answer[1])
        except (EOFError, OSError) as error:
            raise self._ended() from error
        except BaseException as error:  # an interrupt too: an answer may come, which nobody asks for any more
            self._why = f"{type(error).__name__}: {error}"
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
        """Begin a process, unless the last one was begun a moment ago: then say again why there is none."""
        now = self._monotonic()
        if now < self._begin_at:
            raise StoreUnavailable(self._why)
        self._begin_at = now + self._backoff.next_s()
        try:
            self._pipe, its = Pipe()
            with its:
                self._process = self._spawned(its)
        except OSError as error:
            self._why = f"the process that decides cannot be begun: {error.strerror or error}"
            raise StoreUnavailable(self._why) from error
        pid = self._process.pid
        self._tell_policy()
        log.info("process %d decides", pid, extra={"event": "deciding_begins", "pid": pid})

    def _tell_policy(self) -> None:
        """Tell the process the policy, or end it: it must decide by no other."""
        try:
            self._exchange(("set_policy", self._policy))
        except BaseException as error:  # an interrupt too
            self._why = str(error) or type(error).__name__
            if self._process is not None:
                self._end()
            raise

    def _spawned(self, its: Connection[Any, Any]) -> subprocess.Popen[bytes]:
        descriptors = (its.fileno(), self._memory)
        words = (LOADED, self._path, os.getpid(), self._identity, *descriptors)
        return subprocess.Popen(
            # No directory that happens to be the current one is looked through for modules (-P).
            [sys.executable, "-P", "-m", _CHILD, *map(str, words)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            pass_fds=descriptors,
            env=_environment(),
            start_new_session=True,  # a ^C is for us
        )

    def _ended(self) -> StoreUnavailable:
        """That the process has ended, which is told of, and what to raise for it."""
        assert self._process is not None
        pid, status = self._process.pid, self._end()
        how = f"was ended by signal {-status}" if status < 0 else f"ended with {status}"
        log.error("process %d, which decides, %s", pid, how, extra={"event": "deciding_ended", "pid": pid, "how": how})
        self._why = f"the process that decides {how}; another is begun"
        return StoreUnavailable(self._why)

    def _end(self) -> int:
        """End the process, if it has not; its exit status, or less the number of the signal that ended it."""
        process, self._process = self._process, None
        assert process is not None
        self._pipe.close()
        process.kill()
        status = process.wait()
        self._shown.clear()
        return status


def _environment() -> dict[str, str]:
    """Ours, without what is for us alone, so that the same package is found, wherever it lies."""
    environment = {name: value for name, value in os.environ.items() if name not in _NOT_ITS_OWN}
    root = str(Path(kmp_smsd.__file__).parents[1])
    if root not in (*site.getsitepackages(), site.getusersitepackages()):
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, (root, environment.get("PYTHONPATH"))))
    return environment


def _to_be_sent(policy: SyncPolicy) -> SyncPolicy:
    """The same in plain mappings; what only shows one cannot be sent."""
    return replace(policy, gateways={name: _to_be_sent(one) for name, one in policy.gateways.items()})


def _log(fields: dict[str, Any]) -> None:
    """Say what the process said, if it is to be said."""
    record = logging.makeLogRecord(fields)
    logger = logging.getLogger(record.name)
    if logger.isEnabledFor(record.levelno):
        logger.handle(record)
