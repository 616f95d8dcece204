"""How much each part of the daemon says, while it runs."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from types import MappingProxyType

LEVELS = ("debug", "info", "warning", "error")

#: What people call a part -> the loggers of it, each with all that are below.
SUBSYSTEMS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "smpp": ("kmp_smsd.smpp", "kmp_smsd.service.link", "kmp_smsd.service.connection", "kmp_smsd.service.tracing"),
        "intake": (
            "kmp_smsd.service.intake",
            "kmp_smsd.service.intake_role",
            "kmp_smsd.service.admission",
            "kmp_smsd.service.answering",
            "kmp_smsd.service.inbox_thread",
            "kmp_smsd.service.thread",
            "kmp_smsd.service.settler",
            "kmp_smsd.service.deciding_process",
            "kmp_smsd.service.replying",
            "kmp_smsd.service.believed_clock",
            "kmp_smsd.service.housekeeping",
        ),
        "dispatch": (
            "kmp_smsd.service.dispatch",
            "kmp_smsd.service.dispatch_role",
            "kmp_smsd.service.dispatch_worker",
            "kmp_smsd.service.delivering",
            "kmp_smsd.service.judging",
            "kmp_smsd.service.erasing",
            "kmp_smsd.service.counting",
        ),
        "channels": ("kmp_smsd.channels",),
        "store": ("kmp_smsd.storage", "kmp_smsd.importing", "kmp_smsd.service.store_watch"),
        "control": (
            "kmp_smsd.control",
            "kmp_smsd.service.control",
            "kmp_smsd.service.daemon",
            "kmp_smsd.service.monitor",
            "kmp_smsd.service.reloading",
            "kmp_smsd.service.watching",
            "kmp_smsd.cli.daemon",
            "kmp_smsd.cli.journal_socket",
            "kmp_smsd.cli.log_stream",
        ),
        "all": ("kmp_smsd",),
    }
)


class LogLevels:
    """Levels that a person has set for now; the next reload has each subsystem fall back to that of its start."""

    def __init__(self) -> None:
        self._set: dict[str, str] = {}
        self._before: dict[str, int] = {}

    @property
    def set_by_hand(self) -> dict[str, str]:
        """Level by subsystem."""
        return dict(self._set)

    def set(self, subsystem: str, level: str) -> None:
        """Have `subsystem` say what is of this level or above. Raises KeyError where there is none of this name."""
        for name in SUBSYSTEMS[subsystem]:
            logger = logging.getLogger(name)
            self._before.setdefault(name, logger.level)
            logger.setLevel(level.upper())
        self._set[subsystem] = level

    def fall_back(self) -> None:
        """Say again what was said at the start."""
        for name, level in self._before.items():
            logging.getLogger(name).setLevel(level)
        self._set.clear()
        self._before.clear()
