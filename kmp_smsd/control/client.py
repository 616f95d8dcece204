"""Asking a running role. Blocks; imports next to nothing, so that a command answers at once."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

from kmp_smsd.control.protocol import (
    ANSWER_OCTETS_MAX,
    NO_PERMISSION,
    UNAVAILABLE,
    Done,
    NotDone,
    Progress,
    ProtocolFault,
    Refused,
    Request,
    decode_answer,
)

CHUNK_OCTETS = 65_536


class RoleAway(Refused):
    """Nobody listens, or whoever does says nothing (exit 69)."""

    def __init__(self, sentences: str) -> None:
        super().__init__(sentences, UNAVAILABLE)


class NotRunning(RoleAway):
    """Nobody listens."""


def ask(
    path: Path,
    command: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    within_s: float = 10.0,
    progress: Callable[[str], object] = str,
) -> dict[str, Any]:
    """Have the role at the socket `path` do `command`; what came of it.

    `progress` is told each sentence on the way. Raises Refused where the role does not do it, and RoleAway where there
    is none or it does not answer `within_s`.
    """
    role = path.stem
    deadline = time.monotonic() + within_s
    with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as connection:
        try:
            connection.settimeout(within_s)
            connection.connect(str(path))
            connection.sendall(Request(command, arguments or {}).encode())
            for line in _lines(connection, deadline):
                match decode_answer(line):
                    case Progress(sentence):
                        progress(sentence)
                    case Done(result):
                        return dict(result)
                    case NotDone(error, code):
                        raise Refused(error, code)
        except (FileNotFoundError, ConnectionRefusedError):
            raise NotRunning(f"{role} does not run: nobody listens at {path}") from None
        except PermissionError:
            raise Refused(
                f"{path}: permission denied: run this as root, or as a member of the service's group", NO_PERMISSION
            ) from None
        except TimeoutError:
            raise RoleAway(f"{role} runs, but does not answer within {within_s:g} s") from None
        except ProtocolFault as fault:
            raise RoleAway(f"{role} at {path} gave {fault}") from None
        except OSError as error:
            raise RoleAway(f"{role} at {path}: {error.strerror or error}") from None
    raise RoleAway(f"{role} ended before it answered")


def _lines(connection: socket.socket, deadline: float) -> Iterator[bytes]:
    octets = b""
    while True:
        left = deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        connection.settimeout(left)
        received = connection.recv(CHUNK_OCTETS)
        if not received:
            return
        octets += received
        *whole, octets = octets.split(b"\n")
        if len(octets) > ANSWER_OCTETS_MAX:
            raise ProtocolFault("an answer without an end")
        yield from whole
