"""Standard output and standard error that keep no command from its work: what could not be told breaks nothing off."""

from __future__ import annotations

import io
import select
import sys
from typing import Any


class StandardOutput(io.FileIO):
    """The file. `fault` is why it could not be written; from then on whatever is written is thrown away.

    A command of several steps would break off after the first one, and one of a single step would seem not to have
    done it, though nothing is wrong but the telling.
    """

    fault: OSError | None = None

    def write(self, data: Any, /) -> int:
        if self.fault is None:
            try:
                while (written := super().write(data)) is None:
                    select.select([], [self], [])  # another program that has it too wants it not to block
                return written
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes


class StandardError(StandardOutput):
    """Standard error, where each message is tried anew: a daemon's log goes on when the disk has room again."""

    def write(self, data: Any, /) -> int:
        self.fault = None
        return super().write(data)


def install() -> None:
    """Have `sys.stdout` and `sys.stderr` be such ones, unless somebody has replaced them, or they are closed."""
    for name, kind in (("stdout", StandardOutput), ("stderr", StandardError)):
        old = getattr(sys, f"__{name}__")
        if old is None or getattr(sys, name) is not old:
            continue
        new = io.TextIOWrapper(
            io.BufferedWriter(kind(old.fileno(), "wb", closefd=False)),
            encoding=old.encoding,
            errors=old.errors,
            line_buffering=old.line_buffering,
        )
        setattr(sys, name, new)


def fault() -> OSError | None:
    """Why standard output could not be written; None where it could."""
    file = getattr(getattr(sys.stdout, "buffer", None), "raw", None)
    return file.fault if isinstance(file, StandardOutput) else None


def check_heard() -> None:
    """Write what is in the buffer. Raises OSError where that is not possible, or was not before.

    For what is done only to be read, and need not go on.
    """
    sys.stdout.flush()
    if (error := fault()) is not None:
        raise error
