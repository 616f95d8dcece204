"""What lies and waits: senders that are refused, holds that nobody decides, deliveries that do not arrive."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.diagnosis.finding import Finding, ok, warning
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.shown import NO_PLATFORM
from kmp_smsd.domain.spans import DAY_MS
from kmp_smsd.domain.unserved import unserved

HOLD_DAYS = 3
CLASSES_SHOWN = 10
FILE_BACK = "put its file back into platforms.d, or enable it there, then 'kmp-smsd reload'"
REFUSED_MIN = 10  # messages of one class in a day: fewer are slips of single terminals

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficFacts:
    """`refused` are the classes of senders that ended as invalid_mdn in the last day: link, sender, count.

    `platforms` are rows of `platforms list`, `configured` those that have an enabled file, and `apps` what these files
    name; `oldest_hold_at` is when the longest open hold came, of `holds`.
    """

    now: int
    refused: Sequence[Row] = ()
    holds: int = 0
    oldest_hold_at: int | None = None
    platforms: Sequence[Row] = ()
    configured: Collection[str] = ()
    apps: Collection[str] = ()


def judge_traffic(facts: TrafficFacts) -> list[Finding]:
    return [_refused(facts.refused), _holds(facts), *_deliveries(facts)]


def _refused(rows: Sequence[Row]) -> Finding:
    """A newly opened number range is noticed here."""
    many = [row for row in rows if row["count"] >= REFUSED_MIN]
    if not many:
        return ok("no class of senders was refused as invalid_mdn often in the last day")
    shown = "".join(
        f"\n{row['sender']} by {row['link']}: {row['count']:,} messages{_as_range(row['sender'])}"
        for row in many[:CLASSES_SHOWN]
    )
    rest = len(many) - CLASSES_SHOWN
    more = f"\nand {counted(rest, 'more class', 'more classes')}" if rest > 0 else ""
    return warning(
        f"refused as invalid_mdn in the last day, by first digits and length:{shown}{more}",
        "where such a range is the carrier's, add it to [numbering], with a prefix as long as the carrier says;\n"
        "where numbers lack their country code, see unknown_ton and trunk_prefix of the link",
    )


def _as_range(sender: str) -> str:
    digits, _, length = sender.partition("/")
    return f', as in {{prefix = "{digits}", digits = {length}}}' if digits.isdigit() else ""


def _holds(facts: TrafficFacts) -> Finding:
    if facts.oldest_hold_at is None or facts.now - facts.oldest_hold_at < HOLD_DAYS * DAY_MS:
        return ok(f"open holds: {facts.holds:,}, none of them older than {HOLD_DAYS} days")
    days = (facts.now - facts.oldest_hold_at) // DAY_MS
    return warning(
        f"open holds: {facts.holds:,}; the oldest waits for a person since {days:,} days, its terminal in vain",
        "kmp-smsd holds list, then 'kmp-smsd holds approve' or 'kmp-smsd holds refuse'",
    )


def _deliveries(facts: TrafficFacts) -> list[Finding]:
    found = []
    for row in facts.platforms:
        name, due, oldest = row["platform"], row["due"], row["oldest_due_at"]
        if not name and due:
            found.append(
                warning(
                    unserved(NO_PLATFORM, due),
                    f"kmp-smsd outbox list --platform '{NO_PLATFORM}' shows the apps: name them in a file of"
                    " platforms.d, then 'kmp-smsd reload'; an app that is given up: kmp-smsd registrations remove",
                )
            )
        elif due and name not in facts.configured and row["forgotten_at"] is None:
            found.append(
                warning(
                    unserved(name, due),
                    f"{FILE_BACK}; where it is gone for good: kmp-smsd platforms forget {name}",
                )
            )
        elif oldest is not None and facts.now - oldest >= DAY_MS:
            error = f"; its last error: {row['last_error']}" if row["last_error"] else ""
            found.append(
                warning(
                    f"platform {name} owes receipts since {counted((facts.now - oldest) // DAY_MS, 'day')}:"
                    f" {counted(due, 'delivery waits', 'deliveries wait')}{error}",
                    f"kmp-smsd platforms test {name}; where the platform is gone: kmp-smsd platforms forget {name}",
                )
            )
        found += _unnamed(facts, row)
        found += _rejected(facts, row)
    return found or [ok("no delivery is older than a day, and none is rejected")]


def _unnamed(facts: TrafficFacts, row: Row) -> Iterator[Finding]:
    """An app that its file does not name any more keeps its platform, which gets nothing new of it."""
    apps = [app for app in row["apps"] if app not in facts.apps]
    if row["due"] and row["platform"] in facts.configured and apps:
        yield warning(
            f"platform {row['platform']} has keys of {counted(len(apps), 'app')} that no file names any more, and gets"
            f" no new ones: {', '.join(apps)}",
            "where that is not meant, name it in a file of platforms.d, then 'kmp-smsd reload'",
        )


def _rejected(facts: TrafficFacts, row: Row) -> Iterator[Finding]:
    name, rejected = row["platform"], counted(row["rejected"], "delivery", "deliveries")
    retry = f"kmp-smsd outbox retry --platform {name}"
    if row["rejected"] and name in facts.configured:
        yield warning(
            f"platform {name} rejected {rejected}", f"kmp-smsd outbox list --platform {name} tells why; then {retry}"
        )
    elif row["rejected"] and row["forgotten_at"] is None:
        yield warning(
            f"platform {name}, which has no enabled file, rejected {rejected}",
            f"{FILE_BACK} and {retry}; where it is gone for good: kmp-smsd platforms forget {name}",
        )
