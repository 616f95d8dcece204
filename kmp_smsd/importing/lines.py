"""A file as numbered lines, in constant memory whatever the file holds."""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from io import BufferedReader, FileIO
from pathlib import Path
from types import TracebackType
from typing import Final, Self

MOST_OCTETS: Final = 4096  # in one line, without its end
_CHUNK: Final = 1 << 16
_PROGRESS_EVERY: Final = 1 << 20

Progress = Callable[[int, int], None]
"""Called now and then with the octets read so far and the octets to read in all."""


class Lines:
    """The lines of a regular file, to be gone through `passes` times. All passes read one open file.

    `progress` is told how far that is; whoever goes through them may set it.
    """

    def __init__(self, path: Path, *, passes: int = 1, progress: Progress | None = None) -> None:
        """Open the file. Raises OSError, and ValueError for a pipe or a device, whose end or size nobody knows."""
        self.name = str(path)
        self.digest = ""
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not block us
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise ValueError(f"{path}: this is not a regular file; save what it gives to a file first")
        self._file = BufferedReader(FileIO(descriptor), _CHUNK)
        self.progress = progress
        self._opened = _version(descriptor)
        self._total = os.fstat(descriptor).st_size * passes
        self._done = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()

    def __iter__(self) -> Iterator[tuple[int, bytes | None]]:
        """Line numbers and lines without LF or CR LF; None for a line of more than MOST_OCTETS, which is skipped.

        After the last line `digest` is the SHA-256 of what was read, in hexadecimal.
        """
        self._file.seek(0)
        self.digest = ""
        sha256 = hashlib.sha256()
        number, told = 0, self._done
        while raw := self._file.readline(MOST_OCTETS + 2):  # room for CR LF
            number += 1
            sha256.update(raw)
            self._done += len(raw)
            line = raw.removesuffix(b"\n").removesuffix(b"\r")
            fits = len(line) <= MOST_OCTETS
            if not fits:
                while not raw.endswith(b"\n") and (raw := self._file.readline(_CHUNK)):
                    sha256.update(raw)
                    self._done += len(raw)
                    told = self._tell(told)
            told = self._tell(told)
            yield number, line if fits else None
        self.digest = sha256.hexdigest()
        if self.progress:
            self.progress(self._done, self._total)

    def changed(self, digest: str) -> bool:
        """Whether somebody wrote the file since it was opened; `digest` is that of all that was read since.

        Then a line may be half of what was there and half of what is, and `digest` that of neither.
        """
        raw = self._file.raw  # what is buffered is what was read
        if _version(raw.fileno()) != self._opened:
            return True
        raw.seek(0)
        return hashlib.file_digest(raw, "sha256").hexdigest() != digest  # a time of change is coarse

    def _tell(self, told: int) -> int:
        if self.progress is None or self._done - told < _PROGRESS_EVERY:
            return told
        self.progress(self._done, self._total)
        return self._done


def _version(descriptor: int) -> tuple[int, int]:
    """The size of a file, and when it was written last in nanoseconds."""
    found = os.fstat(descriptor)
    return found.st_size, found.st_mtime_ns
