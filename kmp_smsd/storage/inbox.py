"""The inbox: messages that were answered and are not settled yet, in files beside the database.

A message may be answered as soon as it is on the disk here, which costs one write and one sync, whoever holds the
write lock of the database meanwhile. Settling follows in its own time, in large transactions; each of them remembers
the last number that it settled (`store.inbox_settled`), so that nothing is left out and nothing is settled twice.

A file is only ever added to, by the process that made it, and never again after a write or a sync of it failed: what
the kernel then still has of it, and what is on the disk, nobody knows. It goes when all of it is settled.
"""

from __future__ import annotations

import logging
import os
import stat
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from pathlib import Path

from kmp_smsd.storage.durable import sync
from kmp_smsd.storage.errors import StoreUnavailable
from kmp_smsd.storage.locks import SHARED_MODE, InboxLock
from kmp_smsd.storage.received import DamagedLine, Message, Received

log = logging.getLogger(__name__)

FILE_OCTETS = 1024 * 1024  # from there on the next one is begun: some ten thousand messages
DIRECTORY_MODE = 0o770  # its files are the group's, as the database is
SUFFIX = ".messages"


@dataclass(slots=True)
class _File:
    path: Path
    last: int  # number of the last message in it that was answered
    octets: int = 0


class Inbox:
    """The inbox of the database at `path`. Used by one thread at a time, of one process.

    `settled` is the last number that the database has settled. Raises StoreBusy where another process has it open,
    StoreUnavailable where it cannot be read.
    """

    def __init__(self, path: Path, settled: int) -> None:
        self._directory = directory(path)
        self._descriptor: int | None = None  # of the last of `_files`, while it may be added to
        self._files: deque[_File] = deque()
        self._serial = 0
        self._last = settled
        self.left: list[Received] = []  # what was not settled when it was opened
        with ExitStack() as opened:
            opened.enter_context(closing(InboxLock(path)))
            opened.callback(self._end_file)
            try:
                self._make_directory()
                self._read(settled)
                self.forget(settled)
            except OSError as error:
                raise self._unavailable(error) from error
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def append(self, messages: Sequence[Message]) -> Received:
        """Bring `messages` to the disk. Raises StoreUnavailable where that fails: then none of them may be answered."""
        received = Received(self._last + 1, messages)
        self._last = received.last  # even where it fails: who finds the line after a restart may take it for whole
        line = received.line()
        try:
            if self._descriptor is None:
                self._begin_file()
            file = self._files[-1]
            self._check_place(file)
            self._write(line)
        except BaseException as error:
            self._end_file()
            if isinstance(error, OSError):
                raise self._unavailable(error) from error
            raise
        file.last = received.last
        file.octets += len(line)
        if file.octets >= FILE_OCTETS:
            self._end_file()
        return received

    def forget(self, settled: int) -> bool:
        """Remove the files of which all is settled, up to that number; whether any is left. Raises StoreUnavailable.

        It need not reach the disk: whoever finds one again knows by the numbers that it is settled.
        """
        try:
            while self._files and self._files[0].last <= settled:
                if len(self._files) == 1:
                    self._end_file()
                self._files[0].path.unlink(missing_ok=True)
                self._files.popleft()
        except OSError as error:
            raise self._unavailable(error) from error
        return bool(self._files)

    def _make_directory(self) -> None:
        if self._directory.is_dir():
            return
        self._directory.mkdir()
        mode = stat.S_IMODE(self._directory.stat().st_mode)
        if (
            mode & DIRECTORY_MODE != DIRECTORY_MODE
        ):  # for a narrow umask; a sandbox forbids to repeat an inherited setgid
            self._directory.chmod(mode | DIRECTORY_MODE)
        sync(self._directory)

    def _begin_file(self) -> None:
        self._make_directory()
        self._serial += 1
        path = self._directory / f"{self._serial:012}{SUFFIX}"
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, SHARED_MODE)
        self._files.append(_File(path, last=0))
        os.fchmod(self._descriptor, SHARED_MODE)
        sync(path)  # its name, too

    def _end_file(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            with suppress(OSError):  # what counts has been synced
                os.close(descriptor)

    def _check_place(self, file: _File) -> None:
        """Raise FileNotFoundError where somebody removed or moved the file: after a restart nobody would find it."""
        assert self._descriptor is not None
        if os.stat(file.path).st_ino != os.fstat(self._descriptor).st_ino:
            raise FileNotFoundError(0, "was replaced", str(file.path))

    def _write(self, line: bytes) -> None:
        assert self._descriptor is not None
        rest = memoryview(line)
        while rest:
            rest = rest[os.write(self._descriptor, rest) :]
        os.fdatasync(self._descriptor)

    def _read(self, settled: int) -> None:
        for path in sorted(self._directory.glob(f"[0-9]*{SUFFIX}")):
            self._serial = int(path.name.removesuffix(SUFFIX))
            file = _File(path, last=0)
            for received in read_file(path):
                file.last = max(file.last, received.last)
                if messages := received.after(settled):
                    self.left.append(Received(received.last + 1 - len(messages), messages))
            self._last = max(self._last, file.last)
            self._files.append(file)
        # A power cut may bring back a file from before the database was restored, when other numbers counted.
        self.left.sort(key=lambda received: received.first)

    def _unavailable(self, error: OSError) -> StoreUnavailable:
        return StoreUnavailable(f"{error.filename or self._directory}: {error.strerror or error}")


def directory(path: Path) -> Path:
    """Where the inbox of the database at `path` is."""
    return path.with_name(path.name + "-inbox")


def read_file(path: Path) -> Iterator[Received]:
    """What is in a file. After its last whole line a torn one may follow: of that, nothing was answered."""
    damaged: list[int] = []
    lines = path.read_bytes().split(b"\n")
    for number, line in enumerate(lines, start=1):
        try:
            received = Received.parse(line)
        except DamagedLine:
            damaged.append(number)
            continue
        for earlier in damaged:  # what follows it was written after it was synced
            log.error(
                "%s:%d is damaged: messages that were answered are lost; see what the kernel's log (dmesg) tells"
                " of its disk",
                path,
                earlier,
                extra={"event": "inbox_damaged"},
            )
        damaged.clear()
        yield received
