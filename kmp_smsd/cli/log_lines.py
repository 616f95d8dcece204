"""A record of the log as a line: text for people, JSON for programs."""

from __future__ import annotations

import json
import logging
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from kmp_smsd.domain.shown import masked_in, printable

_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime"}  # what every record has or is given


class OneLine(logging.Formatter):
    """Time in this machine's zone, level, origin, text; a traceback stands on the same line, the call last."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        text = f"{when} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        text = " | ".join((text, *traceback_of(record)))
        return printable(text.rstrip("\n").replace("\n", " "))


class JsonLine(logging.Formatter):
    """One JSON object: `at` (Unix milliseconds), `level`, `event`, `message` and `role` first, then the fields."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        fields = dict(fields_of(record))
        line = {
            "at": int(record.created * 1000),
            "level": record.levelname.lower(),
            "event": fields.pop("event", None),
            "message": record.getMessage(),
            "role": self._role,
            "logger": record.name,
            **fields,
        }
        if told := traceback_of(record):
            line["traceback"] = "".join(told).rstrip("\n")
        return json.dumps(line, default=str)


def fields_of(record: logging.LogRecord) -> Mapping[str, Any]:
    """What was said beside the text; `event`, where it has a name, is among it."""
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def traceback_of(record: logging.LogRecord) -> list[str]:
    """The parts of a traceback, where there is one, each with its line end. A number that it quotes is masked."""
    if record.exc_info and record.exc_info[1] is not None:
        parts = traceback.format_exception(record.exc_info[1])
    else:  # another process has made a text of it
        parts = (record.exc_text or "").splitlines(keepends=True)
    return [masked_in(part) for part in parts]
