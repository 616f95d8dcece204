"""The place of a role's control socket: claimed from the dead, listened at, and left."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from twisted.internet.error import CannotListenError
from twisted.internet.tcp import Port as TcpPort
from twisted.internet.unix import Port as UnixPort
from twisted.python.failure import Failure

from kmp_smsd.control.protocol import CONFIGURATION, NO_PERMISSION, TEMPORARY

SOCKET_MODE = 0o660
OTHERS_S = 5.0  # for other processes that look for the dead, or begin to listen
AGAIN_S = 0.01


class ControlUnusable(Exception):
    """There is no place for the control socket; the text says what to do. The service exits with `exit_code`."""

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def claim(path: Path, *, within_s: float = OTHERS_S) -> None:
    """Make room for the control socket `path` of the role of that name: one that a killed process left is removed.

    Waits for others who do that just now. Raises ControlUnusable.
    """
    directory = path.parent
    try:
        with _alone_in(directory, within_s):
            if _is_live(path):
                raise ControlUnusable(f"{path.stem} runs already: another process answers at {path}", TEMPORARY)
            with suppress(FileNotFoundError):
                if not stat.S_ISSOCK(path.lstat().st_mode):
                    raise ControlUnusable(f"{path} is in the way, and is no socket: remove it", CONFIGURATION)
                path.unlink()
            _try_to_bind(path)
    except (FileNotFoundError, NotADirectoryError):
        raise ControlUnusable(
            f"no directory {directory} for the control socket: create it with 'systemd-tmpfiles --create', or let"
            " [control] directory name one that this service's user can write to",
            CONFIGURATION,
        ) from None
    except PermissionError:
        raise ControlUnusable(
            f"{directory}: permission denied: this service's user must be able to write to [control] directory",
            NO_PERMISSION,
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise ControlUnusable(
                f"{directory}: no room for the control socket: make some on its volume, inodes too (df -i)", TEMPORARY
            ) from None
        if error.errno != errno.EROFS:
            raise
        raise ControlUnusable(
            f"{directory} is on a file system that is mounted read-only: let it be written (its mount, ReadWritePaths="
            " of the unit), or let [control] directory name another; where it was made anew, restart the role",
            CONFIGURATION,
        ) from None


@contextmanager
def _alone_in(directory: Path, within_s: float) -> Iterator[None]:
    """Two processes that start at once look, remove and listen one after the other."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    deadline = time.monotonic() + within_s
    try:
        while not _locked(descriptor):
            if time.monotonic() >= deadline:
                sentence = f"{directory} is locked by another process (flock, see lslocks): try again when it has ended"
                raise ControlUnusable(sentence, TEMPORARY)
            time.sleep(AGAIN_S)
        yield
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _try_to_bind(path: Path) -> None:
    """Raises the OSError that whoever will listen at `path` would meet."""
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as unheard:
        unheard.bind(str(path))
    path.unlink()


def _is_live(path: Path) -> bool:
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        connection.setblocking(False)
        try:
            connection.connect(str(path))
        except (FileNotFoundError, ConnectionRefusedError):
            return False
        except (BlockingIOError, PermissionError):  # its queue is full, or it is another user's: somebody has it open
            return True
        except OSError as error:
            return error.errno == errno.EPROTOTYPE  # it is somebody's of another type, of datagrams say
    return True


class ControlPort(UnixPort):
    """Listens at a path, and in the end removes its socket there, but none that another process has there by then."""

    def __init__(self, path: Path, factory: Any, reactor: Any) -> None:  # mypy knows nothing of zope's interfaces
        super().__init__(os.fsencode(path), factory, mode=SOCKET_MODE, reactor=reactor)
        self._path = path
        self._made: tuple[int, int] | None = None

    def listen(self, within_s: float) -> None:
        """Begin; the socket belongs to the group of its directory, which may write to it, and nobody else may.

        While no other process looks for a dead one: it could take ours for that. Raises ControlUnusable,
        and OSError where its directory cannot be opened.
        """
        with _alone_in(self._path.parent, within_s):
            before = os.umask(0o777 & ~SOCKET_MODE)
            try:
                self.startListening()
            except CannotListenError as error:  # another process was quicker, or its directory is gone
                reason = os.strerror(error.socketError.errno)
                sentence = f"cannot listen at {self._path}: {reason}: does another process of this role run?"
                raise ControlUnusable(sentence, TEMPORARY) from None
            finally:
                os.umask(before)
            self._made = self._there()

    @property
    def is_there(self) -> bool:
        """Whether clients find it: nobody has removed its socket."""
        return self._made is not None and self._there() == self._made

    def connectionLost(self, reason: Failure) -> None:
        if self.is_there:
            super().connectionLost(reason)
        else:
            TcpPort.connectionLost(self, reason)

    def _there(self) -> tuple[int, int] | None:
        try:
            found = os.lstat(self._path)
        except OSError:
            return None
        return found.st_dev, found.st_ino
