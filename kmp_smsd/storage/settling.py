"""Intake's transaction: one batch of messages becomes journal, bindings and outbox, or nothing."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from kmp_smsd.domain.decide import decide
from kmp_smsd.domain.facts import Binding, Decision, Facts, Key, Triple
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.payload import Proof
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit, sender_class
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import StoreUnavailable
from kmp_smsd.storage.holding import StandingHold, answer_approval, write_holds
from kmp_smsd.storage.outbox import Want, want
from kmp_smsd.storage.strangers import CLASSES_AN_HOUR, STRANGERS_AN_HOUR, FirstOfAnHour

log = logging.getLogger(__name__)

Message = SyncRequest | Unfit

HOUR_MS = 3_600_000
DAY_MS = 24 * HOUR_MS
REARM_AFTER_MS = HOUR_MS
OTHER_SENDERS = "other"  # the class of senders beyond CLASSES_AN_HOUR

# CROSS JOIN keeps SQLite from turning the join round: the batch is always the outer loop.
_REGISTRATIONS = """
SELECT s.mdn, s.number, r.app FROM json_each(?) j CROSS JOIN subscribers s ON s.mdn = j.value
LEFT JOIN registrations r ON r.subscriber = s.number"""

# A terminal is vendor + serial; only where a message may have to name its app does the number of its keys matter.
_KEYS = """
SELECT k.key_id, k.id, k.state = 'live', k.app,
  CASE WHEN k.serial IS NULL OR k.app IS NOT NULL THEN 1 ELSE (
    SELECT count(*) FROM (
      SELECT 1 FROM keys t CROSS JOIN imports ti ON ti.id = t.import
      WHERE t.serial = k.serial AND ti.vendor = i.vendor AND ti.live_at IS NOT NULL AND t.state IN ('live', 'suspended')
      LIMIT 2))
  END, k.valid_from, k.valid_until
FROM json_each(?) j CROSS JOIN keys k ON k.key_id = j.value
CROSS JOIN imports i ON i.id = k.import WHERE i.live_at IS NOT NULL"""

_BOUND_KEYS = """
SELECT b.id, b.key, b.subscriber, b.app, b.received_at
FROM json_each(?) j CROSS JOIN bindings b ON b.key = j.value WHERE b.state = 'bound'"""

_BOUND_PLACES = """
SELECT b.id, b.key, b.subscriber, b.app, b.received_at
FROM json_each(?) j CROSS JOIN bindings b ON b.subscriber = j.value WHERE b.state = 'bound'"""

_SUPERSEDED = """
SELECT b.key, b.subscriber, b.app, b.ended_at FROM json_each(?) j CROSS JOIN bindings b ON b.key = j.value
WHERE b.state = 'superseded' AND b.state <> 'bound' AND b.ended_at > ?"""

# A refusal stands until a binding in its evidence ends.
_HOLDS = """
SELECT h.key, h.subscriber, h.app, h.id, h.state = 'refused', h.marked, h.elsewhere, h.occupant, NOT EXISTS (
  SELECT 1 FROM bindings b WHERE b.id IN (h.elsewhere, h.occupant) AND b.state <> 'bound')
FROM json_each(?) j CROSS JOIN holds h ON h.key = j.value WHERE h.state IN ('open', 'refused')"""

_REJECTED = """
SELECT o.subscriber, o.app FROM json_each(?) j CROSS JOIN outbox o ON o.subscriber = j.value
WHERE o.wanted_version = o.rejected_version AND o.key IS NOT NULL AND o.wanted_at <= ?"""


@dataclass(slots=True)
class _Batch:
    """What the writing needs to know beside the domain's facts."""

    facts: Facts
    holds: dict[Triple, StandingHold] = field(default_factory=dict)
    rejected: set[tuple[int, str]] = field(default_factory=set)  # places whose delivery may be re-armed


class Settling:
    """Settles messages on one connection. `settle` is the only way in which a message changes anything."""

    def __init__(self, database: Database, policy: SyncPolicy) -> None:
        self._database = database
        self._policy = policy
        self._strangers = FirstOfAnHour(STRANGERS_AN_HOUR)
        self._classes = FirstOfAnHour(CLASSES_AN_HOUR)

    def settle(self, messages: Sequence[Message], now: int) -> list[Outcome]:
        """Decide and write `messages` in order, in one transaction; `now` in Unix milliseconds.

        A message that cannot be settled for a reason of its own ends as ERROR and takes no neighbour with it.
        Raises StoreUnavailable when everything should be sent again; what was written nevertheless is harmless.
        """
        try:
            return self._settle(messages, now)
        except StoreUnavailable:
            raise
        except Exception:
            if len(messages) == 1:
                return [self._settle_faulty(messages[0], now)]
            half = len(messages) // 2
            return self.settle(messages[:half], now) + self.settle(messages[half:], now)

    def approved(self, limit: int = 500) -> list[SyncRequest]:
        """The requests behind approved holds: messages that come again."""
        return [
            SyncRequest(
                mdn=mdn,
                key_id=key_id,
                app_id=app,  # what the person saw and approved, whether the message named it or not
                proof=Proof(counter, tag) if counter is not None else None,
                received_at=received_at,
                link=link,
                approved_hold=hold,
            )
            for hold, mdn, key_id, app, counter, tag, received_at, link in self._database.rows(
                """SELECT h.id, s.mdn, k.key_id, h.app, h.counter, h.tag, h.received_at, h.link
                   FROM holds h JOIN subscribers s ON s.number = h.subscriber JOIN keys k ON k.id = h.key
                   WHERE h.marked = 1 ORDER BY h.id LIMIT ?""",
                (limit,),
            )
        ]

    def _settle(self, messages: Sequence[Message], now: int) -> list[Outcome]:
        with self._database.transaction() as connection:
            batch = self._read(messages, now)
            facts = batch.facts
            decisions = [facts.apply(decide(one, facts)) if isinstance(one, SyncRequest) else one for one in messages]
            self._write(connection, batch, decisions)
        self._commit_firsts()
        return [decision.outcome for decision in decisions]

    def _settle_faulty(self, message: Message, now: int) -> Outcome:
        log.exception("message could not be settled", extra={"event": "message_error", "link": message.link})
        faulty = Unfit(outcome=Outcome.ERROR, mdn=message.mdn, received_at=message.received_at, link=message.link)
        with self._database.transaction() as connection:
            self._write(connection, self._read([faulty], now), [faulty])
            if isinstance(message, SyncRequest) and message.approved_hold is not None:
                answer_approval(connection, message.approved_hold, Outcome.ERROR, now)
        self._commit_firsts()
        return Outcome.ERROR

    def _read(self, messages: Sequence[Message], now: int) -> _Batch:
        rows = self._database.rows
        requests = [one for one in messages if isinstance(one, SyncRequest)]
        facts = Facts(now, self._policy)
        batch = _Batch(facts)
        mdns = {one.mdn for one in messages if one.mdn is not None}
        registrations: dict[int, list[str]] = {}
        for mdn, subscriber, app in rows(_REGISTRATIONS, (json.dumps(list(mdns)),)):
            facts.subscribers[mdn] = subscriber
            if app is not None:
                registrations.setdefault(subscriber, []).append(app)
        facts.registrations = {subscriber: tuple(apps) for subscriber, apps in registrations.items()}
        if not requests:
            return batch
        for key_id, *key in rows(_KEYS, (json.dumps(list({one.key_id for one in requests})),)):
            facts.keys[key_id] = Key(key[0], bool(key[1]), *key[2:])
        keys = json.dumps([key.number for key in facts.keys.values()])
        subscribers = json.dumps(list(facts.registrations))
        for sql, parameter in ((_BOUND_KEYS, keys), (_BOUND_PLACES, subscribers)):
            for row in rows(sql, (parameter,)):
                facts.know(Binding(*row))
        oldest = min(one.received_at for one in requests)
        for key, subscriber, app, ended_at in rows(_SUPERSEDED, (keys, oldest - self._policy.late_ms)):
            triple = (key, subscriber, app)
            facts.superseded[triple] = max(ended_at, facts.superseded.get(triple, 0))
        for key, subscriber, app, hold, refused, approved, elsewhere, occupant, stands in rows(_HOLDS, (keys,)):
            triple = (key, subscriber, app)
            batch.holds[triple] = (hold, not refused)
            if refused and stands:
                facts.refusals[triple] = frozenset({elsewhere, occupant} - {None})
            elif approved:
                facts.approvals[triple] = hold
        batch.rejected = {(row[0], row[1]) for row in rows(_REJECTED, (subscribers, now - REARM_AFTER_MS))}
        facts.next_binding = rows("SELECT coalesce(max(id), 0) + 1 FROM bindings")[0][0]
        return batch

    def _write(self, connection: Any, batch: _Batch, decisions: Sequence[Decision | Unfit]) -> None:
        """Write the net effect: ended bindings first, then new ones, the last wanted per MDN + app."""
        facts = batch.facts
        connection.executemany(
            "UPDATE bindings SET state = 'superseded', ended_at = ?, why = 'superseded' WHERE id = ?",
            [(facts.now, binding.number) for binding in facts.ended],
        )
        connection.executemany(
            """INSERT INTO bindings (id, key, subscriber, app, state, received_at, bound_at, ended_at, why)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)""",
            [
                (
                    b.number,
                    b.key,
                    b.subscriber,
                    b.app_id,
                    "superseded",
                    b.received_at,
                    facts.now,
                    facts.now,
                    "superseded",
                )
                if b.ended
                else (b.number, b.key, b.subscriber, b.app_id, "bound", b.received_at, facts.now, None, None)
                for b in facts.made
            ],
        )
        for decision in decisions:
            if decision.outcome is Outcome.ALREADY_BOUND and isinstance(decision, Decision):
                binding = facts.bound_keys.get(facts.keys[decision.request.key_id].number)
                if binding is not None and binding.place in batch.rejected:
                    facts.wanted.setdefault(binding.place, binding.key)
        want(connection, [Want(*place, key) for place, key in facts.wanted.items()], facts.now)
        new_holds = write_holds(connection, facts, batch.holds, decisions)
        self._record(connection, facts, decisions, new_holds)

    def _record(
        self, connection: Any, facts: Facts, decisions: Sequence[Decision | Unfit], new_holds: dict[int, int]
    ) -> None:
        """Journal what has an entry, count everything."""
        hour = facts.now // HOUR_MS
        self._strangers.begin(hour)
        self._classes.begin(hour)
        tallies: Counter[tuple[str, str, str]] = Counter()
        entries: list[tuple[Any, ...]] = []
        for position, decision in enumerate(decisions):
            outcome = decision.outcome
            if isinstance(decision, Unfit):
                mdn, link, key_id, app = decision.mdn, decision.link, None, None
            else:
                request = decision.request
                mdn, link, key_id, app = request.mdn, request.link, request.key_id, decision.app_id
            entry = (outcome.value, link, key_id, app, decision.why or None, new_holds.get(position))
            if mdn is None:
                sender = decision.sender if isinstance(decision, Unfit) else ""
                tallies[link, outcome.value, self._class(link, outcome, sender)] += 1
                continue
            subscriber = facts.subscribers.get(mdn)
            if subscriber in facts.registrations:
                tallies[link, outcome.value, ""] += 1
                entries.append((facts.now, hour, subscriber, *entry))
            elif self._strangers.has(link, (mdn, outcome)):
                tallies[link, outcome.value, ""] += 1
            elif self._strangers.admit(link, (mdn, outcome)):
                tallies[link, outcome.value, ""] += 1
                entries.append((facts.now, hour, _hear(connection, mdn, facts.now), *entry))
            else:
                tallies[link, outcome.value, self._class(link, outcome, sender_class(mdn))] += 1
        connection.executemany(
            """INSERT INTO journal (at, hour, subscriber, outcome, link, key_id, app, why, hold)
               VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
            entries,
        )
        connection.executemany(
            """INSERT INTO tallies (hour, link, outcome, sender, count) VALUES (?, ?, ?, ?, ?)
               ON CONFLICT DO UPDATE SET count = count + excluded.count""",
            [(hour, *counted, count) for counted, count in tallies.items()],
        )

    def _class(self, link: str, outcome: Outcome, sender: str) -> str:
        """The class that a sender is counted under: its own, or that of all for which there is no room."""
        return sender if not sender or self._classes.admit(link, (outcome, sender)) else OTHER_SENDERS

    def _commit_firsts(self) -> None:
        self._strangers.commit()
        self._classes.commit()


def _hear(connection: Any, mdn: str, now: int) -> int:
    """The number of a subscriber that may be new."""
    (number,) = connection.execute(
        """INSERT INTO subscribers (mdn, last_heard) VALUES (?, ?)
           ON CONFLICT (mdn) DO UPDATE SET last_heard = excluded.last_heard RETURNING number""",
        (mdn, now),
    ).fetchone()
    return int(number)
