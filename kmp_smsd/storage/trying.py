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
from kmp_smsd.storage.holding import is_full

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

    `hold` is the number of the standing hold that it would refresh; where there is none, `opens_hold` says whether one
    would be opened. `waits` is true where it would be kept and decided again, `offers_again` where the platform would
    be offered once more what it rejected.
    """

    decision: Decision
    ends: tuple[Ending, ...]
    platform: str | None
    hold: int | None
    opens_hold: bool
    waits: bool
    offers_again: bool


def try_out(database: Database, policy: SyncPolicy, request: SyncRequest, now: int) -> Trial:
    """Decide `request` at `now` (Unix milliseconds) on what the store says at this moment; nothing is written."""
    with database.snapshot():
        batch = gather(database, policy, [request], now)
        decision = batch.facts.apply(decide(request, batch.facts))
        ended = json.dumps([binding.number for binding in batch.facts.ended])
        ends = tuple(Ending(*row) for row in database.rows(_ENDED, (ended,)))
        routes = database.rows("SELECT platform FROM routes WHERE app = ? AND platform <> ''", (decision.app_id,))
        platform = routes[0][0] if routes else None
        hold, opens_hold = _holding(database, batch, decision)
        offers_again = batch.to_be_offered_again(decision) is not None
        return Trial(decision, ends, platform, hold, opens_hold, waits(decision, batch.facts), offers_again)


def _holding(database: Database, batch: Batch, decision: Decision) -> tuple[int | None, bool]:
    """The hold that would be refreshed, or whether one would be opened (see `write_holds`)."""
    if decision.outcome is not Outcome.HELD or decision.app_id is None:
        return None, False
    facts, request = batch.facts, decision.request
    key = facts.keys[request.key_id].number
    number, is_open = batch.holds.get((key, facts.subscribers[request.mdn], decision.app_id), (None, False))
    return (number, False) if is_open else (None, not is_full(database.connection, key))
