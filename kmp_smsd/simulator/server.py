"""The simulated SMSC in a thread of its own, for programs without a reactor."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, TypeVar

from twisted.internet.pollreactor import PollReactor

from kmp_smsd.simulator.smsc import Counts, Smsc, SmscSettings
from kmp_smsd.simulator.submit import SubmitAnswer
from kmp_smsd.smpp.submit import SubmitSm

START_WITHIN_S = 10.0

T = TypeVar("T")


class SmscServer:
    """A `Smsc` on a loopback port. Its reactor is its own, so that there may be several, beside any other reactor.

    Use it in a `with` statement, or call `start` and `stop`. Every method may be called from any thread; the methods
    that `Smsc` has too do the same here.
    """

    def __init__(self, settings: SmscSettings | None = None, port: int = 0) -> None:
        self.port = port
        self._settings = settings or SmscSettings()
        self._reactor: Any = None
        self._smsc: Smsc | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> SmscServer:
        """Listen; afterwards `port` is the port's number. After `stop` it may be started again on the same port."""
        self._reactor = PollReactor()  # type: ignore[no-untyped-call]  # Twisted has no types for it
        self._smsc = Smsc(self._settings, self._reactor)
        self._thread = threading.Thread(target=self._run, name="simulated SMSC", daemon=True)
        self._thread.start()
        self.port = self._call(lambda smsc: smsc.listen(self.port))
        return self

    def stop(self) -> None:
        """Close the port and every connection, and end the thread. Stored messages are lost."""
        if self._thread is not None:
            self._reactor.callFromThread(self._close)
            self._thread.join(START_WITHIN_S)
            self._thread = None
            self._reactor.waker.connectionLost(None)  # a reactor never closes its own pipe

    def __enter__(self) -> SmscServer:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    def send(self, source_addr: str, text: str | bytes, **fields: Any) -> Future[int]:
        """Store one message; the future has the command_status that was the last word on it."""
        return self._send(lambda smsc: smsc.send(source_addr, text, **fields))

    def send_body(self, body: bytes) -> Future[int]:
        """Store one message given as the body of its deliver_sm; the future as for `send`."""
        return self._send(lambda smsc: smsc.send_body(body))

    def store(self, bodies: Iterable[bytes]) -> None:
        """Store many messages whose answers are only counted."""
        self._call(lambda smsc: smsc.store(bodies))

    @property
    def counts(self) -> Counts:
        """What has happened so far."""
        return self._call(lambda smsc: smsc.counts)

    @property
    def bound(self) -> int:
        """How many sessions take messages now."""
        return self._call(lambda smsc: smsc.bound)

    @property
    def submitters(self) -> int:
        """How many sessions may submit now."""
        return self._call(lambda smsc: smsc.submitters)

    @property
    def submitted(self) -> list[SubmitSm]:
        """What ESMEs submitted and was taken."""
        return self._call(lambda smsc: list(smsc.submitted))

    def answer_submits(self, answer: Callable[[SubmitSm], SubmitAnswer]) -> None:
        """React so to each submit_sm from now on."""
        self._call(lambda smsc: setattr(smsc, "on_submit", answer))

    @property
    def waiting(self) -> int:
        """How many messages have not had the last word yet."""
        return self._call(lambda smsc: smsc.waiting)

    def drop(self) -> None:
        """Cut every connection without a word."""
        self._call(Smsc.drop)

    def unbind(self) -> None:
        """Send unbind on every session that is bound."""
        self._call(Smsc.unbind)

    def _run(self) -> None:
        self._reactor.run(installSignalHandlers=False)

    def _close(self) -> None:
        assert self._smsc is not None
        self._smsc.close().addBoth(lambda _: self._reactor.stop())

    def _send(self, call: Callable[[Smsc], Any]) -> Future[int]:
        answered: Future[int] = Future()

        def send() -> None:
            call(self._smsc_in_thread()).addCallback(answered.set_result)

        self._reactor.callFromThread(send)
        return answered

    def _call(self, call: Callable[[Smsc], T]) -> T:
        result: Future[T] = Future()

        def run() -> None:
            try:
                result.set_result(call(self._smsc_in_thread()))
            except BaseException as error:  # whatever it is, it belongs to the thread that waits
                result.set_exception(error)

        self._reactor.callFromThread(run)
        return result.result(START_WITHIN_S)

    def _smsc_in_thread(self) -> Smsc:
        assert self._smsc is not None
        return self._smsc
