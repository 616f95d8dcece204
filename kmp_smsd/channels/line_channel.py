"""Deliveries as JSON lines to a receiver, whatever encrypts them on their way (docs/platform-protocol.rst)."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace

from kmp_smsd.channels import wire
from kmp_smsd.channels.hiding import KEYS_KEPT, REPEATS_A_KEY, quotes
from kmp_smsd.channels.kinds import ChannelOptions
from kmp_smsd.channels.protocol import Bind, ChannelDown, Delivery, Rejected, Result, TryLater
from kmp_smsd.channels.stream import Stream

Clock = Callable[[], float]  # Unix seconds

HARMLESS_MAX = 64
BURSTS = 4  # in a window: the far side begins with the first while the next ones are being made


class LineChannel:
    """A connected platform. `host` is the door in use, `peer` what the receiver said of itself.

    `fingerprint` is that of the key by which the host proved who it is.
    """

    def __init__(
        self, stream: Stream, peer: wire.Hello, options: ChannelOptions, clock: Clock, sent: deque[bytes]
    ) -> None:
        self.host = stream.host
        self.fingerprint = stream.fingerprint
        self.certificate_ends_at = stream.certificate_ends_at
        self.peer = peer
        self._stream = stream
        self._answer_within_s = options.answer_within_s
        self._window = min(options.window, peer.window)
        self._clock = clock
        self._last_id = 0
        self._sent = sent  # over all connections: fewer, since a key is not to lie in memory for longer than it must
        # Sent lately: not to be seen in an error or the log. What is muttered of one may come long after its answer.
        self._keys = deque(sent, maxlen=max(KEYS_KEPT, 2 * self._window))
        self._harmless: set[str] = set()  # reasons that quote no key of those sent lately

    def deliver(self, deliveries: Iterable[Delivery]) -> Iterator[Result]:
        """Send `deliveries`, at most a window of them ahead of the answers, and yield the results as they come.

        Each delivery is taken when it is sent; up to a window of answers may have come and not been yielded yet. Raises
        ChannelDown; what had no result by then is not known to be held. A caller that stops before the end closes the
        channel, since answers would be left in it.
        """
        self._harmless.clear()
        waiting = iter(deliveries)
        unanswered: dict[int, Delivery] = {}
        lines: deque[bytes] = deque()
        whole = False
        try:
            while True:
                # Refilled from half a window down, so that the far side gets lines in bursts and commits them together;
                # and before its answers are looked into, so that it has something to do while the caller settles them.
                answered = min(len(lines), len(unanswered), self._window)  # it may answer what it was not asked yet
                if len(unanswered) - answered <= self._window // 2:
                    try:
                        yield from self._send(waiting, unanswered, self._window + answered)
                    except ChannelDown:  # what was answered before counts all the same
                        while lines:
                            yield self._result(lines.popleft(), unanswered)
                        raise
                if not unanswered and not lines:
                    break
                if not lines:
                    lines.extend(self._stream.receive(self._answer_within_s, self._keys))
                    continue
                yield self._result(lines.popleft(), unanswered)
            whole = True
        finally:
            if not whole:
                self.close()

    def close(self) -> None:
        """Close the connection; safe at any time, twice, and from another thread, where `deliver` then ends."""
        self._stream.close()

    def _send(self, waiting: Iterator[Delivery], unanswered: dict[int, Delivery], most: int) -> Iterator[Rejected]:
        """Send until `most` are in `unanswered`; what is too long for the far side is yielded instead."""
        burst: list[bytes] = []
        too_long: list[Rejected] = []
        while len(unanswered) < most and (delivery := next(waiting, None)) is not None:
            if isinstance(delivery, Bind):
                self._keys.append(delivery.key)
                self._sent.append(delivery.key)
            self._last_id += 1
            line = wire.encode_delivery(self._last_id, delivery)
            if len(line) > self.peer.max_line:
                too_long.append(Rejected(delivery, f"a line of {len(line)} octets; it takes {self.peer.max_line}"))
                continue
            unanswered[self._last_id] = delivery
            burst.append(line)
            if len(burst) >= self._window // BURSTS:
                self._stream.send(b"".join(burst), self._answer_within_s, self._keys)
                burst.clear()
        if burst:
            self._stream.send(b"".join(burst), self._answer_within_s, self._keys)
        yield from too_long

    def _result(self, line: bytes, unanswered: dict[int, Delivery]) -> Result:
        try:
            answer = wire.parse_answer(line, self._keys)
        except wire.WireError as error:
            raise self._stream.down(str(error), self._keys) from None
        delivery = unanswered.pop(answer.id, None)
        if delivery is None:
            raise self._stream.down("answered an id that was never asked or has its answer", self._keys)
        return self._hiding_neighbours(wire.judge(answer, delivery, self._clock()))

    def _hiding_neighbours(self, result: Result) -> Result:
        """`result` without a reason that quotes the key of another delivery: a group may fail together."""
        if isinstance(result, TryLater | Rejected) and result.reason not in self._harmless:
            if quotes(result.reason, self._keys):
                return replace(result, reason=REPEATS_A_KEY)
            if len(self._harmless) >= HARMLESS_MAX:
                self._harmless.clear()
            self._harmless.add(result.reason)  # what is said of all of a window is looked at once
        return result
