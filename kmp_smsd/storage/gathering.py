"""What the store knows that bears on one batch of messages, read with a few set-based statements."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from msgspec.structs import replace

from kmp_smsd.domain.facts import Approval, Binding, Decision, Facts, Key, Place, Triple
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest, Unfit
from kmp_smsd.domain.spans import HOUR_MS
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import REJECTED
from kmp_smsd.storage.holding import StandingHold
from kmp_smsd.storage.waiting import Waiter, read_waiters
from kmp_smsd.storage.wanting import UNROUTED, Route

REARM_AFTER_MS = HOUR_MS

# A terminal is vendor + serial; only where a message may have to name its app does the number of its keys matter. Where
# a serial stands for none ("N/A"), one vendor's keys of it may be all of his: then the search begins with the imports.
_SIBLINGS = """CASE
    WHEN k.serial IS NULL OR k.app IS NOT NULL THEN 1
    WHEN NOT EXISTS (SELECT 1 FROM keys t WHERE t.serial = k.serial AND t.id <> k.id) THEN 1
    WHEN (SELECT count(*) FROM (SELECT 1 FROM keys t WHERE t.serial = k.serial LIMIT 50)) < 50 THEN (
      SELECT count(*) FROM (
        SELECT 1 FROM keys t CROSS JOIN imports ti ON ti.id = t.import
        WHERE t.serial = k.serial AND ti.vendor = i.vendor AND ti.live_at IS NOT NULL
          AND t.state IN ('live', 'suspended') LIMIT 2))
    ELSE (
      SELECT count(*) FROM (
        SELECT 1 FROM imports ti CROSS JOIN keys t ON t.import = ti.id
        WHERE t.serial = k.serial AND ti.vendor = i.vendor AND ti.live_at IS NOT NULL
          AND t.state IN ('live', 'suspended') LIMIT 2))
  END"""

# The two questions of every message, each answered in one step of SQLite. CROSS JOIN keeps it from turning the joins
# round: the batch is always the outer loop, in the order of the index in which it is looked up. What is rare is asked
# about here by a look into an index that is small for that reason, and read below. So are the keys of a bound key's
# terminal, which hardly ever matter.
_KEYS = f"""
SELECT json_group_array(json_array(
  k.key_id, b.id, b.subscriber, b.app, b.received_at,
  EXISTS (SELECT 1 FROM bindings e WHERE e.key = k.id AND e.state <> 'bound'),
  EXISTS (SELECT 1 FROM holds h WHERE h.key = k.id AND h.state IN ('open', 'refused')),
  k.id, k.state = 'live', k.app, CASE WHEN b.id IS NULL THEN {_SIBLINGS} END, k.valid_from, k.valid_until))
FROM json_each(?) j CROSS JOIN keys k ON k.key_id = j.value
CROSS JOIN imports i ON i.id = k.import
LEFT JOIN bindings b ON b.key = k.id AND b.state = 'bound'
WHERE i.live_at IS NOT NULL"""

# Each MDN with the subscriber of whom it is known by then what is bound, and so registered: nothing is looked up there.
_SUBSCRIBERS = """
SELECT json_group_array(json_array(
  s.mdn, s.number, EXISTS (SELECT 1 FROM subscribers e INDEXED BY subscribers_erasing
                            WHERE e.number = s.number AND e.erasing_at IS NOT NULL),
  EXISTS (SELECT 1 FROM waiting w WHERE w.subscriber = s.number),
  r.app, o.key))
FROM json_each(?) j CROSS JOIN subscribers s ON s.mdn = j.key
LEFT JOIN registrations r ON r.subscriber = nullif(s.number, j.value)
LEFT JOIN outbox o ON o.subscriber = r.subscriber AND o.app = r.app AND o.key IS NOT NULL"""

_TERMINALS = f"""
SELECT k.key_id, {_SIBLINGS}
FROM json_each(?) j CROSS JOIN keys k ON k.key_id = j.value CROSS JOIN imports i ON i.id = k.import"""

_OCCUPANTS = """
SELECT b.id, b.key, b.subscriber, b.app, b.received_at
FROM json_each(?) j CROSS JOIN bindings b ON b.key = j.value WHERE b.state = 'bound'"""

# Said twice of the state, for the index of what has ended (`state <> 'bound'`).
# What else there is of a key, of another subscriber than the one who sends it, bears on nothing: and there may be much.
_SUPERSEDED = """
SELECT b.key, b.subscriber, b.app, b.ended_at
FROM json_each(?) j CROSS JOIN bindings b ON b.key = j.value ->> 0 AND b.subscriber = j.value ->> 1
WHERE b.state = 'superseded' AND b.state <> 'bound' AND b.ended_at > ?"""

# A refusal stands until a binding in its evidence ends.
_HOLDS = """
SELECT h.key, h.subscriber, h.app, h.id, h.state = 'refused', h.marked, h.elsewhere, h.occupant, NOT EXISTS (
  SELECT 1 FROM bindings b WHERE b.id IN (h.elsewhere, h.occupant) AND b.state <> 'bound')
FROM json_each(?) j CROSS JOIN holds h ON h.key = j.value ->> 0 AND h.subscriber = j.value ->> 1
WHERE h.state IN ('open', 'refused')"""

# What is asked once for a batch; json_each stands for the apps.
_REST = """
SELECT coalesce((SELECT max(id) FROM bindings), 0) + 1, (
  SELECT json_group_array(json_array(r.app, r.platform, r.moving))
  FROM json_each(?) j CROSS JOIN routes r ON r.app = j.value)"""

# What was rejected anywhere, by an index that begins with the platform, or at these places.
_REJECTED = f"""
SELECT o.subscriber, o.app, o.key IS NOT NULL AND o.wanted_at <= ?
FROM outbox o WHERE o.platform >= '' AND {REJECTED} LIMIT ?"""
_REJECTED_AT = f"""
SELECT o.subscriber, o.app
FROM json_each(?) j CROSS JOIN outbox o ON o.subscriber = j.value ->> 0 AND o.app = j.value ->> 1
WHERE o.key IS NOT NULL AND o.wanted_at <= ? AND {REJECTED}"""


@dataclass(slots=True)
class Batch:
    """What is known before the decisions, and what the writing needs to know beside the domain's facts."""

    facts: Facts
    holds: dict[Triple, StandingHold] = field(default_factory=dict)
    rejected: set[Place] = field(default_factory=set)  # places whose delivery may be re-armed
    waiters: set[Waiter] = field(default_factory=set)
    routes: dict[str, Route] = field(default_factory=dict)

    def to_be_offered_again(self, decision: Decision | Unfit) -> Binding | None:
        """The binding whose delivery the platform rejected and this repeat of its message re-arms (row 10)."""
        if decision.outcome is not Outcome.ALREADY_BOUND or not isinstance(decision, Decision):
            return None
        binding = self.facts.bound_keys.get(self.facts.keys[decision.request.key_id].number)
        return binding if binding is not None and binding.place in self.rejected else None


def gather(database: Database, policy: SyncPolicy, messages: Sequence[SyncRequest | Unfit], now: int) -> Batch:
    """Read the facts of all `messages`; `now` in Unix milliseconds."""
    rows = database.rows
    requests = [one for one in messages if isinstance(one, SyncRequest)]
    facts = Facts(now, policy)
    batch = Batch(facts)
    ended, held = _gather_keys(database, facts, {one.key_id for one in requests})
    repeated = _repeated(facts, requests)
    mdns = {one.mdn for one in messages if one.mdn is not None}
    occupants = _gather_subscribers(database, batch, mdns, repeated)
    if not requests:
        return batch
    if uncounted := _uncounted(facts, repeated):
        for key_id, siblings in rows(_TERMINALS, (json.dumps(uncounted),)):
            facts.keys[key_id] = replace(facts.keys[key_id], siblings=siblings)
    if ended:
        since = min(one.received_at for one in requests) - facts.policy.longest_late_ms
        for key, subscriber, app, ended_at in rows(_SUPERSEDED, (_pairs(facts, requests, ended), since)):
            triple = (key, subscriber, app)
            facts.superseded[triple] = max(ended_at, facts.superseded.get(triple, 0))
    if held:
        _gather_holds(database, batch, _pairs(facts, requests, held))
    if places := [binding.place for binding in facts.bound_keys.values()]:
        batch.rejected = _rejected(database, places, now - REARM_AFTER_MS)
    if others := occupants - facts.bound_keys.keys():
        for row in rows(_OCCUPANTS, (json.dumps(list(others)),)):
            facts.know(Binding(*row))
    apps = {app for apps in facts.registrations.values() for app in apps}
    apps |= {binding.app_id for binding in facts.bound_keys.values()}  # what ends may be at another app
    facts.next_binding, routes = rows(_REST, (json.dumps(list(apps)),))[0]
    batch.routes = dict.fromkeys(apps, UNROUTED) | {
        app: (platform, moving) for app, platform, moving in json.loads(routes)
    }
    return batch


def _gather_keys(database: Database, facts: Facts, key_ids: set[str]) -> tuple[set[str], set[str]]:
    """Read keys and where they are bound; those of which bindings ended, and those of which a hold stands."""
    ended: set[str] = set()
    held: set[str] = set()
    for (
        key_id, binding, subscriber, app, received_at, is_ended, is_held,
        number, usable, reserved, siblings, valid_from, valid_until,
    ) in database.array(_KEYS, (json.dumps(sorted(key_ids)),)):  # fmt: skip
        facts.keys[key_id] = Key(number, usable == 1, reserved, siblings, valid_from, valid_until)
        if binding is not None:
            facts.know(Binding(binding, number, subscriber, app, received_at))
        if is_ended:
            ended.add(key_id)
        if is_held:
            held.add(key_id)
    return ended, held


def _repeated(facts: Facts, requests: Sequence[SyncRequest]) -> dict[str, Binding]:
    """The MDNs that ask for one key alone, which nobody else asks for and is bound where they mean it; its binding.

    Where that is one of theirs, no request of this batch ends it, or looks at what else is theirs.
    """
    bound = {
        key_id: facts.bound_keys[key.number] for key_id, key in facts.keys.items() if key.number in facts.bound_keys
    }
    if not bound:
        return {}
    asked = {(one.mdn, one.key_id, one.app_id) for one in requests}
    of_mdn = Counter(mdn for mdn, _, _ in asked)
    of_key = Counter(key_id for _, key_id, _ in asked)
    return {
        mdn: binding
        for mdn, key_id, app in asked
        if (binding := bound.get(key_id)) is not None
        and of_mdn[mdn] == of_key[key_id] == 1
        and (app is None or app == binding.app_id)
    }


def _gather_subscribers(database: Database, batch: Batch, mdns: set[str], repeated: Mapping[str, Binding]) -> set[int]:
    """Read what bears on `mdns`; the keys that are wanted at their places, which are those that are bound there.

    Of those at whom it is bound what they have `repeated`, no more than that is known after this.
    """
    facts = batch.facts
    occupants: set[int] = set()
    waiting: set[int] = set()
    registrations = facts.registrations
    asked = dict.fromkeys(sorted(mdns)) | {mdn: binding.subscriber for mdn, binding in repeated.items()}
    for mdn, subscriber, is_erased, waits, app, key in database.array(_SUBSCRIBERS, (json.dumps(asked),)):
        facts.subscribers[mdn] = subscriber
        if is_erased:
            facts.erasing.add(mdn)
        if waits:
            waiting.add(subscriber)
        if asked[mdn] == subscriber:
            app = repeated[mdn].app_id
        if app is not None and app not in (apps := registrations.get(subscriber, ())):
            registrations[subscriber] = (*apps, app)
        if key is not None:
            occupants.add(key)
    if waiting:
        batch.waiters = read_waiters(database, waiting)
    return occupants


def _uncounted(facts: Facts, repeated: Mapping[str, Binding]) -> list[str]:
    """The bound keys that a request may find bound elsewhere, or no longer."""
    at_home = {one.key for mdn, one in repeated.items() if facts.subscribers.get(mdn) == one.subscriber}
    return [key_id for key_id, key in facts.keys.items() if key.siblings is None and key.number not in at_home]


def _rejected(database: Database, places: Sequence[Place], until: int) -> set[Place]:
    """Where a key was rejected that was wanted by `until`: at some of `places`, perhaps elsewhere too.

    Mostly little or nothing is rejected, and all of it is looked at; else the places are.
    """
    rejected = database.rows(_REJECTED, (until, len(places)))
    if len(rejected) < len(places):
        return {(subscriber, app) for subscriber, app, may_be_armed in rejected if may_be_armed}
    return set(database.rows(_REJECTED_AT, (json.dumps(places), until)))


def _pairs(facts: Facts, requests: Sequence[SyncRequest], key_ids: set[str]) -> str:
    """The numbers of those of `key_ids`, each with that of the subscriber who sends it, in JSON."""
    pairs = {
        (facts.keys[one.key_id].number, facts.subscribers[one.mdn])
        for one in requests
        if one.key_id in key_ids and one.mdn in facts.subscribers
    }
    return json.dumps(list(pairs))


def _gather_holds(database: Database, batch: Batch, pairs: str) -> None:
    for key, subscriber, app, hold, refused, approved, elsewhere, occupant, stands in database.rows(_HOLDS, (pairs,)):
        triple = (key, subscriber, app)
        batch.holds[triple] = (hold, not refused)
        evidence = frozenset({elsewhere, occupant} - {None})
        if refused and stands:
            batch.facts.refusals[triple] = evidence
        elif approved:
            batch.facts.approvals[triple] = Approval(hold, evidence)
