"""Whether the clock can be believed: versions, late requests and validities follow it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from kmp_smsd.diagnosis.finding import Finding, ok, warning
from kmp_smsd.domain.spans import HOUR_MS

ENTRY_AHEAD_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """`synchronized` is what the kernel says, None where it does not; times in Unix milliseconds."""

    now: int
    synchronized: bool | None
    last_entry_at: int | None  # of the journal
    last_hour: int | None = None  # in which messages were counted: the entries behind one of the future hide it


def judge_clock(facts: ClockFacts) -> list[Finding]:
    """Against the kernel's word, and against what was written here before."""
    if facts.synchronized is None:
        found = [ok("the kernel does not say whether the clock is synchronized")]
    elif facts.synchronized:
        found = [ok("the clock is synchronized")]
    else:
        found = [
            warning(
                "the clock is not synchronized: the order of messages and keys' validities follow it",
                "run chrony or systemd-timesyncd ('timedatectl' shows what it does)",
            )
        ]
    last_at = facts.last_entry_at or 0
    last_hour_at = (facts.last_hour or 0) * HOUR_MS
    if last_hour_at > max(last_at, facts.now + ENTRY_AHEAD_MS):
        last_at = last_hour_at + HOUR_MS  # at the latest
    if last_at > facts.now + ENTRY_AHEAD_MS:
        found.append(
            warning(
                f"the journal goes on to {(last_at - facts.now) // 1000:,} s in the future,"
                f" {datetime.fromtimestamp(last_at / 1000, UTC):%Y-%m-%d %H:%M:%S} UTC: the clock was ahead, or is"
                " behind now",
                "compare it with another clock, and set it right where it is not\n"
                "where it is right: until that time what was bound while it was ahead counts as newer than any message"
                " that comes; decide what 'kmp-smsd holds list' shows, and all else ends by itself",
            )
        )
    else:
        found.append(ok("no journal entry is in the future"))
    return found
