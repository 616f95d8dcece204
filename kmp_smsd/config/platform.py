"""platforms.d/NAME.toml."""

from __future__ import annotations

import re
from typing import Annotated, ClassVar

from pydantic import Field

from kmp_smsd.channels.kinds import ChannelOptions
from kmp_smsd.config.section import LIST, NAME, Reload, Section, not_below, written_as
from kmp_smsd.domain.identifiers import APP_ID

AppId = Annotated[str, written_as(APP_ID.pattern, "an app ID as 1 to 32 of A-Z a-z 0-9 . -")]


class Platform(Section):
    """platforms.d/NAME.toml: one platform, to which keys are delivered. The file's name is the platform's."""

    reload: ClassVar[Reload] = Reload.PLATFORM
    role: ClassVar[str] = "dispatch"

    enabled: bool = Field(default=True, description="false: the file is checked, and the platform gets nothing.")
    apps: Annotated[tuple[AppId, ...], LIST] = Field(
        max_length=1000,
        description="The app IDs whose keys this platform gets. An app is in one file only. Empty: the platform gives "
        "up what it holds and gets nothing any more.",
    )
    retry_min_s: float = Field(
        default=5.0,
        ge=0.1,
        le=3600,
        description="Seconds before a failed delivery is tried again; they double each time.",
    )
    retry_max_s: Annotated[float, not_below("retry_min_s")] = Field(
        default=900.0, ge=1, le=86_400, validate_default=True, description="Seconds between tries, at most."
    )
    channel: ChannelOptions = Field(discriminator="kind", description="How the platform is reached.")


def is_platform_name(text: str) -> bool:
    """Whether `text` may name a platform: its file is ``text.toml``."""
    return re.fullmatch(NAME, text) is not None
