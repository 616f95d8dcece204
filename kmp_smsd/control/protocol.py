"""What goes over a control socket.

The client sends one line, ``{"v":1,"command":"status"}`` with the command's arguments beside it. The role answers with
any number of ``{"progress":"sentence"}`` lines, then one of ``{"ok":true,"result":{...}}`` or
``{"ok":false,"exit":78,"error":"sentences"}``, and closes. No secret ever goes over it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

VERSION = 1
ROLES = ("intake", "dispatch")
ROLE_OF = {"smsc": "intake", "platform": "dispatch"}  # what can rest -> the role that it belongs to
REQUEST_OCTETS_MAX = 65_536
ANSWER_OCTETS_MAX = 16 * 1024 * 1024
TRACE_MINUTES_MAX = 1440
SOCKET_PATH_OCTETS_MAX = 107  # of sun_path in unix(7), without its NUL

FAILED = 1  # exit codes of the command that asked; sysexits
USAGE = 64
UNAVAILABLE = 69
BUG = 70
TEMPORARY = 75
NO_PERMISSION = 77
CONFIGURATION = 78


class ProtocolFault(ValueError):
    """A line that says nothing; the text tells why."""


class Refused(Exception):
    """What was asked is not done; the text says why, `exit_code` is that of the command that asked."""

    def __init__(self, sentences: str, exit_code: int = FAILED) -> None:
        super().__init__(sentences)
        self.exit_code = exit_code


class PathTooLong(ValueError):
    """No socket can have this path; the text says what to do."""


@dataclass(frozen=True, slots=True)
class Request:
    """One command, and its arguments by name."""

    command: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        return _line({"v": VERSION, "command": self.command, **self.arguments})

    @classmethod
    def decode(cls, line: bytes) -> Request:
        """Raises ProtocolFault."""
        try:
            values = json.loads(line)
        except (ValueError, RecursionError):
            raise ProtocolFault("a line is one JSON object") from None
        if not isinstance(values, dict):
            raise ProtocolFault("a line is one JSON object")
        version, command = values.pop("v", None), values.pop("command", None)
        if version != VERSION:
            raise ProtocolFault(f"this daemon speaks version {VERSION} of the control protocol")
        if not isinstance(command, str):
            raise ProtocolFault("command is missing")
        return cls(command, values)


@dataclass(frozen=True, slots=True)
class Progress:
    """How far it is, in a sentence."""

    sentence: str

    def encode(self) -> bytes:
        return _line({"progress": self.sentence})


@dataclass(frozen=True, slots=True)
class Done:
    """What was asked was done."""

    result: Mapping[str, Any] = field(default_factory=dict)

    def encode(self) -> bytes:
        return _line({"ok": True, "result": self.result})


@dataclass(frozen=True, slots=True)
class NotDone:
    """It was not; the command that asked says `error` and exits with `exit_code`."""

    error: str
    exit_code: int = FAILED

    def encode(self) -> bytes:
        return _line({"ok": False, "exit": self.exit_code, "error": self.error})


Answer = Progress | Done | NotDone


def decode_answer(line: bytes) -> Answer:
    """Raises ProtocolFault."""
    try:
        match json.loads(line):
            case {"progress": str(sentence)}:
                return Progress(sentence)
            case {"ok": True, "result": dict(result)}:
                return Done(result)
            case {"ok": False, "exit": int(code), "error": str(error)}:
                return NotDone(error, code)
    except (ValueError, RecursionError):
        pass
    raise ProtocolFault("an answer that this program does not know")


def socket_path(directory: Path, role: str) -> Path:
    """Where `role` listens. Raises PathTooLong."""
    path = directory / f"{role}.sock"
    octets = len(os.fsencode(path))
    if octets > SOCKET_PATH_OCTETS_MAX:
        raise PathTooLong(
            f"{path} has {octets} octets, a socket's path has at most {SOCKET_PATH_OCTETS_MAX}:"
            " give [control] directory a shorter one"
        )
    return path


def _line(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, separators=(",", ":")).encode() + b"\n"
