"""The floor: an ESME that decodes by hand, stores one durable row per message with group commit, and answers.

It looks up nothing, decides nothing and binds nothing. Whatever keeps messages before it answers is slower than this.
Runs as a process of its own, as the daemon does: ``floor.py DATABASE PORT LINKS``.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

from pysqlite3 import dbapi2 as sqlite3
from twisted.internet import reactor
from twisted.internet.endpoints import TCP4ClientEndpoint, connectProtocol
from twisted.internet.protocol import Protocol

from kmp_smsd.smpp.codec import HEADER
from kmp_smsd.smpp.constants import HEADER_OCTETS, CommandId

ANSWER_OCTETS = 17
Row = tuple["Esme", int, str, bytes]


class Rows:
    """What arrived while the last commit was running is the next transaction."""

    def __init__(self, database: str) -> None:
        self._connection = sqlite3.connect(database, isolation_level=None, check_same_thread=False)
        self._connection.executescript(
            "PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE m (a TEXT, t BLOB)"
        )
        self._wake = threading.Condition()
        self._arrived: list[Row] = []

    def add(self, rows: list[Row]) -> None:
        with self._wake:
            self._arrived += rows
            self._wake.notify()

    def store(self) -> None:
        """In a thread: commit and answer, for ever."""
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._arrived)
                batch, self._arrived = self._arrived, []
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO m VALUES (?, ?)", [row[2:] for row in batch])
            self._connection.execute("COMMIT")
            answers: dict[Esme, list[bytes]] = {}
            for esme, number, _, _ in batch:
                answers.setdefault(esme, []).append(HEADER.pack(ANSWER_OCTETS, 0x80000005, 0, number) + b"\0")
            reactor.callFromThread(_answer, answers)


def _answer(answers: dict[Esme, list[bytes]]) -> None:
    for esme, octets in answers.items():
        esme.transport.write(b"".join(octets))


class Esme(Protocol):
    """One link."""

    def __init__(self, add: Callable[[list[Row]], None]) -> None:
        self._add = add
        self._data = b""

    def connectionMade(self) -> None:
        self.transport.setTcpNoDelay(True)
        self.transport.write(HEADER.pack(23, CommandId.BIND_RECEIVER, 0, 1) + b"\0\0\0\x34\0\0\0")

    def dataReceived(self, data: bytes) -> None:
        data = self._data + data
        at, rows = 0, []
        while len(data) - at >= HEADER_OCTETS:
            length, command_id, _, number = HEADER.unpack_from(data, at)
            if len(data) - at < length:
                break
            if command_id == CommandId.DELIVER_SM:
                start = data.index(b"\0", at + 16) + 3
                end = data.index(b"\0", start)
                text = data.index(b"\0", end + 3) + 10
                rows.append((self, number, data[start:end].decode(), data[text : at + length]))
            at += length
        self._data = data[at:]
        self._add(rows)


def main(database: str, port: str, links: str) -> None:
    """Bind and answer until killed."""
    rows = Rows(database)
    threading.Thread(target=rows.store, daemon=True).start()
    for _ in range(int(links)):
        connectProtocol(TCP4ClientEndpoint(reactor, "127.0.0.1", int(port)), Esme(rows.add))
    reactor.run()


if __name__ == "__main__":
    main(*sys.argv[1:])
