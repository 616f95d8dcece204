"""The process that decides for intake: it does what it is asked through a pipe, until that is closed."""

from __future__ import annotations

import faulthandler
import gc
import logging
import os
import select
import signal
import sys
import threading
import time
import traceback
from collections.abc import Sequence
from contextlib import suppress
from mmap import mmap
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from kmp_smsd import __version__
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.shown import masked_in
from kmp_smsd.service.deciding import END_WITHIN_S, LOADED, DecidingHere
from kmp_smsd.storage import open_store
from kmp_smsd.storage.errors import StoreError, StoreUnavailable
from kmp_smsd.storage.open_files import identity_of, replaced
from kmp_smsd.storage.received import Received
from kmp_smsd.storage.wait_memory import WaitMemory
from kmp_smsd.vault.own_process import end_with_parent, make_undumpable

NAME = "kmp-smsd-decide"  # as ps and lslocks show it: 15 octets at most
OBJECTS_MAX = 50_000  # several times what a batch makes, and lets go of: garbage is looked for where that many are left
STUCK_S = 50.0  # before whoever asks is ended by its watchdog
_NAMES = {"name": __name__, "levelno": logging.ERROR, "levelname": "ERROR"}
_PLAIN = (str, int, float, bool, type(None))  # of other kinds some cannot be sent


class _Pipe:
    """Answers, and what the log is told, by the same pipe. Threads of ours have something to say, too."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: Connection[Any, Any] = Connection(descriptor)
        self._one_at_a_time = threading.Lock()
        self.asked_at: float | None = None  # monotonic seconds: what is not answered yet

    def receive(self) -> Sequence[Any]:
        """The next request. Raises EOFError when there will be none, and OSError."""
        request: Sequence[Any] = self._pipe.recv()
        self.asked_at = time.monotonic()
        return request

    def answer(self, *answer: Any) -> None:
        self.asked_at = None
        self.send(*answer)

    def send(self, *said: Any) -> None:
        with self._one_at_a_time:
            self._pipe.send(said)

    def wait_until_closed(self, timeout_s: float) -> bool:
        """Whether nobody is there any more, at the latest after so many seconds."""
        closed = select.poll()
        closed.register(self._pipe.fileno(), 0)  # POLLHUP comes unasked, and nothing else
        return bool(closed.poll(timeout_s * 1000))


class _ToPipe(logging.Handler):
    """Has the process that asks say what is said here: in its form, where its levels have it said."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        try:
            plain = _plain(record)
        except Exception:  # the fault of who says it; what is done meanwhile must not fail for it
            said = {"msg": "something at line %d of %s could not be said", "args": (record.lineno, record.name)}
            plain = _plain(logging.makeLogRecord({**_NAMES, **said}))
        with suppress(OSError):  # nobody asks any more
            self._pipe.send("log", plain)


def _plain(record: logging.LogRecord) -> dict[str, Any]:
    fields = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None}
    if record.exc_info:
        fields["exc_text"] = "".join(traceback.format_exception(record.exc_info[1]))
    return {name: one if type(one) in _PLAIN else str(one) for name, one in fields.items()}


class _Decider:
    """What may be asked. The store is opened for the first who needs it, and again where that failed."""

    def __init__(self, path: Path, identity: str, memory: WaitMemory) -> None:
        self._path, self._identity, self._memory = path, identity, memory
        self._policy: SyncPolicy | None = None
        self._deciding: DecidingHere | None = None

    def settle(self, batch: Sequence[tuple[Any, ...]], now: int) -> list[str | None]:
        outcomes = self._opened().settle([Received(*fields) for fields in batch], now)
        return [outcome and outcome.value for outcome in outcomes]

    def settle_again(self, now: int) -> tuple[list[str], bool]:
        outcomes, more = self._opened().settle_again(now)
        return [outcome.value for outcome in outcomes], more

    def set_policy(self, policy: SyncPolicy) -> None:
        self._policy = policy
        if self._deciding is not None:
            self._deciding.set_policy(policy)

    def close(self) -> None:
        if self._deciding is not None:
            self._deciding.close()

    def _opened(self) -> DecidingHere:
        if self._deciding is None:
            self._check(identity_of(self._path))  # first: to open what somebody is putting there changes it
            store = open_store(self._path, self._policy, checkpoint_aside=True)
            try:
                self._check(store.identity)
            except StoreUnavailable:
                store.close()
                raise
            store.lock_wait.show_in(self._memory)
            self._deciding = DecidingHere(store)
            gc.collect()
            gc.freeze()  # as in the process that asks: what is there by now stays
            gc.set_threshold(OBJECTS_MAX)
        return self._deciding

    def _check(self, identity: str) -> None:
        """What lies in the inbox is for the database that intake has open."""
        if identity != self._identity:
            raise replaced(self._path)


def main(loaded: str, path: str, asker: str, identity: str, pipe: str, memory: str) -> None:
    """Decide until the pipe is closed; signals are for the process at its other end."""
    end_with_parent(int(asker))
    with suppress(OSError):  # it does without
        Path("/proc/self/comm").write_text(NAME, encoding="ascii")
    make_undumpable()
    sys.excepthook = lambda _kind, error, _trace: _tell(error)
    threading.excepthook = lambda broken: _tell(broken.exc_value)
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asked = _Pipe(int(pipe))
    if loaded != LOADED:  # what we are asked may mean something else here
        asked.answer("unavailable", f"kmp-smsd {__version__} was installed meanwhile: restart this role")
        return
    logging.basicConfig(level=logging.DEBUG, handlers=[_ToPipe(asked)])
    shown = WaitMemory(mmap(int(memory), WaitMemory.OCTETS))
    threading.Thread(target=_watch, args=(asked, shown), name="watch", daemon=True).start()
    decider = _Decider(Path(path), identity, shown)
    with suppress(EOFError, OSError):  # nobody asks any more
        while True:
            asked.answer(*_answer(decider, *asked.receive()))
    decider.close()


def _answer(decider: _Decider, name: str, *arguments: Any) -> Sequence[Any]:
    try:
        return "done", getattr(decider, name)(*arguments)
    except StoreError as error:
        return "unavailable", str(error)
    except Exception as error:  # a fault of one request; it is told where it was asked
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()


def _watch(asked: _Pipe, shown: WaitMemory) -> None:
    """Show that we are alive, say where we hang, and end in time once nobody asks any more.

    At a stop somebody may hold the write lock for hours: what cannot be ended is left to the next start.
    """
    told: float | None = None
    while not asked.wait_until_closed(1.0):
        shown.beat()
        asked_at = asked.asked_at
        if asked_at is None or shown.since is not None or told == asked_at:
            continue
        if time.monotonic() - max(asked_at, shown.ended_at) > STUCK_S:
            told = asked_at
            with suppress(Exception):  # standard error may be closed, and we are to go on
                faulthandler.dump_traceback()  # code only, no values
    time.sleep(END_WITHIN_S)
    os._exit(os.EX_TEMPFAIL)


def _tell(error: BaseException | None) -> None:
    """Say what nobody caught, on standard error, without a number that it quotes."""
    sys.stderr.write(masked_in("".join(traceback.format_exception(error))))


if __name__ == "__main__":
    main(*sys.argv[1:])
