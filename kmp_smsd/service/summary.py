"""A process in one line, as ``systemctl status`` shows it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from kmp_smsd.domain.counted import counted
from kmp_smsd.service.health import degraded
from kmp_smsd.service.status import PlatformWord, Snapshot, State


def summary(snapshots: Sequence[Snapshot]) -> str:
    """How the roles of this process are, then what a person should look at."""
    parts = [part for snapshot in snapshots for part in _parts(snapshot)]
    return "; ".join(dict.fromkeys(parts))  # what concerns both roles is said once


def _parts(snapshot: Snapshot) -> Iterator[str]:
    if snapshot.state != State.RUNNING:
        yield snapshot.state
    yield _links(snapshot) if snapshot.role == "intake" else _platforms(snapshot)
    if snapshot.store.error is not None:
        yield f"the store is unavailable: {snapshot.store.error}"
    yield from degraded(snapshot)


def _links(snapshot: Snapshot) -> str:
    bound = sum(link.bound for link in snapshot.links)
    return f"{bound} of {len(snapshot.links)} links bound"


def _platforms(snapshot: Snapshot) -> str:
    served = sum(platform.word != PlatformWord.UNSERVED for platform in snapshot.platforms)
    due = sum(platform.due for platform in snapshot.platforms)
    more = "more than " if any(platform.due_more for platform in snapshot.platforms) else ""
    return f"{counted(served, 'platform')}, {f'{more}{due:,}' if due else 'nothing'} due"
