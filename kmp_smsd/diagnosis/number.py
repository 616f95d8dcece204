"""What is known of one number, as `explain` gathers it. Rows are those of the listings; times are Unix milliseconds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Searched:
    """How far the journal was looked through: `entries` of `total`, the oldest of them written at `since`."""

    entries: int = 0
    total: int = 0
    since: int | None = None

    @property
    def whole(self) -> bool:
        return self.entries >= self.total


@dataclass(frozen=True, slots=True, kw_only=True)
class Number:
    """All that is known at `now`. `known` is None where the database has nothing of it.

    `keys` has of each key that exists its state, app_id, valid_from and valid_until, and where it is bound since when.
    """

    mdn: str
    now: int
    is_legal: bool  # in the numbering plan
    known: Row | None = None
    registrations: Sequence[Row] = ()
    bindings: Sequence[Row] = ()
    outbox: Sequence[Row] = ()
    waiting: Sequence[Row] = ()
    holds: Sequence[Row] = ()
    replies: Sequence[Row] = ()
    journal: Sequence[Row] = ()
    keys: Mapping[str, Row] = field(default_factory=dict)
    platforms: Mapping[str, Row] = field(default_factory=dict)  # what dispatch last saw of each
    configured: frozenset[str] = frozenset()  # the platforms that have a file
    routes: Mapping[str, str] = field(default_factory=dict)  # app -> the platform whose file names it
    gateways: frozenset[str] = frozenset()  # that have a section
    searched: Searched = Searched()

    @property
    def bound(self) -> list[Row]:
        return [row for row in self.bindings if row["state"] == "bound"]
