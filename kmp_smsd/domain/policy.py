"""What the operator decided about SIMs that change, terminals that change and messages that come late."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from kmp_smsd.domain.spans import HOUR_MS


class OnConflict(StrEnum):
    """What becomes of a request that conflicts with a standing binding; a later one beats an earlier one."""

    MOVED = "moved"
    HELD = "held"
    REFUSED = "refused"


STRICTNESS = {OnConflict.MOVED: 0, OnConflict.HELD: 1, OnConflict.REFUSED: 2}


@dataclass(frozen=True, slots=True, kw_only=True)
class SyncPolicy:
    """The `[sync]` options that bear on the meaning of a request."""

    on_sim_change: OnConflict = OnConflict.HELD
    on_terminal_change: OnConflict = OnConflict.HELD
    on_late: OnConflict = OnConflict.HELD  # held or refused
    late_hours: int = 72
    gateways: Mapping[str, SyncPolicy] = field(default_factory=dict)  # what holds instead for requests by a gateway
    reply_expire_s: int = 3600
    mdn_replies_a_day: int = 10

    @property
    def late_ms(self) -> int:
        return self.late_hours * HOUR_MS

    @property
    def longest_late_ms(self) -> int:
        """The longest `late_ms` that any request may meet."""
        return max(self.late_ms, *(policy.late_ms for policy in self.gateways.values()), 0)

    def by(self, road: str) -> SyncPolicy:
        """The policy for requests that come by this link or gateway."""
        return self.gateways.get(road, self)
