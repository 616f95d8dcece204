"""Deciding: what was received, and what was marked, is decided and written; by a store here, or in another process."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Protocol

import kmp_smsd
from kmp_smsd import __version__
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.policy import SyncPolicy
from kmp_smsd.storage import Store
from kmp_smsd.storage.lock_waits import Waits
from kmp_smsd.storage.received import Received


def _loaded() -> str:
    """What this process has loaded; it differs where other files have taken their place."""
    status = os.stat(kmp_smsd.__file__)
    return f"{__version__} {status.st_dev}:{status.st_ino}:{status.st_mtime_ns}"


LOADED = _loaded()
END_WITHIN_S = 5.0  # for the helper, once nobody asks any more


class Deciding(Protocol):
    """One at a time decides: in its order, by one policy, and with one memory of who was entered this hour.

    Used in one thread. Times are Unix milliseconds.
    """

    lock_wait: Waits

    def settle(self, batch: Sequence[Received], now: int) -> list[Outcome | None]:
        """Settle lines of the inbox whose numbers have no gap; None for each message that was settled before.

        Raises StoreUnavailable; some of them may be settled nevertheless.
        """

    def settle_again(self, now: int) -> tuple[list[Outcome], bool]:
        """Decide again some of what was marked; outcomes, and whether there may be more. Raises StoreUnavailable."""

    def set_policy(self, policy: SyncPolicy) -> None:
        """Decide by `policy` from now on."""

    def give_up(self) -> None:
        """Wait no longer for an answer that should have come. Any thread may call it."""

    def close(self) -> None:
        """Decide nothing more."""


class DecidingHere:
    """Decides with an open store, which it closes."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.lock_wait: Waits = store.lock_wait

    def settle(self, batch: Sequence[Received], now: int) -> list[Outcome | None]:
        messages = [message for received in batch for message in received.messages]
        now = max([now, *(message.received_at for message in messages)])  # the clock may have been set back since
        return self._store.settle(messages, now, batch[-1].last)

    def settle_again(self, now: int) -> tuple[list[Outcome], bool]:
        outcomes = self._store.settle_again(now)
        return outcomes, bool(outcomes) or self._store.waiting.recalling

    def set_policy(self, policy: SyncPolicy) -> None:
        self._store.set_policy(policy)

    def give_up(self) -> None:
        """Nobody else is waited for."""

    def close(self) -> None:
        self._store.close()
