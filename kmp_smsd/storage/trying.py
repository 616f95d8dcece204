"""What would become of a request, decided as intake decides it, with nothing written."""

from __future__ import annotations

import json
from dataclasses import dataclass

from kmp_smsd.domain.decide import decide
from kmp_smsd.domain.facts import Decision
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.domain.waiting import waits
from kmp_smsd.storage.database import Database
from kmp_smsd.storage.gathering import Batch, gather

_ENDED = """
SELECT k.key_id, s.mdn, b.app FROM json_each(?) j CROSS JOIN bindings b ON b.id = j.value
JOIN keys k ON k.id = b.key JOIN subscribers s ON s.number = b.subscriber"""


@dataclass(frozen=True, slots=True)
class Ending:
    """A binding that would end."""

    key_id: str
    mdn: str
    app_id: str


@dataclass(frozen=True, slots=True)
class Trial:
    """What a request would lead to. `platform` is where its app's keys go, None where no app is clear or routed.

    `hold` is the number of the standing hold that it would refresh; where it would be held without one, a new one is
    opened. `waits` is true where it would be kept and decided again.
    """

    decision: Decision
    ends: tuple[Ending, ...]
    platform: str | None
    hold: int | None
    waits: bool


def try_out(database: Database, policy: SyncPolicy, request: SyncRequest, now: int) -> Trial:
    """Decide `request` at `now` (Unix milliseconds) on what the store says at this moment; nothing is written."""
    with database.snapshot():
        batch = gather(database, policy, [request], now)
        decision = batch.facts.apply(decide(request, batch.facts))
        ended = json.dumps([binding.number for binding in batch.facts.ended])
        ends = tuple(Ending(*row) for row in database.rows(_ENDED, (ended,)))
        routes = database.rows("SELECT platform FROM routes WHERE app = ? AND platform <> ''", (decision.app_id,))
        return Trial(
            decision, ends, routes[0][0] if routes else None, _hold(batch, decision), waits(decision, batch.facts)
        )


def _hold(batch: Batch, decision: Decision) -> int | None:
    if decision.outcome is not Outcome.HELD or decision.app_id is None:
        return None
    facts, request = batch.facts, decision.request
    triple = facts.keys[request.key_id].number, facts.subscribers[request.mdn], decision.app_id
    number, is_open = batch.holds.get(triple, (None, False))
    return number if is_open else None
