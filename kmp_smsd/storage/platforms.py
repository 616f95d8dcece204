"""Platforms: what was last seen of each, and what a person wishes of it. Its apps are in the routes."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import asdict, dataclass
from typing import Any

from kmp_smsd.storage.database import Database
from kmp_smsd.storage.due import DUE_PLATFORMS, REJECTING_PLATFORMS
from kmp_smsd.storage.figures import COUNTED_MAX, DueFigures, Figures, RejectedFigures

_NAMES = f"""
SELECT * FROM ({DUE_PLATFORMS}) UNION SELECT * FROM ({REJECTING_PLATFORMS})
UNION SELECT platform FROM routes UNION SELECT name FROM platforms ORDER BY 1"""


@dataclass(frozen=True, slots=True)
class PlatformState:
    """What dispatch last saw of a platform. Times in Unix milliseconds.

    `held_back` after many rejections (the column `paused`); a pause, which a person makes, is known to dispatch alone.
    """

    name: str
    last_success_at: int | None = None
    last_error: str | None = None
    last_error_at: int | None = None
    next_try_at: int | None = None
    held_back: bool = False


class Platforms:
    """What dispatch reports of platforms, and what commands wish."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def report(self, state: PlatformState) -> None:
        """Keep what happened to a platform for people to see."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO platforms (name, last_success_at, last_error, last_error_at, next_try_at, paused)
                   VALUES (?, ?, ?, ?, ?, ?)
                   ON CONFLICT (name) DO UPDATE SET
                     last_success_at = coalesce(excluded.last_success_at, last_success_at),
                     last_error = excluded.last_error, last_error_at = excluded.last_error_at,
                     next_try_at = excluded.next_try_at, paused = excluded.paused""",
                (
                    state.name,
                    state.last_success_at,
                    state.last_error,
                    state.last_error_at,
                    state.next_try_at,
                    state.held_back,
                ),
            )

    def state(self, name: str) -> PlatformState:
        """What was reported of a platform; of one that nobody ever saw, its name alone."""
        seen = self._database.rows(
            """SELECT last_success_at, last_error, last_error_at, next_try_at, paused FROM platforms WHERE name = ?""",
            (name,),
        )
        if not seen:
            return PlatformState(name)
        last_success_at, last_error, last_error_at, next_try_at, held_back = seen[0]
        return PlatformState(name, last_success_at, last_error, last_error_at, next_try_at, bool(held_back))

    def hurried(self) -> dict[str, int]:
        """When a person last wished that a platform is tried at once, in Unix milliseconds."""
        return dict(self._database.rows("SELECT name, hurried_at FROM platforms WHERE hurried_at IS NOT NULL"))

    def names(self) -> list[str]:
        """Each platform that is routed to, was ever seen or has not confirmed all, and the empty name of none."""
        return [row[0] for row in self._database.rows(_NAMES)]

    def listing(self, *, at_most: int = COUNTED_MAX) -> list[dict[str, Any]]:
        """What is due and rejected at each of `names`, of which `at_most` are counted, and what happened there last."""
        figures = Figures(self._database)
        return [
            self._platform(name, figures.due(name, at_most=at_most), figures.rejected(name, at_most=at_most))
            for name in self.names()
        ]

    def _platform(self, name: str, due: DueFigures, rejected: RejectedFigures) -> dict[str, Any]:
        state = asdict(self.state(name))
        del state["name"]
        forgotten = self._database.rows("SELECT forgotten_at FROM platforms WHERE name = ?", (name,))
        return {
            "platform": name,
            "apps": list(self.apps(name)),
            "due": due.count,
            "due_more": due.more,
            "oldest_due_at": due.oldest_at,
            "rejected": rejected.count,
            "rejected_more": rejected.more,
            **state,
            "forgotten_at": forgotten[0][0] if forgotten else None,
        }

    def unserved(self, served: Collection[str]) -> list[str]:
        """Those of `names` where something is due or rejected, and which are neither `served` nor to be forgotten."""
        left, figures = {*served, *self.to_forget(served)}, Figures(self._database)
        others = [name for name in self.names() if name not in left]
        return [
            name for name in others if figures.due(name, at_most=1).count or figures.rejected(name, at_most=1).count
        ]

    def apps(self, name: str) -> tuple[str, ...]:
        """The apps that are routed to a platform, whether it has a file or not."""
        found = self._database.rows("SELECT app FROM routes WHERE platform = ? ORDER BY app", (name,))
        return tuple(row[0] for row in found)

    def wish_forgotten(self, name: str, now: int) -> None:
        """Have dispatch drop what it has of a platform that is gone, as soon as it runs without a file of it."""
        with self._database.transaction() as connection:
            connection.execute(
                """INSERT INTO platforms (name, forgotten_at) VALUES (?, ?)
                   ON CONFLICT (name) DO UPDATE SET forgotten_at = excluded.forgotten_at""",
                (name, now),
            )

    def is_to_be_forgotten(self, name: str) -> bool:
        """Whether that wish still stands."""
        wished = self._database.rows("SELECT 1 FROM platforms WHERE name = ? AND forgotten_at IS NOT NULL", (name,))
        return bool(wished)

    def keep(self, served: Collection[str]) -> None:
        """Platforms that have a file are not forgotten, whatever was wished before it came back."""
        if self._database.rows("SELECT 1 FROM platforms WHERE forgotten_at IS NOT NULL"):
            with self._database.transaction() as connection:
                connection.executemany(
                    "UPDATE platforms SET forgotten_at = NULL WHERE name = ?", [(name,) for name in served]
                )

    def to_forget(self, served: Collection[str]) -> list[str]:
        """The platforms that a person wishes forgotten, and that are not among those `served`."""
        wished = self._database.rows("SELECT name FROM platforms WHERE forgotten_at IS NOT NULL ORDER BY name")
        return [row[0] for row in wished if row[0] not in served]
