"""The memory of a process that holds keys is nobody else's to read."""

from __future__ import annotations

import ctypes
import resource

_PR_SET_DUMPABLE = 4  # prctl(2)


def make_undumpable() -> None:
    """Let the kernel write no core dump of this process, and show its memory to no process of the same user.

    The limit alone does not stop a kernel that pipes its core dumps to a program. From here on this process's files
    below /proc belong to root; it can read its own all the same.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "core dumps cannot be forbidden")
