"""What happened to a number, in order of time: one sentence for each thing."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from kmp_smsd.diagnosis.meanings import meaning
from kmp_smsd.diagnosis.number import Number, Row
from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.outcome import Outcome

_BINDS = (Outcome.BOUND, Outcome.MOVED)


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened `at` (Unix milliseconds). `remedy` is what helps where it still stands so."""

    at: int
    kind: str
    sentence: str
    remedy: str = ""


def tell(number: Number) -> list[Event]:
    """The whole story, the oldest first."""
    return sorted(_events(number), key=lambda event: event.at)


def _events(number: Number) -> Iterator[Event]:
    for row in number.registrations:
        yield Event(row["registered_at"], "registered", f"registered for {row['app_id']}")
    for row in sorted(number.journal, key=lambda row: row["entry"]):  # those of one batch have one time
        yield _message(number, row)
    by_message = {(row["at"], row["key_id"]) for row in number.journal if row["outcome"] in _BINDS}
    for row in number.bindings:
        what = f"key {row['key_id']} for {row['app_id']}"
        if (row["bound_at"], row["key_id"]) not in by_message:
            # by a renumbering; or its entry lies further back than was looked, or is deleted
            yield Event(row["bound_at"], "bound", f"{what} was bound")
        if row["ended_at"] is not None:
            why = "a later message moved it" if row["state"] == "superseded" else row["why"]
            yield Event(row["ended_at"], "ended", f"the binding of {what} ended: {why}")
    for row in number.holds:
        yield from _hold(row)
    for row in number.replies:
        yield from _reply(row)
    if number.known is not None and number.known["erasing_at"] is not None:
        yield Event(number.known["erasing_at"], "erased", "a person had the number erased")


def _message(number: Number, row: Row) -> Event:
    outcome = Outcome(row["outcome"])
    why = row["why"] or ""
    means = meaning(outcome, why)
    about = f" with key {row['key_id']}" if row["key_id"] else ""
    about += f" for {row['app_id']}" if row["app_id"] else ""
    reference = f"{outcome.value} (row {means.row})" if means.row else outcome.value
    hold = f"; hold {row['hold']}" if row["hold"] is not None else ""
    sentence = f"message by {row['link']}{about}: {reference}, {means.sentence}{f' ({why})' if why else ''}{hold}"
    return Event(row["at"], "message", sentence, means.remedy.format(mdn=number.mdn, key_id=row["key_id"]))


def _hold(row: Row) -> Iterator[Event]:
    what = f"hold {row['hold']} (key {row['key_id']} for {row['app_id']})"
    if row["settled_at"] is not None:
        by = "" if row["state"] == "closed" else f" by {row['by']}"
        yield Event(row["settled_at"], "hold", f"{what} was {row['state']}{by}")
    if row["repeats"]:
        times = counted(row["repeats"], "time")
        yield Event(row["received_at"], "hold", f"{what} came again, {times} in all: {row['why']}")


def _reply(row: Row) -> Iterator[Event]:
    what = f"the reply for key {row['key_id']} and {row['app_id']}"
    if row["sent_at"] is not None:
        yield Event(row["sent_at"], "reply", f"{what} left by {row['link']}")
    if row["ended_at"] is not None and row["state"] != "sent":
        status = f" (command_status 0x{row['command_status']:02X})" if row["command_status"] is not None else ""
        yield Event(row["ended_at"], "reply", f"{what} ended as {row['state']}{status}")
