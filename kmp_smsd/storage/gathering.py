"""What the store knows that bears on one batch of messages, read with a few set-based statements."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field

from kmp_smsd.domain.facts import Approval, Binding, Facts, Key, Triple
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.holding import StandingHold
from kmp_smsd.storage.waiting import Waiter, read_waiters

REARM_AFTER_MS = 3_600_000

# CROSS JOIN keeps SQLite from turning the join round: the batch is always the outer loop.
_REGISTRATIONS = """
SELECT s.mdn, s.number, s.erasing_at, r.app FROM json_each(?) j CROSS JOIN subscribers s ON s.mdn = j.value
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
class Batch:
    """What is known before the decisions, and what the writing needs to know beside the domain's facts."""

    facts: Facts
    holds: dict[Triple, StandingHold] = field(default_factory=dict)
    rejected: set[tuple[int, str]] = field(default_factory=set)  # places whose delivery may be re-armed
    waiters: set[Waiter] = field(default_factory=set)


def gather(database: Database, policy: SyncPolicy, messages: Sequence[SyncRequest | Unfit], now: int) -> Batch:
    """Read the facts of all `messages`; `now` in Unix milliseconds."""
    rows = database.rows
    requests = [one for one in messages if isinstance(one, SyncRequest)]
    facts = Facts(now, policy)
    batch = Batch(facts)
    mdns = {one.mdn for one in messages if one.mdn is not None}
    registrations: dict[int, list[str]] = {}
    for mdn, subscriber, erasing_at, app in rows(_REGISTRATIONS, (json.dumps(list(mdns)),)):
        facts.subscribers[mdn] = subscriber
        if erasing_at is not None:
            facts.erasing.add(mdn)
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
    for key, subscriber, app, ended_at in rows(_SUPERSEDED, (keys, oldest - policy.longest_late_ms)):
        triple = (key, subscriber, app)
        facts.superseded[triple] = max(ended_at, facts.superseded.get(triple, 0))
    for key, subscriber, app, hold, refused, approved, elsewhere, occupant, stands in rows(_HOLDS, (keys,)):
        triple = (key, subscriber, app)
        batch.holds[triple] = (hold, not refused)
        evidence = frozenset({elsewhere, occupant} - {None})
        if refused and stands:
            facts.refusals[triple] = evidence
        elif approved:
            facts.approvals[triple] = Approval(hold, evidence)
    batch.rejected = {(row[0], row[1]) for row in rows(_REJECTED, (subscribers, now - REARM_AFTER_MS))}
    batch.waiters = read_waiters(database, facts.subscribers.values())
    facts.next_binding = rows("SELECT coalesce(max(id), 0) + 1 FROM bindings")[0][0]
    return batch
