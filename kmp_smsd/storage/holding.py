"""Holds as intake writes them: opened, refreshed and closed by decisions, and approvals answered."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from kmp_smsd.domain.facts import Decision, Facts, Triple
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit
from kmp_smsd.storage.replying import dump_reply_to

StandingHold = tuple[int, bool]  # its number, and whether it is open; else a person refused it

HOLDS_PER_KEY = 100  # open ones: who forges senders for a key he knows fills no more than that

_BOUND = (Outcome.BOUND, Outcome.MOVED)
_STANDS = (*_BOUND, Outcome.ALREADY_BOUND)


def write_holds(
    connection: Any, facts: Facts, standing: dict[Triple, StandingHold], decisions: Sequence[Decision | Unfit]
) -> dict[int, int]:
    """Open, refresh and close holds in the caller's transaction; the new ones by the position of their decision.

    `standing` are the holds before these decisions, and is kept true.
    """
    opened: dict[int, int] = {}
    for position, decision in enumerate(decisions):
        if isinstance(decision, Unfit):
            continue
        request = decision.request
        if decision.outcome is Outcome.HELD:
            triple = _triple(facts, decision)
            evidence = _evidence(decision, triple)
            hold, is_open = standing.get(triple, (None, False))
            if hold is not None and not is_open:  # a refusal whose evidence has ended
                _close_hold(connection, hold, facts.now)
            if is_open:
                connection.execute(  # an approval is of the evidence that the person saw
                    """UPDATE holds SET received_at = ?1, why = ?2, elsewhere = ?3, occupant = ?4, counter = ?5,
                         tag = ?6, link = ?7, reply_to = ?8, repeats = repeats + ?10,
                         marked = marked AND elsewhere IS ?3 AND occupant IS ?4 WHERE id = ?9""",
                    (*evidence, hold, request.approved_hold is None),
                )
            elif not is_full(connection, triple[0]):  # where it is, the request is journalled as held all the same
                (hold,) = connection.execute(
                    """INSERT INTO holds (received_at, why, elsewhere, occupant, counter, tag, link,
                         reply_to, key, subscriber, app, first_at)
                       VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) RETURNING id""",
                    (*evidence, *triple, request.received_at),
                ).fetchone()
                assert hold is not None
                opened[position] = hold
                standing[triple] = (hold, True)
        elif standing and decision.outcome in _BOUND:
            hold, _ = standing.pop(_triple(facts, decision), (None, False))
            if hold is not None and hold != request.approved_hold:
                _close_hold(connection, hold, facts.now)
        if request.approved_hold is not None:
            answer_approval(connection, request.approved_hold, decision.outcome, facts.now)
    return opened


def is_full(connection: Any, key: int) -> bool:
    """Whether no further hold of `key` is opened: so many wait for a person already."""
    (count,) = connection.execute(
        "SELECT count(*) FROM (SELECT 1 FROM holds WHERE key = ? AND state = 'open' LIMIT ?)", (key, HOLDS_PER_KEY)
    ).fetchone()
    return bool(count == HOLDS_PER_KEY)


def _close_hold(connection: Any, hold: int, now: int) -> None:
    connection.execute("UPDATE holds SET state = 'closed', settled_at = ?, marked = 0 WHERE id = ?", (now, hold))


def answer_approval(connection: Any, hold: int, outcome: Outcome, now: int) -> None:
    """An approval that bound settles its hold; any other outcome is shown and leaves it open."""
    connection.execute(
        """UPDATE holds SET marked = 0, last_outcome = ?, state = iif(?, 'approved', state),
             settled_at = iif(?, ?, settled_at) WHERE id = ? AND state = 'open'""",
        (outcome.value, outcome in _STANDS, outcome in _STANDS, now, hold),
    )


def _triple(facts: Facts, decision: Decision) -> Triple:
    assert decision.app_id is not None
    return facts.keys[decision.request.key_id].number, facts.subscribers[decision.request.mdn], decision.app_id


def _evidence(decision: Decision, triple: Triple) -> tuple[Any, ...]:
    request, (key, subscriber, app) = decision.request, triple
    elsewhere = next((b.number for b in decision.conflicts if b.key == key), None)
    occupant = next((b.number for b in decision.conflicts if b.place == (subscriber, app)), None)
    proof = request.proof
    return (
        request.received_at,
        decision.why,
        elsewhere,
        occupant,
        proof.counter if proof else None,
        proof.tag if proof else None,
        request.link,
        dump_reply_to(request.reply_to),
    )
