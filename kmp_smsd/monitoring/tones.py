"""Which colour a row of the status page has. Its state stands there in words as well."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

CROWDED = 0.7  # of a link's window
FAILS_LONG_MS = 600_000


class Tone(StrEnum):
    """How a row is, worst last; the value is the class in the page's style sheet."""

    GOOD = "good"
    PAUSED = "paused"
    BUSY = "busy"
    WARNING = "warning"
    BAD = "bad"


MEANING = {
    Tone.GOOD: "works",
    Tone.BUSY: "on its way",
    Tone.WARNING: "works, but look",
    Tone.BAD: "down",
    Tone.PAUSED: "paused by a person",
}


def of_link(link: Mapping[str, Any]) -> Tone:
    """The tone of a link."""
    if link["paused"]:
        return Tone.PAUSED
    if link["bound"]:
        return Tone.WARNING if link["in_flight"] > CROWDED * link["in_flight_max"] else Tone.GOOD
    return Tone.BUSY if link["word"] in ("connecting", "binding", "unbinding") else Tone.BAD


def of_platform(platform: Mapping[str, Any]) -> Tone:
    """The tone of a platform."""
    if platform["paused"]:
        return Tone.PAUSED
    if platform["word"] in ("held back after rejections", "without an enabled file"):
        return Tone.BAD
    if platform["word"] in ("draining", "drained"):
        return Tone.BUSY
    if platform["word"] == "waiting":  # something is due, and its time has not come
        return Tone.BAD if _fails_long(platform) else Tone.WARNING
    return Tone.WARNING if platform["rejected"] else Tone.GOOD


def _fails_long(platform: Mapping[str, Any]) -> bool:
    """Whether the platform had confirmed nothing for 10 minutes when it last failed."""
    failed_at, succeeded_at = platform["last_error_at"], platform["last_success_at"]
    return failed_at is not None and (succeeded_at is None or failed_at - succeeded_at > FAILS_LONG_MS)
