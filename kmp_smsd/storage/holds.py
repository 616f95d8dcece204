"""Holds: requests that a person must look at."""

from __future__ import annotations

from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible


class Holds:
    """Listing holds and writing a person's wish; intake decides."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def approve(self, hold: int, by: str) -> None:
        """Wish that the hold's request be decided again, with moved for every policy. Intake does it."""
        self._settle(hold, "marked = 1, last_outcome = NULL, by = ?", (by,))

    def refuse(self, hold: int, by: str, now: int) -> None:
        """Refuse the request; the same key, MDN and app are refused until a binding in its evidence ends."""
        self._settle(hold, "state = 'refused', marked = 0, by = ?, settled_at = ?", (by, now))

    def _settle(self, hold: int, change: str, parameters: tuple[Any, ...]) -> None:
        with self._database.transaction() as connection:
            changed = connection.execute(
                f"UPDATE holds SET {change} WHERE id = ? AND state = 'open'", (*parameters, hold)
            ).rowcount
            if changed == 0:
                found = connection.execute("SELECT state FROM holds WHERE id = ?", (hold,)).fetchone()
                if found:
                    raise NotPossible(f"hold {hold} is {found[0]}: see 'kmp-smsd holds list --all'")
                raise NotPossible(f"hold {hold} does not exist: see 'kmp-smsd holds list'")

    def get(self, hold: int) -> dict[str, Any] | None:
        found = self._listing("h.id = ?", (hold,), 1)
        return found[0] if found else None

    def listing(self, *, everything: bool = False, after: int = 0, limit: int) -> list[dict[str, Any]]:
        """Open holds, or all of them, the oldest first, from number `after` on."""
        if everything:
            return self._listing("h.id > ?", (after,), limit)
        return self._listing("h.state = 'open' AND h.id > ?", (after,), limit)

    def _listing(self, condition: str, parameters: tuple[Any, ...], limit: int) -> list[dict[str, Any]]:
        columns = (
            "hold", "state", "mdn", "app_id", "key_id", "kcv", "why", "key_bound_at_mdn", "key_bound_at_app",
            "key_bound_since", "here_bound_key_id", "here_bound_since", "proof_counter", "first_at", "received_at",
            "repeats", "by", "settled_at", "last_outcome", "deciding",
        )  # fmt: skip
        return self._database.records(
            columns,
            f"""SELECT h.id, h.state, s.mdn, h.app, k.key_id, k.kcv, h.why, es.mdn, e.app, e.bound_at,
                      ok.key_id, o.bound_at, h.counter, h.first_at, h.received_at,
                      h.repeats, h.by, h.settled_at, h.last_outcome, h.marked
                    FROM holds h JOIN subscribers s ON s.number = h.subscriber JOIN keys k ON k.id = h.key
                    LEFT JOIN bindings e ON e.id = h.elsewhere LEFT JOIN subscribers es ON es.number = e.subscriber
                    LEFT JOIN bindings o ON o.id = h.occupant LEFT JOIN keys ok ON ok.id = o.key
                    WHERE {condition} ORDER BY h.id LIMIT ?""",
            (*parameters, limit),
        )
