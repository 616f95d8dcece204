"""The process that decides for intake: it does what it is asked through a pipe, until that is closed."""

from __future__ import annotations

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
from kmp_smsd.service.deciding import DecidingHere
from kmp_smsd.storage import open_store
from kmp_smsd.storage.errors import StoreError
from kmp_smsd.storage.lock_waits import ShownWait
from kmp_smsd.storage.received import Received
from kmp_smsd.vault.undumpable import make_undumpable

END_WITHIN_S = 5.0  # once nobody asks any more


class _Pipe:
    """Answers, and what the log is told, by the same pipe. Threads of ours have something to say, too."""

    def __init__(self, descriptor: int) -> None:
        self._pipe: Connection[Any, Any] = Connection(descriptor)
        self._one_at_a_time = threading.Lock()
        threading.Thread(target=self._end_with_it, name="end", daemon=True).start()

    def receive(self) -> Sequence[Any]:
        """The next request. Raises EOFError when there will be none, and OSError."""
        request: Sequence[Any] = self._pipe.recv()
        return request

    def send(self, *answer: Any) -> None:
        with self._one_at_a_time:
            self._pipe.send(answer)

    def _end_with_it(self) -> None:
        """Somebody may hold the write lock for hours: a transaction that cannot be ended is left to whoever comes."""
        closed = select.poll()
        closed.register(self._pipe.fileno(), select.POLLHUP)
        closed.poll()
        time.sleep(END_WITHIN_S)
        os._exit(os.EX_TEMPFAIL)


class _ToPipe(logging.Handler):
    """Has the process that asks say what is said here: in its form, where its levels have it said."""

    def __init__(self, pipe: _Pipe) -> None:
        super().__init__()
        self._pipe = pipe

    def emit(self, record: logging.LogRecord) -> None:
        fields = {**vars(record), "msg": record.getMessage(), "args": None, "exc_info": None}
        if record.exc_info:
            fields["exc_text"] = "".join(traceback.format_exception(record.exc_info[1]))
        try:
            self._pipe.send("log", fields)
        except OSError:
            self.handleError(record)  # nobody asks any more


class _Decider:
    """What may be asked. The store is opened for the first who needs it, and again where that failed."""

    def __init__(self, path: Path, shown: ShownWait) -> None:
        self._path, self._shown = path, shown
        self._policy: SyncPolicy | None = None
        self._deciding: DecidingHere | None = None

    def settle(self, lines: Sequence[bytes], now: int) -> list[str | None]:
        outcomes = self._opened().settle([Received.parse(line) for line in lines], now)
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
            store = open_store(self._path, self._policy, checkpoint_aside=True)
            store.lock_wait.show_in(self._shown)
            self._deciding = DecidingHere(store)
            gc.collect()
            gc.freeze()  # as in the process that asks: what is there by now stays
        return self._deciding


def main(version: str, path: str, pipe: str, memory: str) -> None:
    """Decide until the pipe is closed; signals are for the process at its other end."""
    make_undumpable()
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    asked = _Pipe(int(pipe))
    if version != __version__:  # it was installed meanwhile, and what we are asked may mean something else
        asked.send("unavailable", f"kmp-smsd is {__version__} now: restart what still runs {version}")
        return
    logging.basicConfig(level=logging.DEBUG, handlers=[_ToPipe(asked)])
    decider = _Decider(Path(path), ShownWait(mmap(int(memory), ShownWait.OCTETS)))
    with suppress(EOFError, OSError):  # nobody asks any more
        while True:
            asked.send(*_answer(decider, *asked.receive()))
    decider.close()


def _answer(decider: _Decider, name: str, *arguments: Any) -> Sequence[Any]:
    try:
        return "done", getattr(decider, name)(*arguments)
    except StoreError as error:
        return "unavailable", str(error)
    except Exception as error:  # a fault of one request; it is told where it was asked
        return "failed", f"{type(error).__name__}: {error}", traceback.format_exc()


if __name__ == "__main__":
    main(*sys.argv[1:])
