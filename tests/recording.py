"""Every octet that we send to an SMSC while the tests run, whatever the test, for tshark to judge at the end."""

from __future__ import annotations

import functools
import threading
import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import pytest

from kmp_smsd.simulator.lab import Lab
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.simulator.smsc_session import SmscSession
from kmp_smsd.smpp.session import EsmeSession


@dataclass(slots=True)
class Stream:
    """What was sent on one connection, as it was cut into writes."""

    writes: list[bytes] = field(default_factory=list)
    heard: bool = False  # at the other end: the last PDU may be cut where the sender was killed

    def __bytes__(self) -> bytes:
        return b"".join(self.writes)


class Recording:
    """Streams. Any thread may add."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_connection: weakref.WeakKeyDictionary[Any, Stream] = weakref.WeakKeyDictionary()
        self._all: list[Stream] = []

    def add(self, connection: object, data: bytes, *, heard: bool) -> None:
        """Add what was sent next on `connection`, whatever object stands for it."""
        if data:
            with self._lock:
                if connection not in self._by_connection:
                    self._all.append(self._by_connection.setdefault(connection, Stream(heard=heard)))
                self._by_connection[connection].writes.append(data)

    def streams(self) -> list[Stream]:
        """Return the streams; of those that are octet for octet alike only one."""
        with self._lock:
            return list({(bytes(stream), stream.heard): stream for stream in self._all}.values())


SENT = Recording()


def record(patch: pytest.MonkeyPatch) -> None:
    """Record what sessions in this process send, and what the SMSC of a Lab hears from a daemon of its own."""
    smscs_of_labs: weakref.WeakSet[SmscServer] = weakref.WeakSet()
    start, data_to_send, received = Lab.start, EsmeSession.data_to_send, SmscSession.dataReceived

    @functools.wraps(start)
    def know_and_start(lab: Lab) -> None:
        smscs_of_labs.add(lab.smsc)
        start(lab)

    @functools.wraps(data_to_send)
    def send_and_record(session: EsmeSession) -> bytes:
        data = data_to_send(session)
        SENT.add(session, data, heard=False)
        return data

    @functools.wraps(received)
    def record_and_receive(session: SmscSession, data: bytes) -> None:
        if any(server._smsc is session.smsc for server in smscs_of_labs):
            SENT.add(session, data, heard=True)
        received(session, data)

    patch.setattr(Lab, "start", know_and_start)
    patch.setattr(EsmeSession, "data_to_send", send_and_record)
    patch.setattr(SmscSession, "dataReceived", record_and_receive)


def recorded() -> Iterator[None]:
    """For a fixture of the whole run."""
    with pytest.MonkeyPatch.context() as patch:
        record(patch)
        yield
