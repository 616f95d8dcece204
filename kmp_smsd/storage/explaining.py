"""What `explain` asks of one number, and `doctor` of all of them, beside what the listings have."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage import journal
from kmp_smsd.storage.database import Database

_STANDING_HOLDS = """
SELECT id FROM holds WHERE subscriber = ? AND state IN ('open', 'refused') ORDER BY id"""

_REPLIES = """
SELECT r.app, k.key_id, r.link, r.state, r.wanted_at, r.expires_at, r.sent_at, r.ended_at, r.command_status
FROM replies r JOIN keys k ON k.id = r.key WHERE r.subscriber = ? ORDER BY r.id"""

_ENTRIES = """
SELECT id, at, outcome, link, key_id, app, why, hold FROM journal
WHERE id >= ? AND id < ? AND subscriber = ? ORDER BY id DESC"""

_KEYS = """
SELECT k.key_id, k.state, k.app, k.valid_from, k.valid_until, s.mdn, b.app, b.bound_at
FROM json_each(?) j CROSS JOIN keys k ON k.key_id = j.value JOIN imports i ON i.id = k.import
LEFT JOIN bindings b ON b.key = k.id AND b.state = 'bound' LEFT JOIN subscribers s ON s.number = b.subscriber
WHERE i.live_at IS NOT NULL"""


@dataclass(frozen=True, slots=True)
class Looked:
    """One step of a search through the journal, from its end backwards.

    `entries` were looked through up to here of `total`, back to the time `since` (Unix milliseconds).
    """

    found: list[dict[str, Any]]
    entries: int
    total: int
    since: int | None


@dataclass(frozen=True, slots=True)
class OpenHolds:
    """How many holds wait for a person, and since when the oldest does (Unix milliseconds)."""

    count: int
    oldest_at: int | None


class Explaining:
    """Reads; each question is one statement, and holds up no checkpoint."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def standing_holds(self, subscriber: int) -> list[int]:
        """The numbers of the holds of a subscriber that are open or refused."""
        return [number for (number,) in self._database.rows(_STANDING_HOLDS, (subscriber,))]

    def open_holds(self) -> OpenHolds:
        """Of all numbers."""
        return OpenHolds(*self._database.rows("SELECT count(*), min(first_at) FROM holds WHERE state = 'open'")[0])

    def replies(self, subscriber: int) -> list[dict[str, Any]]:
        columns = (
            "app_id", "key_id", "link", "state", "wanted_at", "expires_at", "sent_at", "ended_at", "command_status",
        )  # fmt: skip
        return self._database.records(columns, _REPLIES, (subscriber,))

    def journal_back(self, subscriber: int) -> Iterator[Looked]:
        """Search the journal from its end backwards for a subscriber's entries, the newest first, step by step.

        It has no index by subscriber (see Journal.listing).
        """
        ((first, last),) = self._database.rows("SELECT (SELECT min(id) FROM journal), (SELECT max(id) FROM journal)")
        if first is None:
            return
        columns = ("entry", "at", "outcome", "link", "key_id", "app_id", "why", "hold")
        end = last + 1
        while end > first:
            begin = max(end - journal.JOURNAL_STEP, first)
            found = self._database.records(columns, _ENTRIES, (begin, end, subscriber))
            since = self._database.rows("SELECT at FROM journal WHERE id >= ? ORDER BY id LIMIT 1", (begin,))
            yield Looked(found, last + 1 - begin, last + 1 - first, since[0][0] if since else None)
            end = begin

    def keys(self, key_ids: Sequence[str]) -> dict[str, dict[str, Any]]:
        """Those of `key_ids` that exist: state, the app they are reserved for, validity, where and since when bound."""
        columns = ("key_id", "state", "app_id", "valid_from", "valid_until", "bound_mdn", "bound_app", "bound_at")
        found = self._database.records(columns, _KEYS, (json.dumps(list(key_ids)),))
        return {row["key_id"]: row for row in found}
