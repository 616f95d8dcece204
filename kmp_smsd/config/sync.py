"""[sync] of kmp-smsd.toml."""

from __future__ import annotations

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from kmp_smsd.config.section import LIST, Reload, Section, written_as

ShortCode = Annotated[str, written_as("[0-9]{1,20}", "a short code as 1 to 20 digits")]
Policy = Literal["held", "refused", "moved"]


class Sync(Section):
    """What a terminal's message may change, and how many messages are taken (docs/rules.rst)."""

    reload: ClassVar[Reload] = Reload.AT_ONCE
    role: ClassVar[str] = "intake"

    on_sim_change: Policy = Field(
        default="held",
        description="A key reports under another MDN or app than the one it is bound to: held until somebody approves "
        "it, refused, or moved at once.",
    )
    on_terminal_change: Policy = Field(
        default="held",
        description="An MDN and app report another key than the bound one: held, refused or moved, as above.",
    )
    on_late: Literal["held", "refused"] = Field(
        default="held", description="A message that is older than the binding it conflicts with: held or refused."
    )
    late_hours: int = Field(
        default=72,
        ge=1,
        le=8760,
        description="Hours for which the key that was replaced at an MDN and app may only come back as a late message. "
        "SMS arrive out of order.",
    )
    remember_days: int = Field(
        default=7,
        ge=1,
        le=365,
        description="Days for which a request waits for a registration or a key that is missing, and for which a "
        "number that nobody needs any more is remembered after it was last heard.",
    )
    short_codes: Annotated[tuple[ShortCode, ...], LIST] = Field(
        default=(), description="The destination addresses that are ours. Empty: every one is."
    )
    mdn_burst: int = Field(
        default=10, ge=1, le=10_000, description="Messages taken at once from one MDN; more are left with the SMSC."
    )
    mdn_per_minute: float = Field(
        default=6.0, gt=0, le=60_000, description="Messages per minute taken from one MDN after such a burst."
    )
    batch_max: int = Field(default=2000, ge=1, le=2000, description="Messages that come to the disk together, at most.")

    reply_expire_s: int = Field(
        default=3600,
        ge=1,
        le=604_800,
        description="Seconds after which a terminal is no longer told that its key is at the platform, where its link "
        "replies at all.",
    )
    mdn_replies_a_day: int = Field(
        default=10,
        ge=1,
        le=1000,
        description="Replies to one MDN in 24 hours, at most: each costs money, and senders can be forged.",
    )
