"""Reactor, threads and SMSCs by hand: nothing happens until the test says so, and time passes when it says so."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from typing import Any

from twisted.internet.defer import Deferred, ensureDeferred
from twisted.internet.testing import MemoryReactorClock, StringTransport
from twisted.logger import LogLevel
from twisted.python.failure import Failure

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.config.link import Link
from kmp_smsd.domain.numbering import NumberingPlan, NumberRange
from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import CommandId
from kmp_smsd.smpp.pdu import Message

PLAN = NumberingPlan("86", (NumberRange("8613", 13, "mobile"),))
MDN = "8613912345678"


class ReactorByHand(MemoryReactorClock):
    """Time, connections in memory, and results of threads, which arrive at once."""

    def callFromThread(self, call: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        call(*args, **kwargs)

    def pass_time(self, seconds: float, step_s: float = 0.1) -> None:
        self.pump([step_s] * round(seconds / step_s))


class PoolByHand:
    """Stands in for twisted's ThreadPool: jobs wait in order until the test runs them."""

    def __init__(self, minthreads: int, maxthreads: int, name: str) -> None:
        self.minthreads, self.maxthreads, self.name = minthreads, maxthreads, name
        self.jobs: deque[tuple[Callable[..., None], Callable[..., Any], tuple[Any, ...]]] = deque()
        self.started = self.stopped = False

    @classmethod
    def one_thread(cls, name: str) -> PoolByHand:
        """Stands in for our own OneThread."""
        return cls(1, 1, name)

    def start(self) -> None:
        self.started = True

    def stop(self) -> None:
        self.stopped = True

    def callInThreadWithCallback(
        self, on_result: Callable[..., None], job: Callable[..., Any], *args: Any, **kwargs: Any
    ) -> None:
        assert self.started
        assert not self.stopped
        assert not kwargs
        self.jobs.append((on_result, job, args))

    def waiting(self) -> list[Callable[..., Any]]:
        """The jobs that no thread has taken yet."""
        return [job for _, job, _ in self.jobs]

    def run_one(self, job: Callable[..., Any] | None = None) -> None:
        """Run the first job, or the first of this name."""
        wanted = self.jobs[0] if job is None else next(one for one in self.jobs if one[1] == job)
        self.jobs.remove(wanted)
        on_result, call, args = wanted
        try:
            result = call(*args)
        except Exception:  # whatever it was, as a thread pool does
            on_result(False, Failure())
        else:
            on_result(True, result)

    def run(self) -> None:
        """Run jobs until none is left."""
        while self.jobs:
            self.run_one()


class Threads(PoolByHand):
    """The threads of store and inbox in one, so that the test says what happens when."""

    def __init__(self) -> None:
        super().__init__(1, 1, "store and inbox")
        self.names: list[str] = []

    def one(self, name: str) -> Threads:
        self.names.append(name)
        return self

    def stop(self) -> None:
        self.names.pop()
        self.stopped = not self.names


def finished(coroutine: Any, *pools: PoolByHand) -> Deferred[None]:
    """Begin to await `coroutine` and run what the pools are given, as far as that goes."""
    ended = ensureDeferred(coroutine)
    while any(pool.jobs for pool in pools):
        for pool in pools:
            pool.run()
    return ended


class SmscByHand:
    """The connection of a link, as intake sees it."""

    def __init__(self, link_name: str = "north") -> None:
        self.link_name = link_name
        self.writes: list[list[tuple[Message, int]]] = []

    def answer(self, pairs: Iterable[tuple[Message, int]]) -> None:
        self.writes.append(list(pairs))

    def statuses(self) -> list[tuple[int, int]]:
        """(sequence_number, command_status) in the order in which they were sent."""
        return [(message.sequence_number, status) for write in self.writes for message, status in write]


def headers(transport: StringTransport) -> list[tuple[int, ...]]:
    """(command_id, command_status, sequence_number) of each PDU that was written since the last time."""
    octets, found = transport.value(), []
    transport.clear()
    while octets:
        length, *header = HEADER.unpack_from(octets)
        found.append(tuple(header))
        octets = octets[length:]
    return found


def mo(number: int = 1, text: str | bytes = "K1:KEY-1", **fields: Any) -> Message:
    """A deliver_sm from MDN to our short code; `number` is its sequence_number."""
    values: dict[str, Any] = {
        "command_id": CommandId.DELIVER_SM,
        "sequence_number": number,
        "source_addr_ton": 1,
        "source_addr_npi": 1,
        "source_addr": MDN,
        "dest_addr_ton": 0,
        "dest_addr_npi": 0,
        "destination_addr": "10690001",
        "esm_class": 0,
        "data_coding": 0,
        "short_message": text.encode() if isinstance(text, str) else text,
    }
    return Message(**{**values, **fields})


def link(**options: Any) -> Link:
    """A ``[smsc.NAME]`` section."""
    required = {"hosts": ("smsc.example:2775",), "system_id": "kmp", "password": SecretRef(credential="smsc")}
    return Link(**{**required, **options})


def alarms(events):
    return [event["log_format"] for event in events if event["log_level"] is LogLevel.critical]
