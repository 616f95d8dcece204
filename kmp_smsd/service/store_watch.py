"""How a role's store is: read by the thread that owns it, now and then, and kept for whoever asks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.busy import Busy
from kmp_smsd.service.health import STUCK_MAX_S
from kmp_smsd.service.inbox_thread import InboxThread
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.figures import StoreFigures

PROBE_EVERY_S = 10.0


@dataclass(frozen=True, slots=True)
class _Measured:
    figures: StoreFigures
    probe_s: float | None  # what a write took; None where there was none


class StoreWatch:
    """Knows the store without asking it: a store that is stuck keeps nobody waiting but its own thread.

    `in_thread` runs a call in the thread that measures. `thread` follows the one that does the role's work, or some of
    it: of intake it is the one that measures, `inbox` brings messages to the disk and `deciding` follows the thread
    that has them decided. The role is judged by all of them.

    Where it `writes`, the store is written to a little now and then, so that a full or broken disk is noticed before a
    message comes.
    """

    log = Logger()

    def __init__(
        self,
        store: Store,
        in_thread: Callable[..., Deferred[Any]],
        thread: Busy,
        *,
        inbox: InboxThread | None = None,
        deciding: Busy | None = None,
        writes: bool = True,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
    ) -> None:
        self._store = store
        self._in_thread = in_thread
        self._thread = thread
        self._inbox = inbox
        self._threads = [thread]
        if deciding is not None:
            self._threads.append(deciding)
        if inbox is not None:
            self._threads.append(inbox.busy)
        self._writes = writes
        self._monotonic, self._wall = monotonic, wall
        self._probed_at = float("-inf")  # monotonic seconds
        self._measuring: Deferred[Any] | None = None
        self.figures: StoreFigures | None = None
        self.read_at: float | None = None  # Unix seconds
        self.last_write_at: float | None = None  # Unix seconds
        self.last_write_s = 0.0
        self._error: str | None = None  # of measuring, probes included
        self._settling_error: str | None = None
        self._again_error: str | None = None
        self._was_unavailable = False

    @property
    def error(self) -> str | None:
        """What is wrong with the store, of all that is tried with it; None where all is well."""
        inbox_error = self._inbox.error if self._inbox is not None else None
        errors = (self._settling_error, inbox_error, self._again_error, self._error)
        return next((error for error in errors if error is not None), None)

    @property
    def stuck_s(self) -> float:
        """For how long a thread of the store has been at its present job."""
        return max(thread.stuck_s for thread in self._threads)

    @property
    def silent_s(self) -> float:
        """For how long the store has said nothing to its thread, not even that it cannot."""
        return self._thread.silent_s

    @property
    def waits_for_others(self) -> bool:
        """Whether a thread of the store waits for the write lock of another process, and no other one is stuck."""
        waiting = [thread for thread in self._threads if thread.waits_for_others]
        others = [thread for thread in self._threads if thread not in waiting]
        return bool(waiting) and all(thread.stuck_s <= STUCK_MAX_S for thread in others)

    @property
    def lock_holder(self) -> str | None:
        """The other process for whose write lock this one has waited for some seconds; None where it does not."""
        return self._store.lock_wait.holder

    def settled(self, took_s: float) -> None:
        """A batch is settled; that took so many seconds. Of the connection that measures it tells nothing."""
        self.last_write_at, self.last_write_s = self._wall(), took_s
        self._settling_error = None
        self._tell_when_well_again()

    def not_settled(self, reason: str) -> None:
        """A batch could not be settled for this reason; so it is until one is."""
        self._settling_error = reason
        self._tell_when_well_again()

    def settled_again(self) -> None:
        """What was marked is decided again."""
        self._again_error = None
        self._tell_when_well_again()

    def not_settled_again(self, reason: str) -> None:
        """What was marked could not be decided again for this reason; so it is until it is."""
        self._again_error = reason
        self._tell_when_well_again()

    def measure(self) -> Deferred[Any]:
        """Read the figures. Fires when that is done, or where the one before is still under way, with that."""
        if self._measuring is None:
            probe = self._writes and self._monotonic() - self._probed_at >= PROBE_EVERY_S
            self._measuring = self._in_thread(self._read, probe)
            self._measuring.addCallbacks(self._measured, self._not_measured)
        return self._measuring

    def _read(self, probe: bool) -> _Measured:
        """In the store's thread."""
        probe_s = None
        if probe:
            begun_at = self._monotonic()
            self._store.figures.probe()
            probe_s = self._monotonic() - begun_at
        return _Measured(self._store.figures.store(), probe_s)

    def _measured(self, measured: _Measured) -> None:
        self._measuring = None
        self.figures, self.read_at = measured.figures, self._wall()
        if measured.probe_s is not None:
            self._probed_at = self._monotonic()
            self.last_write_at, self.last_write_s = self._wall(), measured.probe_s
        if measured.probe_s is not None or not self._writes:
            self._error = None
        self._tell_when_well_again()

    def _not_measured(self, failure: Failure) -> None:
        self._measuring = None
        self._error = failure.getErrorMessage() or str(failure.type)
        self._tell_when_well_again()
        if not failure.check(StoreUnavailable):
            self.log.failure("the store could not be measured", failure, event="store_not_measured")

    def _tell_when_well_again(self) -> None:
        """What is wrong is told by whoever finds it, and that it is over by none of them."""
        was_unavailable, self._was_unavailable = self._was_unavailable, self.error is not None
        if was_unavailable and not self._was_unavailable:
            self.log.info("the store is available again", event="store_available")
