"""What a channel is asked to deliver, and the three ways in which that ends (docs/platform-protocol.rst)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True, kw_only=True)
class Bind:
    """The platform is to hold `key` for `mdn` and `app_id`. `version` orders all that was ever wanted there."""

    mdn: str
    app_id: str
    version: int
    key_id: str
    algorithm: str
    kcv: str
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """The platform is to hold nothing for `mdn` and `app_id` from `version` on."""

    mdn: str
    app_id: str
    version: int


Delivery = Bind | Withdraw


@dataclass(frozen=True, slots=True)
class Confirmed:
    """The platform proved that it holds the key (or removed it), durably."""

    delivery: Delivery


@dataclass(frozen=True, slots=True)
class TryLater:
    """Not now. `held_version` is set where the platform holds a higher version than ours (answer ``stale``)."""

    delivery: Delivery
    reason: str
    retry_after_s: float | None = None
    held_version: int | None = None


@dataclass(frozen=True, slots=True)
class Rejected:
    """Never with this content. `alarm` marks a peer that cannot be trusted: a wrong receipt, an absurd version."""

    delivery: Delivery
    reason: str
    alarm: bool = False


Result = Confirmed | TryLater | Rejected


class ChannelDown(Exception):
    """The platform is gone, or was never reached; the text says why. What had no result yet is tried again."""


class WrongKey(ChannelDown):
    """The host has another key than those that are pinned: it was set up anew, or somebody stands in between."""


class NotLetIn(ChannelDown):
    """The host refused our login, or our certificate."""


class UnfitIdentity(ChannelDown):
    """What the platform is to know us by is of no use. Its text tells nothing of the key."""


class Channel(Protocol):
    """One open road to one platform. Blocks; lives in one worker thread."""

    certificate_ends_at: float | None  # Unix seconds: until when our own is valid, where the platform knows us by one

    def deliver(self, deliveries: Iterable[Delivery]) -> Iterator[Result]:
        """Send `deliveries`, each taken when there is room for it, and yield one result for each as it is answered.

        Raises ChannelDown when the platform is gone; what had no result by then is tried again.
        """
        ...

    def close(self) -> None:
        """Close the connection; safe to call at any time and twice."""
        ...
