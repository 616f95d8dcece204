"""Twisted's log and Python's own become one, on standard error or in systemd's journal: one event each, with fields.

What an event is called and which fields it has stands in docs/logs.rst.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Mapping
from types import FrameType
from typing import Any

from kmp_smsd.cli.journal_socket import JournalHandler, leads_to_journal
from kmp_smsd.cli.log_lines import JsonLine, OneLine
from kmp_smsd.cli.log_stream import StreamHandler

FORMATS = ("auto", "text", "json")


def start_logging(level: str, form: str, *, role: str) -> None:
    """Begin; `level` is one of log_levels.LEVELS, `form` of FORMATS, `role` the command that started this process.

    Twisted's own messages are shown from warning up unless `level` is debug.
    """
    from twisted.logger import globalLogBeginner

    logging.basicConfig(level=level.upper(), handlers=[_handler(form, role)])
    if level != "debug":
        for name in ("twisted", "log_legacy"):  # the second is what its older half says
            logging.getLogger(name).setLevel(max(logging.WARNING, getattr(logging, level.upper())))
    globalLogBeginner.beginLoggingTo(
        [_to_python],  # type: ignore[list-item]  # Twisted's observers are declared as an interface
        redirectStandardIO=False,
        discardBuffer=True,
    )


def _handler(form: str, role: str) -> logging.Handler:
    handler = StreamHandler(sys.stderr)
    handler.setFormatter(JsonLine(role) if form == "json" else OneLine())
    if form == "auto" and leads_to_journal(sys.stderr):
        return JournalHandler(role, otherwise=handler)
    return handler


def _to_python(event: Mapping[str, Any]) -> None:
    """An observer of Twisted's log."""
    from twisted.logger import formatEvent

    namespace = str(event.get("log_namespace", "twisted"))
    logger = logging.getLogger(namespace)
    level = getattr(logging, {"warn": "WARNING"}.get(event["log_level"].name, event["log_level"].name.upper()))
    if not logger.isEnabledFor(level):
        return
    failure = event.get("log_failure")
    exc_info = (failure.type, failure.value, failure.getTracebackObject()) if failure is not None else None
    ours = namespace.startswith("kmp_smsd.")  # others may name their fields as a record's own
    fields = {name: value for name, value in event.items() if not name.startswith("log_")} if ours else None
    code = _caller()
    logger.handle(
        logger.makeRecord(
            namespace, level, code.f_code.co_filename, code.f_lineno, "%s", (formatEvent(dict(event)),), exc_info,
            code.f_code.co_name, fields,
        )
    )  # fmt: skip


def _caller() -> FrameType:
    """Where the event was said: the frame below those of Twisted's log and this module."""
    frame = sys._getframe()
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith((__name__, "twisted.logger")):
        frame = frame.f_back
    return frame
