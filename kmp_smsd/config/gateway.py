"""[gateway.NAME] of kmp-smsd.toml."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from kmp_smsd.config.section import Reload, Section
from kmp_smsd.config.sync import Policy, Sync
from kmp_smsd.domain.policy import OnConflict, SyncPolicy


class Gateway(Section):
    """A trusted system that hands in requests which did not come by SMS, with `kmp-smsd sync submit --gateway NAME`.

    An option that is left out is as in [sync].
    """

    reload: ClassVar[Reload] = Reload.AT_ONCE
    role: ClassVar[str] = "intake"

    on_sim_change: Policy | None = Field(
        default=None,
        description="A key reports under another MDN or app: held, refused or moved. Default: as in [sync].",
    )
    on_terminal_change: Policy | None = Field(
        default=None, description="An MDN and app report another key: held, refused or moved. Default: as in [sync]."
    )
    on_late: Literal["held", "refused"] | None = Field(
        default=None, description="A request that is older than the binding in its way. Default: as in [sync]."
    )
    late_hours: int | None = Field(
        default=None,
        ge=1,
        le=8760,
        description="For how long a replaced key may only come back as a late one. Default: as in [sync].",
    )

    def policy(self, sync: Sync) -> SyncPolicy:
        """The options that `decide` needs."""
        return SyncPolicy(
            on_sim_change=OnConflict(self.on_sim_change or sync.on_sim_change),
            on_terminal_change=OnConflict(self.on_terminal_change or sync.on_terminal_change),
            on_late=OnConflict(self.on_late or sync.on_late),
            late_hours=self.late_hours or sync.late_hours,
        )
