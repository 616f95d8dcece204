"""Work in a child process, which goes on while whoever takes what it tells does something else with it."""

from __future__ import annotations

import fcntl
import os
import signal
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import get_context
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, TypeVar

from kmp_smsd.vault.own_process import end_with_parent

_PIPE_OCTETS = 1 << 20  # as long as anybody may have it made (pipe-max-size of pipe(7))

Told = TypeVar("Told")

Tell = Callable[[Told], None]
Work = Callable[[Tell[Told]], None]
"""Does something, and tells of it."""


@contextmanager
def told_by_child(work: Work[Told]) -> Iterator[Iterator[Told]]:
    """What `work` tells, in its order; an error of it is raised behind that.

    Its process is a fork of ours: `work` sees all that is in memory now, and nothing that it changes is seen here. It
    waits where a pipe is full of what it told, which must be picklable. Interrupts are ours alone; it ends at the end
    of the context, or when we do. Raises ChildProcessError where it cannot be begun, and where somebody else ends it.
    """
    forking = get_context("fork")
    taking, telling = forking.Pipe(duplex=False)
    process = forking.Process(target=_do, args=(work, telling, os.getpid()), daemon=True)
    with suppress(OSError):  # a user may have only so much of it: then they wait for each other more often
        fcntl.fcntl(telling.fileno(), fcntl.F_SETPIPE_SZ, _PIPE_OCTETS)
    with taking:
        try:
            with telling:
                _begin(process)
            yield _told(taking, process)
        finally:
            if process.pid is not None:  # it began
                process.kill()
                process.join()


def _begin(process: BaseProcess) -> None:
    try:
        with _interrupts_later():  # it begins with them held back, and stays so
            process.start()
    except OSError as error:
        raise ChildProcessError(f"this command cannot begin another process: {error.strerror}") from error


def _do(work: Work[Told], telling: Connection[Any, Any], parent: int) -> None:
    try:
        end_with_parent(parent)
        work(lambda one: telling.send((one, None)))
    except Exception as error:
        error.add_note("".join(traceback.format_tb(error.__traceback__)))  # which no pipe takes along
        telling.send((None, error))
    else:
        telling.send(None)


def _told(taking: Connection[Any, Any], process: BaseProcess) -> Iterator[Any]:
    while (told := _next(taking, process)) is not None:
        one, error = told
        if error is not None:
            raise error
        yield one


def _next(taking: Connection[Any, Any], process: BaseProcess) -> Any:
    try:
        return taking.recv()
    except (EOFError, OSError):  # OSError: it ended while it told
        process.join()
        raise ChildProcessError(f"process {process.pid} of this command {_how_it_ended(process)}; try again") from None


def _how_it_ended(process: BaseProcess) -> str:
    code = process.exitcode or 0  # unknown where whoever began us has SIGCHLD ignored
    if code == -signal.SIGKILL:
        return "was ended by SIGKILL, as the kernel does where memory is short"
    return f"was ended by signal {-code}" if code < 0 else "ended before its work was done"


@contextmanager
def _interrupts_later() -> Iterator[None]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
