"""Twisted's log and Python's own, both on standard error: one line per event, with its level."""

from __future__ import annotations

import logging
import sys
import traceback
from collections.abc import Mapping
from datetime import datetime
from typing import Any

LEVELS = ("debug", "info", "warning", "error")


class OneLine(logging.Formatter):
    """Time in this machine's zone, level, origin, text; a traceback stands on the same line, the call last."""

    def format(self, record: logging.LogRecord) -> str:
        when = datetime.fromtimestamp(record.created).astimezone().isoformat(timespec="milliseconds")
        text = f"{when} {record.levelname.lower()} {record.name}: {record.getMessage()}"
        if record.exc_info and record.exc_info[1] is not None:
            text += " | " + " | ".join(traceback.format_exception(record.exc_info[1]))
        return "".join(char if char.isprintable() else _visible(char) for char in text.rstrip("\n"))


def _visible(char: str) -> str:
    return " " if char == "\n" else char.encode("unicode_escape").decode()


def start_logging(level: str) -> None:
    """Begin; `level` is one of LEVELS. Twisted's own messages are shown from warning up unless `level` is debug."""
    from twisted.logger import globalLogBeginner

    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLine())
    logging.basicConfig(level=level.upper(), handlers=[handler])
    if level != "debug":
        for name in ("twisted", "log_legacy"):  # the second is what its older half says
            logging.getLogger(name).setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    globalLogBeginner.beginLoggingTo(
        [_to_python],  # type: ignore[list-item]  # Twisted's observers are declared as an interface
        redirectStandardIO=False,
        discardBuffer=True,
    )


def _to_python(event: Mapping[str, Any]) -> None:
    from twisted.logger import formatEvent

    logger = logging.getLogger(str(event.get("log_namespace", "twisted")))
    level = getattr(logging, {"warn": "WARNING"}.get(event["log_level"].name, event["log_level"].name.upper()))
    if not logger.isEnabledFor(level):
        return
    failure = event.get("log_failure")
    exc_info = (failure.type, failure.value, failure.getTracebackObject()) if failure is not None else None
    logger.log(level, "%s", formatEvent(dict(event)), exc_info=exc_info)
