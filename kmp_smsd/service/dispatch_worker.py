"""A worker of dispatch: how one platform is served, held, replaced and left."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure

from kmp_smsd.service.delivering import Deliverer, Ended
from kmp_smsd.service.judging import Counts
from kmp_smsd.service.status import PlatformWord
from kmp_smsd.storage.due import has_come
from kmp_smsd.storage.platforms import PlatformState

STOP_WITHIN_S = 10.0
AFTER_FAULT_S = 60.0

InThread = Callable[..., Deferred[Any]]
"""Has a thread call something with some arguments; fires with what came of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Served:
    """How one platform is served. Times in Unix seconds."""

    name: str
    word: PlatformWord
    paused: bool
    since: float
    counts: Counts
    state: PlatformState | None
    next_try_at: float | None
    certificate_ends_at: float | None = None  # ours there


class Worker:
    """Serves one platform in a thread, where it does one thing at a time. All methods in the reactor's thread."""

    log = Logger()

    def __init__(
        self,
        deliverer: Deliverer,
        in_thread: InThread,
        reactor: Any,
        *,
        monotonic: Callable[[], float],
        wall: Callable[[], float],
        draining: bool,
    ) -> None:
        self.deliverer = deliverer
        self.paused = False
        self.draining = draining
        self.due_at: int | None = 0  # Unix milliseconds; None: nothing is due
        self.idle_since = 0.0  # monotonic seconds
        self._in_thread = in_thread
        self._reactor = reactor
        self._monotonic, self._wall = monotonic, wall
        self._word, self._since = PlatformWord.IDLE, wall()
        self._running: Deferred[None] | None = None
        self._not_before = 0.0  # monotonic seconds
        self._hurried_at = 0  # Unix milliseconds: the last wish of a person that was heeded
        self._hurried = False  # since the last run began

    @property
    def held(self) -> bool:
        """Whether it must not begin."""
        return self.paused or self.draining

    @property
    def busy(self) -> bool:
        """Whether it has a thread, or waits for one."""
        return self._running is not None

    @property
    def idle(self) -> bool:
        """Whether it has a connection that nobody uses."""
        return not self.busy and self.deliverer.is_open

    def has_work(self, now: int) -> bool:
        """Whether something is due there at `now` (Unix milliseconds), and nobody waits or works already."""
        if self.held or self.busy or self.due_at is None or not has_come(self.due_at, now):
            return False
        return self._not_before <= self._monotonic()

    def hurry(self, wished_at: int) -> None:
        """Wait no more for a later try, where a person wished so at `wished_at`, Unix milliseconds."""
        if wished_at != self._hurried_at:  # or less: the clock may have been set back
            self._hurried_at, self._hurried, self._not_before = wished_at, True, 0.0

    def begin(self) -> None:
        """Deliver until nothing is due, or the platform fails."""
        self._running, self._hurried = Deferred(), False
        self._in_thread(self.deliverer.run).addCallbacks(self._ran, self._broke)

    def close_connection(self) -> None:
        """Close an idle connection, in a thread, since even that may block."""
        self._running = Deferred()
        self._in_thread(self.deliverer.close_channel).addCallbacks(lambda _: self._free(), self._broke)

    def hold(self) -> Deferred[Any]:
        """Stop where it is to go on later, and close the connection; fires when it stands still."""

        def close(result: Any) -> Any:
            if self.held and self.idle:
                self.close_connection()
            return result

        return self._standstill().addCallback(close)

    def go_on(self) -> None:
        """Begin again after `hold`, unless it is still held."""

        def again(_: Any) -> None:
            if not self.held:
                self.deliverer.again()

        self._not_before = 0.0
        self.ended().addCallback(again)

    def follow(self, before: Worker, gone: Deferred[Any]) -> Deferred[Any]:
        """Begin when the worker `before` is `gone`: two would deliver the same."""
        self.paused, self._hurried_at = before.paused, before._hurried_at
        self.deliverer.counts = before.deliverer.counts
        self._running = Deferred()

        def begin(result: Any) -> Any:
            self._free()
            return result

        return gone.addBoth(begin)

    def retire(self) -> Deferred[Any]:
        """Stop for good; fires when everything is closed."""
        return self._standstill().addCallback(lambda _: self.close())

    def close(self) -> Deferred[Any]:
        """Close everything in a thread; nothing may be under way."""
        return self._in_thread(self.deliverer.close)

    def ended(self) -> Deferred[Any]:
        """Fires when what is under way, if anything, has ended; each who waits has a Deferred of his own."""
        ended: Deferred[Any] = Deferred()
        if self._running is None:
            ended.callback(None)
        else:

            def tell(result: Any) -> Any:
                ended.callback(None)
                return result

            self._running.addBoth(tell)
        return ended

    def served(self) -> Served:
        """How the platform is served; since when, is known from what this said before."""
        word = self._present_word()
        if word is not self._word:
            self._word, self._since = word, self._wall()
        return Served(
            name=self.deliverer.platform,
            word=self._word,
            paused=self.paused,
            since=self._since,
            counts=self.deliverer.counts,
            state=self.deliverer.state,
            next_try_at=self._next_try_at(),
            certificate_ends_at=self.deliverer.certificate_ends_at,
        )

    def _present_word(self) -> PlatformWord:
        if self.paused:
            return PlatformWord.PAUSED
        if self.draining:
            return PlatformWord.DRAINING if self.busy else PlatformWord.DRAINED
        state = self.deliverer.state
        if state is not None and state.held_back:
            return PlatformWord.HELD_BACK
        if self.busy:
            return PlatformWord.DELIVERING
        return PlatformWord.IDLE if self.due_at is None else PlatformWord.WAITING

    def _next_try_at(self) -> float | None:
        """Unix seconds; None where nothing is due, or somebody works already, or must not."""
        if self.due_at is None or self.busy or self.held:
            return None
        return max(self.due_at / 1000, self._wall() + max(0.0, self._not_before - self._monotonic()))

    def _standstill(self) -> Deferred[Any]:
        """Tell it to stop; fires when it does nothing any more, by force in the end."""
        self.deliverer.stop()
        force = self._reactor.callLater(STOP_WITHIN_S, self.deliverer.abort)

        def stands(result: Any) -> Any:
            if force.active():
                force.cancel()
            return result

        return self.ended().addBoth(stands)

    def _ran(self, ended: Ended) -> None:
        self._not_before = 0.0 if self._hurried else self._monotonic() + ended.wait_ms / 1000
        self.due_at = 0  # look again: more may have come due meanwhile
        self._free()

    def _broke(self, failure: Failure) -> None:
        self.log.failure(
            "platform {platform}: delivery broke off",
            failure,
            event="delivery_broke_off",
            platform=self.deliverer.platform,
        )
        self._not_before = self._monotonic() + AFTER_FAULT_S
        self.due_at = 0
        self._free()

    def _free(self) -> None:
        running, self._running = self._running, None
        self.idle_since = self._monotonic()
        assert running is not None
        running.callback(None)
