"""Two judgements of a role: whether it lives, which a restart mends, and whether it can do its work.

Others have no part in the first one: no restart makes an SMSC or a platform answer, or another process give back the
write lock.
"""

from __future__ import annotations

from typing import Any

from kmp_smsd.domain.counted import counted
from kmp_smsd.domain.unserved import unserved
from kmp_smsd.domain.validity import RENEW_WITHIN_S, validity
from kmp_smsd.service.status import PlatformWord, Snapshot, State

LAG_MAX_S = 10.0
STUCK_MAX_S = 60.0  # longer than any transaction of ours
SILENT_MAX_S = 120.0


def alive_in(snapshot: Snapshot) -> tuple[str, ...]:
    """Why this role should be started anew; nothing where it lives.

    A store that answers with an error is not silent: a full disk is not mended by a restart. Nor is a store stuck or
    silent that waits for others, as for a command that was stopped in the middle of a transaction.
    """
    reasons, store = [], snapshot.store
    if snapshot.reactor_lag_s > LAG_MAX_S:
        reasons.append(f"the reactor is {snapshot.reactor_lag_s:.0f} s late")
    if store.stuck_s > STUCK_MAX_S and not store.waits_for_others:
        reasons.append(f"a thread of the store has been stuck for {store.stuck_s:.0f} s")
    if store.silent_s > SILENT_MAX_S and not store.waits_for_others:
        reasons.append(f"the store has said nothing for {store.silent_s:.0f} s")
    return tuple(reasons)


def ready(snapshot: Snapshot) -> tuple[str, ...]:
    """Why this role does not do its work now; nothing where it does."""
    reasons = list(alive_in(snapshot))
    if snapshot.state != State.RUNNING:
        reasons.append(f"{snapshot.role} is {snapshot.state}")
    if snapshot.store.lock_holder is not None:
        reasons.append(f"the write lock is held by {snapshot.store.lock_holder}")
    elif snapshot.store.error is not None:
        reasons.append(f"the store is unavailable: {snapshot.store.error}")
    if snapshot.role == "intake" and not any(link.bound for link in snapshot.links):
        reasons.append("no link is bound")
    return tuple(reasons)


def degraded(snapshot: Snapshot) -> tuple[str, ...]:
    """What a person should look at, though the role does its work."""
    reasons = [
        f"link {link.name} is {link.word}{': ' + link.last_error if link.last_error else ''}"
        for link in snapshot.links
        if not (link.bound or link.paused)
    ]
    for platform in snapshot.platforms:
        if platform.word == PlatformWord.UNSERVED:
            reasons += [unserved(platform.name, platform.due, more=platform.due_more)] if platform.due else []
        elif platform.word == PlatformWord.HELD_BACK:
            reasons.append(f"platform {platform.name} is {platform.word}")
        elif platform.last_error is not None and platform.due and not platform.paused:
            reasons.append(f"platform {platform.name} fails: {platform.last_error}")
        if platform.rejected and platform.word not in (PlatformWord.UNSERVED, PlatformWord.HELD_BACK):
            rejected = counted(platform.rejected, "delivery", "deliveries", more=platform.rejected_more)
            reasons.append(f"platform {platform.name} rejected {rejected}")
        if (left_s := platform.certificate_left_s) is not None and left_s < RENEW_WITHIN_S:
            reasons.append(f"our certificate at platform {platform.name} {validity(left_s)}")
    reasons += [f"{kind} is paused" for kind in _paused(snapshot)]
    if snapshot.configuration.refusal_stands:
        restart = ": a restart would fail" if snapshot.configuration.faulty else ""
        reasons.append(f"the last reload was refused{restart}")
    if snapshot.configuration.needs_restart:
        reasons.append(f"needs restart: {', '.join(snapshot.configuration.needs_restart)}")
    return tuple(reasons)


def judged(snapshot: Snapshot) -> dict[str, Any]:
    """What `kmp-smsd status --json` says of this role: how it is, and both judgements of that."""
    return {**snapshot.as_json(), "not_ready": ready(snapshot), "degraded": degraded(snapshot)}


def _paused(snapshot: Snapshot) -> list[str]:
    links = [f"link {link.name}" for link in snapshot.links if link.paused]
    return links + [f"platform {platform.name}" for platform in snapshot.platforms if platform.paused]
