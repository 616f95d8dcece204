"""The journal of messages and their tallies: everything has an entry or is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from kmp_smsd.domain.facts import Decision, Facts
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit, sender_class
from kmp_smsd.domain.spans import HOUR_MS
from kmp_smsd.domain.waiting import waits
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.entered import EnteredThisHour
from kmp_smsd.storage.rows import write_rows
from kmp_smsd.storage.strangers import CLASSES_AN_HOUR, STRANGERS_AN_HOUR, FirstOfAnHour
from kmp_smsd.storage.subscribers import hear

JOURNAL_STEP = 100_000  # entries that one statement looks through
OTHER_SENDERS = "other"  # the class of senders beyond CLASSES_AN_HOUR

_ALWAYS = frozenset({Outcome.BOUND, Outcome.MOVED})  # entered each time, as new holds are
_ENTER = """
INSERT INTO journal (at, hour, subscriber, outcome, link, key_id, app, why, hold) VALUES {rows}"""
_COUNT = """
INSERT INTO tallies (hour, link, outcome, sender, count) VALUES {rows}
ON CONFLICT DO UPDATE SET count = count + excluded.count"""


class Journal:
    """Writes what became of messages, and shows it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._entered = EnteredThisHour()
        self._strangers = FirstOfAnHour(STRANGERS_AN_HOUR)
        self._classes = FirstOfAnHour(CLASSES_AN_HOUR)

    def record(
        self, connection: Any, facts: Facts, decisions: Sequence[Decision | Unfit], new_holds: dict[int, int]
    ) -> None:
        """Journal what has an entry, count everything, in the caller's transaction; then call `commit`.

        `new_holds` are the numbers of holds that were opened, by the position of their decision.
        """
        hour = facts.now // HOUR_MS
        self._entered.begin(connection, hour)
        self._strangers.begin(hour)
        self._classes.begin(hour)
        tallies: Counter[tuple[str, str, str]] = Counter()
        entries: list[tuple[Any, ...]] = []
        for position, decision in enumerate(decisions):
            outcome = decision.outcome
            name = outcome.value
            if isinstance(decision, Unfit):
                mdn, link, key_id, app = decision.mdn, decision.link, None, None
                if mdn is None:
                    tallies[link, name, self._class(link, outcome, decision.sender)] += 1
                    continue
            else:
                request = decision.request
                if request.waited and waits(decision, facts):
                    continue  # nothing came of it: the message was counted when it came
                mdn, link, key_id, app = request.mdn, request.link, request.key_id, decision.app_id
            subscriber = facts.subscribers.get(mdn)
            if subscriber is None or subscriber not in facts.registrations:
                if self._strangers.has(link, (mdn, outcome)):
                    tallies[link, name, ""] += 1
                    continue
                if not self._strangers.admit(link, (mdn, outcome)):
                    tallies[link, name, self._class(link, outcome, sender_class(mdn))] += 1
                    continue
                subscriber = hear(connection, mdn, facts.now)
            tallies[link, name, ""] += 1
            hold = new_holds.get(position)
            if outcome in _ALWAYS or hold is not None or self._entered.admit(name, subscriber):
                entries.append((facts.now, hour, subscriber, name, link, key_id, app, decision.why or None, hold))
        write_rows(connection, _ENTER, entries)
        write_rows(connection, _COUNT, [(hour, *counted, count) for counted, count in tallies.items()])

    def commit(self) -> None:
        self._entered.commit()
        self._strangers.commit()
        self._classes.commit()

    def listing(
        self,
        *,
        mdn: str | None = None,
        link: str | None = None,
        outcome: Outcome | None = None,
        before: int | None = None,
        limit: int,
    ) -> list[dict[str, Any]]:
        """Journal entries, the newest first, of those with a number below `before`.

        The journal has no index by subscriber: it would have intake write a fifth more for each binding. What is asked
        for is looked for from the end backwards, in steps, so that a long search holds up no checkpoint.
        """
        columns = ("entry", "at", "mdn", "outcome", "link", "key_id", "app_id", "why", "hold")
        ((first, last),) = self._database.rows(
            "SELECT ifnull((SELECT min(id) FROM journal), 0), ifnull((SELECT max(id) FROM journal), 0)"
        )
        end = last + 1 if before is None else before
        entries: list[dict[str, Any]] = []
        while end > first and len(entries) < limit:
            begin = end - JOURNAL_STEP
            entries += self._database.records(
                columns,
                """SELECT j.id, j.at, s.mdn, j.outcome, j.link, j.key_id, j.app, j.why, j.hold
                       FROM journal j CROSS JOIN subscribers s ON s.number = j.subscriber
                       WHERE j.id >= ? AND j.id < ?
                         AND (? IS NULL OR j.subscriber = (SELECT number FROM subscribers WHERE mdn = ?))
                         AND (? IS NULL OR j.link = ?) AND (? IS NULL OR j.outcome = ?)
                       ORDER BY j.id DESC LIMIT ?""",
                (begin, end, mdn, mdn, link, link, outcome, outcome, limit - len(entries)),
            )
            end = begin
        return entries

    def tallies(self, *, since_hour: int = 0) -> list[dict[str, Any]]:
        """Counted messages per link and outcome since an hour (hours since 1970, UTC)."""
        return self._database.records(
            ("link", "outcome", "count"),
            "SELECT link, outcome, sum(count) FROM tallies WHERE hour >= ? GROUP BY link, outcome ORDER BY 1, 2",
            (since_hour,),
        )

    def last_hour(self) -> int | None:
        """The last hour in which messages were counted, by the clock of that time."""
        hour: int | None
        ((hour,),) = self._database.rows("SELECT max(hour) FROM tallies")
        return hour

    def senders(self, *, since_hour: int = 0, outcome: Outcome | None = None) -> list[dict[str, Any]]:
        """Likewise those that have no entry, by the class of their senders: the most frequent first."""
        return self._database.records(
            ("link", "outcome", "sender", "count"),
            """SELECT link, outcome, sender, sum(count) FROM tallies
               WHERE hour >= ? AND sender <> '' AND (? IS NULL OR outcome = ?)
               GROUP BY link, outcome, sender ORDER BY sum(count) DESC, link, outcome, sender""",
            (since_hour, outcome, outcome),
        )

    def _class(self, link: str, outcome: Outcome, sender: str) -> str:
        """The class that a sender is counted under: its own, or that of all for which there is no room."""
        return sender if not sender or self._classes.admit(link, (outcome, sender)) else OTHER_SENDERS
