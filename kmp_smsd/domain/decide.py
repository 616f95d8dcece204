"""What a sync request means: the one place where a key finds its MDN (docs/rules.rst, rows 5 to 13)."""

from __future__ import annotations

from kmp_smsd.domain.facts import Approval, Binding, Decision, Facts
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import STRICTNESS, OnConflict
from kmp_smsd.domain.request import SyncRequest

_OUTCOME = {
    OnConflict.MOVED: Outcome.MOVED,
    OnConflict.HELD: Outcome.HELD,
    OnConflict.REFUSED: Outcome.REFUSED,
}


def decide(request: SyncRequest, facts: Facts) -> Decision:
    """Say what `request` means. No I/O: the caller makes it so. The order of the rows matters; the first one wins."""
    subscriber = facts.subscribers.get(request.mdn)
    registered = facts.registrations.get(subscriber, ()) if subscriber is not None else ()
    if subscriber is None or not registered:
        return Decision(request, Outcome.NOT_REGISTERED)
    key = facts.keys.get(request.key_id)
    if key is None:
        return Decision(request, Outcome.UNKNOWN_KEY)
    if not key.bindable_at(facts.now):
        why = "outside the key's validity" if key.usable else "the key is suspended, revoked or destroyed"
        return Decision(request, Outcome.KEY_NOT_USABLE, why=why)

    standing = facts.bound_keys.get(key.number)
    bound_here = standing is not None and standing.subscriber == subscriber
    candidates = registered
    for app, limit in (
        (request.app_id, "the app named in the message"),
        (key.app_id, "the app that the key is reserved for"),
        (standing.app_id if standing and bound_here and request.app_id is None else None, "the binding that stands"),
    ):
        if app is not None:
            if app not in candidates:
                return Decision(request, Outcome.APP_NOT_REGISTERED, why=f"no registered app is {limit}, {app}")
            candidates = (app,)
    if len(candidates) > 1:
        return Decision(request, Outcome.APP_REQUIRED, why=f"{len(candidates)} registered apps, the message names none")
    if request.app_id is None and key.app_id is None and not bound_here:
        assert key.siblings is not None  # counted wherever a key may be found unbound, or bound elsewhere
        if key.siblings > 1:
            why = "its terminal holds several keys, the message names no app"
            return Decision(request, Outcome.APP_REQUIRED, why=why)

    app_id = candidates[0]
    if standing is not None and bound_here and standing.app_id == app_id:
        return Decision(request, Outcome.ALREADY_BOUND, app_id)
    return _bind(request, facts, subscriber, key.number, app_id, standing)


def _bind(
    request: SyncRequest, facts: Facts, subscriber: int, key: int, app_id: str, standing: Binding | None
) -> Decision:
    """Rows 11 to 13: the key is usable and the app is clear; what stands in the way?"""
    occupant = facts.bound_places.get((subscriber, app_id))
    triple = (key, subscriber, app_id)
    if standing is None and occupant is None and triple not in facts.superseded:
        return Decision(request, Outcome.BOUND, app_id)  # most messages
    conflicts = tuple(binding for binding in (standing, occupant) if binding is not None)
    verdict, why = OnConflict.MOVED, []
    if not _is_approved(request, facts.approvals.get(triple), conflicts):
        policy = facts.policy.by(request.link)
        ended_at = facts.superseded.get(triple)
        late = ended_at is not None and request.received_at - ended_at < policy.late_ms
        if late or any(binding.received_at > request.received_at for binding in conflicts):
            verdict = policy.on_late
            why.append("superseded here not long ago" if late else "older than the binding that stands")
        else:
            if standing is not None:
                verdict = max(verdict, policy.on_sim_change, key=STRICTNESS.__getitem__)
                why.append("the key is bound elsewhere")
            if occupant is not None:
                verdict = max(verdict, policy.on_terminal_change, key=STRICTNESS.__getitem__)
                why.append("another key is bound here")
        if why and triple in facts.refusals:
            verdict = OnConflict.REFUSED
            why.append("refused before by a person")
    if not conflicts and verdict is OnConflict.MOVED:
        return Decision(request, Outcome.BOUND, app_id)
    return Decision(request, _OUTCOME[verdict], app_id, "; ".join(why), conflicts)


def _is_approved(request: SyncRequest, approval: Approval | None, conflicts: tuple[Binding, ...]) -> bool:
    """An approval is of what the person saw: it ends no binding that was made since."""
    return (
        approval is not None
        and approval.hold == request.approved_hold
        and approval.evidence.issuperset(binding.number for binding in conflicts)
    )
