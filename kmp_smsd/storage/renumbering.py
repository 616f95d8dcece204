"""A subscriber gets another number: everything that was registered and bound at the old one goes along."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.errors import NotPossible
from kmp_smsd.storage.subscribers import all_apps, answer_undecided, being_erased, hear, leave
from kmp_smsd.storage.waiting import follow
from kmp_smsd.storage.wanting import Want, want

_BOUND = """
SELECT b.app, k.key_id, b.key, b.received_at FROM bound b JOIN keys k ON k.id = b.key
WHERE b.subscriber = ? ORDER BY b.app"""


@dataclass(frozen=True, slots=True)
class Renumbered:
    """What the new number has from the old one: registrations, and the IDs of the keys that are bound, by app."""

    app_ids: list[str]
    key_ids: dict[str, str]


def renumber(connection: Any, old: str, new: str, now: int) -> Renumbered:
    """Give MDN `new` the registrations and active bindings of `old`, which is left with nothing.

    Runs inside the caller's transaction. Keys, and the times at which they were received, stay as they are. Raises
    NotPossible, with a sentence that names no number, before anything is changed.
    """
    left, app_ids = _check(connection, old, new)
    bound = connection.execute(_BOUND, (left,)).fetchall()
    leave(connection, left, app_ids, now, "renumbered")
    gained = hear(connection, new, now)
    connection.executemany(
        "INSERT INTO registrations (subscriber, app, registered_at) VALUES (?, ?, ?)",
        [(gained, app_id, now) for app_id in app_ids],
    )
    connection.executemany(
        """INSERT INTO bindings (key, subscriber, app, state, received_at, bound_at)
           VALUES (?, ?, ?, 'bound', ?, ?)""",
        [(key, gained, app_id, received_at, now) for app_id, _, key, received_at in bound],
    )
    want(connection, [Want(gained, app_id, key) for app_id, _, key, _ in bound], now)
    follow(connection, left, gained)
    answer_undecided(connection, left)
    connection.execute("DELETE FROM replies WHERE subscriber = ? AND state = 'waiting'", (left,))  # never due again
    return Renumbered(app_ids, {app_id: key_id for app_id, key_id, *_ in bound})


def _check(connection: Any, old: str, new: str) -> tuple[int, list[str]]:
    """The subscriber `old` and the apps that go along. Raises NotPossible."""
    if old == new:
        raise NotPossible("the old and the new number are the same: name two numbers")
    found = connection.execute("SELECT number FROM subscribers WHERE mdn = ?", (old,)).fetchone()
    app_ids = all_apps(connection, found[0]) if found else []
    if not app_ids:
        raise NotPossible("the old number has no registration: register the new one instead")
    if being_erased(connection, [new]):
        raise NotPossible("the new number is being erased: wait until it is gone, or take another number")
    if connection.execute(
        "SELECT 1 FROM registrations WHERE subscriber = (SELECT number FROM subscribers WHERE mdn = ?) LIMIT 1", (new,)
    ).fetchone():
        raise NotPossible("the new number has registrations of its own: remove them first, or take another number")
    return found[0], app_ids


class Renumbering:
    """Renumbering, for people."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def preview(self, old: str, new: str) -> Renumbered:
        """What `renumber` would do now. Raises NotPossible."""
        left, app_ids = _check(self._database.connection, old, new)
        return Renumbered(app_ids, {row[0]: row[1] for row in self._database.rows(_BOUND, (left,))})

    def renumber(self, old: str, new: str, now: int) -> Renumbered:
        """Give `new` all that `old` has, in one transaction. Raises NotPossible where nothing can be given."""
        with self._database.transaction() as connection:
            return renumber(connection, old, new, now)
