"""The channel of kind ``ssh``: deliveries as JSON lines to a command on the platform's host."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import paramiko

from kmp_smsd import __version__
from kmp_smsd.channels import wire
from kmp_smsd.channels.cancel import Cancel
from kmp_smsd.channels.connecting import Credentials, check_host_key, load_identity, log_in, negotiated
from kmp_smsd.channels.hiding import KEYS_KEPT, REPEATS_A_KEY, quotes
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import SshOptions
from kmp_smsd.channels.protocol import Bind, ChannelDown, Delivery, Rejected, Result, TryLater
from kmp_smsd.channels.stream import Stream

log = logging.getLogger(__name__)

Clock = Callable[[], float]  # Unix seconds

HARMLESS_MAX = 64
BURSTS = 4  # in a window: the far side begins with the first while the next ones are being made


class SshChannel:
    """A connected platform. `host` is the door in use, `peer` what the receiver said of itself."""

    def __init__(self, stream: Stream, peer: wire.Hello, options: SshOptions, clock: Clock, sent: deque[bytes]) -> None:
        self.host = stream.host
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


def open_channel(
    options: SshOptions, credentials: Credentials, name: str, cancel: Cancel, clock: Clock, sent: deque[bytes]
) -> SshChannel:
    """Connect to the first of the platform's hosts that lets us; raises ChannelDown with the reason of each.

    `name` is the platform's, for the log. `sent` has the keys that it was sent last, on any connection, and is given
    those of this one: a receiver that broke over a key may tell of it when it begins anew. Blocks for
    `connect_within_s` per host at most, and until `cancel`.
    """
    identity = load_identity(credentials(options.identity))
    reasons = []
    for host in options.hosts:
        if cancel.requested:
            raise ChannelDown("connecting was cancelled")
        try:
            return _open_at(host, options, identity, name, cancel, clock, sent)[0]
        except ChannelDown as down:
            told = {"event": "platform_unreached", "platform": name, "reason": str(down)}
            log.info("platform %s is not reached: %s", name, down, extra=told)
            reasons.append(str(down))
    raise ChannelDown("; ".join(reasons))


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """What `probe` found at one host: the receiver's hello, or the reason why there is none."""

    host: Host
    took_s: float
    fingerprint: str = ""
    hello: wire.Hello | None = None
    fault: str = ""


def probe(options: SshOptions, credentials: Credentials, name: str, clock: Clock) -> list[Finding]:
    """Connect to every host, exchange hellos, hang up. No key is sent."""
    identity = load_identity(credentials(options.identity))
    findings = []
    for host in options.hosts:
        began = time.monotonic()
        try:
            channel, shown = _open_at(host, options, identity, name, Cancel(), clock, deque())
        except ChannelDown as down:
            findings.append(Finding(host=host, took_s=time.monotonic() - began, fault=str(down)))
            continue
        channel.close()
        took_s = time.monotonic() - began
        findings.append(Finding(host=host, took_s=took_s, fingerprint=shown, hello=channel.peer))
    return findings


def _open_at(
    host: Host,
    options: SshOptions,
    identity: paramiko.PKey,
    name: str,
    cancel: Cancel,
    clock: Clock,
    sent: deque[bytes],
) -> tuple[SshChannel, str]:
    pinned = options.pinned_for(host)
    algorithms = tuple(dict.fromkeys(key.algorithm for key in pinned))
    within_s = options.connect_within_s
    with negotiated(host, algorithms, within_s, cancel) as transport:
        shown = check_host_key(transport, host, pinned)
        log_in(transport, host, options, identity)
        stream = Stream(name, host, transport, options.command, options.max_line_octets)
        stream.send(wire.encode_hello(f"kmp-smsd {__version__}", options.window), within_s, sent)
        lines = stream.receive(within_s, sent)
        try:
            peer = wire.parse_hello(lines[0], sent)
        except wire.WireError as error:
            raise stream.down(str(error), sent) from None
        if len(lines) > 1:
            raise stream.down(f"more than a hello: {wire.excerpt(lines[1], sent)}", sent)
    return SshChannel(stream, peer, options, clock, sent), shown
