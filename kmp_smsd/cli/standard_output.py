"""Standard output that keeps no command from its work: that it could not be written is told in the end."""

from __future__ import annotations

import io
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
                return super().write(data)
            except OSError as error:
                self.fault = error
        return memoryview(data).nbytes


def install() -> None:
    """Have `sys.stdout` be such a one, unless somebody has replaced it, or it is closed."""
    old = sys.__stdout__
    if old is None or sys.stdout is not old:
        return
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(StandardOutput(old.fileno(), "wb", closefd=False)),
        encoding=old.encoding,
        errors=old.errors,
        line_buffering=old.isatty(),
    )


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
