"""What the kernel is to do with a process that handles keys and numbers."""

from __future__ import annotations

import ctypes
import os
import resource
import signal

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE = 1, 4  # prctl(2)


def make_undumpable() -> None:
    """Let the kernel write no core dump of this process, and show its memory to no process of the same user.

    The limit, which what it runs inherits, does not stop a kernel that pipes its core dumps to a program.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    hide_memory()


def hide_memory() -> None:
    """As make_undumpable, for who has to tell which limit it was given.

    From here on this process's files below /proc belong to root; it can read its own all the same.
    """
    _set(_PR_SET_DUMPABLE, 0, "core dumps cannot be forbidden")


def end_with_parent(parent: int) -> None:
    """Let the kernel kill this process when the thread that began it ends, in whatever way; `parent` is its process."""
    _set(_PR_SET_PDEATHSIG, signal.SIGKILL, "it cannot be had that this process ends with its parent")
    if os.getppid() != parent:  # it ended before that
        os.kill(os.getpid(), signal.SIGKILL)


def _set(option: int, value: int, otherwise: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), otherwise)
