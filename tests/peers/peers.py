"""SMSCs that others wrote, as processes of their own, and a tap on the wire between them and the daemon."""

from __future__ import annotations

import fcntl
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from struct import unpack_from
from types import TracebackType
from typing import Any, NamedTuple

import pytest

from kmp_smsd.simulator.ports import ReservedPort
from tests.recording import SENT

HERE = Path(__file__).parent
NODE_MODULE = HERE.parents[1] / ".peers" / "node_modules" / "smpp"
DRIVE_SMPP = Path("/usr/lib/kannel/test/drive_smpp")
BEARERBOX_PORT = 13001  # drive_smpp knows no other
WITHIN_S = 20.0
POLL_S = 0.02
OCTETS = 65_536


class Pdu(NamedTuple):
    """A PDU as it was on the wire."""

    command_id: int
    command_status: int
    sequence_number: int
    body: bytes


def pdus(octets: bytes | bytearray) -> list[Pdu]:
    """Cut octets into PDUs; what is not whole at the end is left."""
    found, at = [], 0
    while len(octets) - at >= 16:
        length, *header = unpack_from(">IIII", octets, at)
        if not 16 <= length <= len(octets) - at:
            break
        found.append(Pdu(*header, bytes(octets[at + 16 : at + length])))
        at += length
    return found


class Watched:
    """Something that threads of its own change, and that a test waits for."""

    def __init__(self) -> None:
        self._changed = threading.Condition()

    def wait_for(self, what: str, condition: Callable[[], Any]) -> Any:
        """Return what `condition` gives once it is true. Raises TimeoutError that names `what`."""
        with self._changed:
            result = self._changed.wait_for(condition, WITHIN_S)
        if not result:
            raise TimeoutError(f"waited {WITHIN_S:g} s for {what}: {self}")
        return result


class Wire:
    """One connection between the daemon and an SMSC, and all that went over it."""

    def __init__(self) -> None:
        self.from_daemon = bytearray()
        self.from_smsc = bytearray()
        self.first_segment = b""  # from the SMSC
        self.open = True


class Tap(Watched):
    """A loopback port before an SMSC that keeps all that passes. Closed at first."""

    def __init__(self) -> None:
        super().__init__()
        self.wires: list[Wire] = []
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._closing = threading.Event()
        self._listening: socket.socket | None = None
        self._reserved = ReservedPort()
        self.port = self._reserved.number

    def __repr__(self) -> str:
        return f"{len(self.wires)} connections, said to the SMSC: {[pdus(wire.from_daemon) for wire in self.wires]}"

    def said(self, command_id: int) -> list[Pdu]:
        """The PDUs of one kind that the daemon sent, on all connections."""
        return [pdu for wire in self.wires for pdu in pdus(wire.from_daemon) if pdu.command_id == command_id]

    def open(self, smsc_port: int) -> None:
        """Lead new connections to the SMSC on `smsc_port`."""
        self._listening = socket.create_server(("127.0.0.1", self.port))
        self._start(self._accept, self._listening, smsc_port)

    def shut(self) -> None:
        """Refuse new connections; those that are open stay."""
        if self._listening is not None:
            self._listening.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept, which closes it
            self._listening = None

    def close(self) -> None:
        """End it all."""
        self._closing.set()
        self.shut()
        for each in self._sockets:
            _hang_up(each)
        for thread in self._threads:
            thread.join(WITHIN_S)

    def _start(self, call: Callable[..., None], *arguments: Any) -> None:
        thread = threading.Thread(target=call, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listening: socket.socket, smsc_port: int) -> None:
        with listening:
            while True:
                try:
                    daemon, _ = listening.accept()
                except OSError:  # shut
                    return
                smsc = self._connect(smsc_port)
                if smsc is None:
                    daemon.close()
                    return
                self._sockets += [daemon, smsc]
                self._start(self._carry, Wire(), daemon, smsc)

    def _connect(self, smsc_port: int) -> socket.socket | None:
        """A process that has just started may not listen yet, and the daemon must not see that."""
        for _ in range(int(WITHIN_S / POLL_S)):
            with suppress(ConnectionRefusedError):
                return socket.create_connection(("127.0.0.1", smsc_port))
            if self._closing.wait(POLL_S):
                break
        return None

    def _carry(self, wire: Wire, daemon: socket.socket, smsc: socket.socket) -> None:
        with self._changed:
            self.wires.append(wire)
        with daemon, smsc:
            back = threading.Thread(target=self._pass_on, args=(wire, smsc, daemon, wire.from_smsc), daemon=True)
            back.start()
            self._pass_on(wire, daemon, smsc, wire.from_daemon)
            back.join()
        with self._changed:
            wire.open = False
            self._changed.notify_all()

    def _pass_on(self, wire: Wire, one: socket.socket, other: socket.socket, kept: bytearray) -> None:
        data = b"-"
        while data:
            try:
                data = one.recv(OCTETS)
                if kept is wire.from_daemon:
                    SENT.add(wire, data, heard=True)
                with self._changed:
                    if kept is wire.from_smsc and not kept:
                        wire.first_segment = data
                    kept += data
                    self._changed.notify_all()
                other.sendall(data)
            except OSError:
                data = b""
        _hang_up(one)
        _hang_up(other)


def _hang_up(connection: socket.socket) -> None:
    with suppress(OSError):  # closed already
        connection.shutdown(socket.SHUT_RDWR)


class Peer(Watched):
    """An SMSC of ours on a library of others: it does what it is told and tells what it hears, in JSON lines."""

    def __init__(self, words: list[str], **behave: Any) -> None:
        super().__init__()
        self._words, self._behave = words, {"port": 0, **behave}
        self.port = 0
        self.start()

    def __repr__(self) -> str:
        return f"{self._words}: {self.told}"

    def start(self) -> None:
        """Start, or start again on the same port."""
        self.told: list[dict[str, Any]] = []
        self._process = subprocess.Popen(
            [*self._words, json.dumps({**self._behave, "port": self.port})],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, start_new_session=True, cwd=HERE,
        )  # fmt: skip
        self._listener = threading.Thread(target=self._listen, args=(self._process,), daemon=True)
        self._listener.start()
        self.port = self.wait_for("the SMSC to listen", lambda: self.told)[0]["port"]

    def kill(self) -> None:
        """kill -9."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        assert self._process.stdin is not None
        with suppress(OSError):
            self._process.stdin.close()
        self._listener.join(WITHIN_S)

    def order(self, *orders: dict[str, Any]) -> None:
        """Have it send PDUs, or octets."""
        assert self._process.stdin is not None
        self._process.stdin.write("".join(json.dumps(order) + "\n" for order in orders))
        self._process.stdin.flush()

    def heard(self, *command_ids: int) -> list[dict[str, Any]]:
        """The PDUs that it received, of these kinds."""
        return [told for told in list(self.told) if told.get("command_id") in command_ids]

    def bound(self, times: int = 1) -> dict[str, Any]:
        """Wait for the daemon to have sent so many binds; the last one."""
        binds = self.wait_for("the daemon to bind", lambda: self.heard(1, 9)[times - 1 :])
        return dict(binds[-1])

    def answers(self, *sequence_numbers: int, command_id: int = 0x80000005) -> list[int]:
        """Wait for the answer to each; their command_status."""

        def answered() -> dict[int, int] | None:
            found = {told["sequence_number"]: told["command_status"] for told in self.heard(command_id)}
            return found if found.keys() >= set(sequence_numbers) else None

        found = self.wait_for("answers", answered)
        return [found[number] for number in sequence_numbers]

    def _listen(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                with self._changed:
                    self.told.append(json.loads(line))
                    self._changed.notify_all()


def _missing(what: str) -> None:
    if os.environ.get("CI"):
        pytest.fail(f"CI must have {what}: scripts/install-peers")
    pytest.skip(f"no {what} on this machine: run scripts/install-peers")


def net_smpp(**behave: Any) -> Peer:
    """Perl's Net::SMPP."""
    perl = shutil.which("perl")
    if perl is None or subprocess.run([perl, "-MNet::SMPP", "-e", "1"], capture_output=True, check=False).returncode:
        _missing("Net::SMPP")
    return Peer(["perl", "net_smpp.pl"], **behave)


def node_smpp(**behave: Any) -> Peer:
    """npm's smpp."""
    if shutil.which("node") is None or not NODE_MODULE.exists():
        _missing("npm's smpp")
    return Peer(["node", "node_smpp.js"], **behave)


def _port_that_no_client_takes() -> int:
    """Below those that the kernel gives to connections: one of these took the port before drive_smpp listened."""
    while True:
        port = random.randrange(20_000, 32_000)
        with socket.socket() as free, suppress(OSError):
            free.bind(("", port))
            return port


def _is_listened_at(port: int) -> bool:
    """As the kernel tells."""
    lines = map(str.split, Path("/proc/net/tcp").read_text().splitlines()[1:])
    return any(line[1].endswith(f":{port:04X}") and line[3] == "0A" for line in lines)


class DriveSmpp:
    """Kannel's drive_smpp: sends `messages` messages to the first that binds as a receiver, and ends with the link.

    It listens on all interfaces, since it cannot be told otherwise.
    """

    def __init__(self, messages: int) -> None:
        self.port = _port_that_no_client_takes()
        self.process = subprocess.Popen(
            [DRIVE_SMPP, "-v", "1", "-p", str(self.port), "-m", str(messages)],
            stdin=subprocess.DEVNULL, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> DriveSmpp:
        """Once it listens: whoever connects to see whether it does would be its only connection."""
        deadline, pause = time.monotonic() + WITHIN_S, threading.Event()
        while not _is_listened_at(self.port):
            if self.process.poll() is not None or time.monotonic() > deadline:
                self.__exit__(None, None, None)
                raise TimeoutError(f"drive_smpp does not listen on port {self.port}")
            pause.wait(POLL_S)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@contextmanager
def bearerbox() -> Iterator[None]:
    """What drive_smpp wants to find on port 13001: somebody who listens. One test at a time, on the whole machine."""
    if not DRIVE_SMPP.exists():
        _missing("Kannel's drive_smpp")
    with (Path(tempfile.gettempdir()) / f"kmp-smsd-{BEARERBOX_PORT}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        try:
            listening = socket.create_server(("127.0.0.1", BEARERBOX_PORT))
        except OSError as error:
            pytest.fail(f"port {BEARERBOX_PORT}, which drive_smpp needs, is taken (a Kannel that runs?): {error}")
        with listening:
            yield
