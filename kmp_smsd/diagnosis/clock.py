"""Whether the clock can be believed: versions, late requests and validities follow it."""

from __future__ import annotations

from dataclasses import dataclass

from kmp_smsd.diagnosis.finding import Finding, ok, warning

ENTRY_AHEAD_MS = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """`synchronized` is what the kernel says, None where it does not; times in Unix milliseconds."""

    now: int
    synchronized: bool | None
    last_entry_at: int | None  # of the journal


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
    if facts.last_entry_at is not None and facts.last_entry_at > facts.now + ENTRY_AHEAD_MS:
        ahead_s = (facts.last_entry_at - facts.now) // 1000
        found.append(
            warning(
                f"the newest journal entry is {ahead_s:,} s in the future: the clock was ahead, or is behind now",
                "set the clock right first: what was bound in that time counts as newer than any message that comes",
            )
        )
    else:
        found.append(ok("no journal entry is in the future"))
    return found
