"""An SMSC that does nothing but send and count, so that it is hardly ever the limit.

PDUs are encoded before the clock starts. Answers are counted by their octets: a peer answers each link in the order in
which it was asked, so the time of an answer is known without looking at its sequence number.
"""

from __future__ import annotations

import gc
import os
import selectors
import socket
import time
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import HEADER_OCTETS, RESPONSE, CommandId

ANSWER_OCTETS = 17  # deliver_sm_resp: header and an empty message_id
_COMMAND, _STATUS = 4, 11  # octets of an answer: the first of its command_id, the last of its command_status
_SILENCE_MAX_S = 60.0
_TICK_S = 0.001  # of a load at a fixed rate


@dataclass(slots=True)
class Run:
    """What became of one load. Times in seconds."""

    messages: int
    took_s: float = 0.0
    refused: int = 0  # answers with another command_status than 0
    busy: float = 0.0  # the part of the time in which the generator used its processor
    undisturbed: bool = False  # whether the generator had a processor whenever it wanted one
    answered: list[tuple[float, int]] = field(default_factory=list)  # how long it took, how many messages

    @property
    def per_second(self) -> float:
        """Messages answered in a second."""
        return self.messages / self.took_s

    def percentile(self, part: float) -> float:
        """The answer time in seconds that `part` (0 to 1) of the messages did not exceed."""
        rest = part * self.messages
        for took_s, count in sorted(self.answered):
            rest -= count
            if rest <= 0:
                return took_s
        return 0.0


class Generator:
    """Listens on a port of its own for whoever binds to it, and sends."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=256)
        self._listener.settimeout(_SILENCE_MAX_S)
        self.port: int = self._listener.getsockname()[1]
        self._links: list[_Link] = []

    def accept(self, links: int) -> None:
        """Take `links` binds; the links before are hung up."""
        self.hang_up()
        self._links = [_Link(self._listener.accept()[0]) for _ in range(links)]

    def hang_up(self) -> None:
        """Close all links."""
        for link in self._links:
            link.socket.close()
        self._links = []

    def closed_loop(self, bodies: Sequence[bytes], window: int) -> Run:
        """Send all of `bodies`, with `window` unanswered on each link at most."""
        pdus = _encoded(bodies)
        with self._running(len(pdus)) as (run, selector):
            sent = 0
            for link in self._links:
                sent += link.send(pdus[sent : sent + window], time.perf_counter())
            answered = 0
            while answered < len(pdus):
                for link in _readable(selector):
                    answered += (room := link.receive(run))
                    sent += link.send(pdus[sent : sent + room], time.perf_counter())
        return run

    def open_loop(self, bodies: Sequence[bytes], per_second: float) -> Run:
        """Send `per_second`, whatever is answered by then; a message's time counts from when it was due."""
        pdus = _encoded(bodies)
        with self._running(len(pdus)) as (run, selector), _in_real_time() as run.undisturbed:
            began = time.perf_counter()
            sent = answered = turn = 0
            while answered < len(pdus):
                due_at = time.perf_counter()
                due = min(len(pdus), int((due_at - began) * per_second) + 1)
                if due > sent:
                    link = self._links[(turn := turn + 1) % len(self._links)]
                    sent += link.send(pdus[sent:due], began + sent / per_second)
                for link in _readable(selector, _TICK_S if sent < len(pdus) else _SILENCE_MAX_S):
                    answered += link.receive(run)
        return run

    @contextmanager
    def _running(self, messages: int) -> Iterator[tuple[Run, selectors.BaseSelector]]:
        run = Run(messages)
        with selectors.DefaultSelector() as selector:
            for link in self._links:
                selector.register(link.socket, selectors.EVENT_READ, link)
            gc.disable()  # its pauses would be counted as the peer's
            try:
                began, used = time.perf_counter(), time.process_time()
                yield run, selector
                run.took_s = time.perf_counter() - began
                run.busy = (time.process_time() - used) / run.took_s
            finally:
                gc.enable()


class _Link:
    """One bound connection, and what it has not answered yet."""

    def __init__(self, connection: socket.socket) -> None:
        self.socket = connection
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.settimeout(_SILENCE_MAX_S)
        self._unanswered: deque[tuple[float, int]] = deque()  # sent when, how many
        self._rest = b""
        header = self.socket.recv(4096)
        _, command_id, _, number = HEADER.unpack_from(header)
        self.socket.sendall(HEADER.pack(HEADER_OCTETS + 6, command_id | RESPONSE, 0, number) + b"bench\0")

    def send(self, pdus: Sequence[bytes], at: float) -> int:
        """Send `pdus`, which were due `at`; how many these were."""
        if pdus:
            self.socket.sendall(b"".join(pdus))
            self._unanswered.append((at, len(pdus)))
        return len(pdus)

    def receive(self, run: Run) -> int:
        """Count what has been answered; how many messages."""
        octets = self.socket.recv(1 << 20)
        if not octets:
            raise RuntimeError("the peer hung up")
        octets = self._rest + octets
        count = len(octets) // ANSWER_OCTETS
        whole = count * ANSWER_OCTETS
        self._rest = octets[whole:]
        if octets[_COMMAND:whole:ANSWER_OCTETS].count(RESPONSE >> 24) != count:
            raise RuntimeError("the peer sent something else than answers")
        run.refused += count - octets[_STATUS:whole:ANSWER_OCTETS].count(0)
        now, rest = time.perf_counter(), count
        while rest:
            sent_at, waiting = self._unanswered.popleft()
            if waiting > rest:
                self._unanswered.appendleft((sent_at, waiting - rest))
            run.answered.append((now - sent_at, min(waiting, rest)))
            rest -= min(waiting, rest)
        return count


@contextmanager
def _in_real_time() -> Iterator[bool]:
    """Wait for no processor, as an SMSC's machine does not wait for ours; whether this user may do so.

    Else what the generator waits to send and to look at an answer would be counted as the peer's.
    """
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(os.sched_get_priority_min(os.SCHED_RR)))
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))


def _readable(selector: selectors.BaseSelector, within_s: float = _SILENCE_MAX_S) -> Iterator[_Link]:
    ready = selector.select(within_s)
    if not ready and within_s == _SILENCE_MAX_S:
        raise TimeoutError(f"no answer within {within_s:g} s")
    for key, _ in ready:
        yield key.data


def _encoded(bodies: Sequence[bytes]) -> list[bytes]:
    return [
        HEADER.pack(HEADER_OCTETS + len(body), CommandId.DELIVER_SM, 0, number % 0x7FFFFFFF + 1) + body
        for number, body in enumerate(bodies)
    ]
