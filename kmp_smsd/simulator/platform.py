"""A platform for machines without OpenSSH: an SSH server on loopback that runs kmp-receive for one authorized key."""

from __future__ import annotations

import contextlib
import io
import logging
import socket
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import IO

import paramiko

from kmp_smsd.simulator.openssh import new_identity

LOG = "kmp_smsd.simulator.paramiko"
logging.getLogger(LOG).setLevel(logging.CRITICAL)

HANDSHAKE_WITHIN_S = 30.0


class SimulatedPlatform:
    """Listens on loopback; the holder of the key `public` gets `command`, whatever they ask for, and nothing else.

    `address`, `host_key` and `user` are as those of OpensshServer.
    """

    def __init__(self, command: Sequence[str], public: str) -> None:
        self.user = "kmp"  # any name may log in
        private, self.host_key = new_identity()
        self._key = paramiko.Ed25519Key.from_private_key(io.StringIO(private.decode()))
        self._command = tuple(command)
        self._public = public.split()[1]
        self._listener: socket.socket | None = None
        self._port = 0
        self._connections: set[paramiko.Transport] = set()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self._port}"

    def start(self) -> None:
        """Start listening; after a stop on the same port."""
        self._listener = socket.create_server(("127.0.0.1", self._port))
        self._port = self._listener.getsockname()[1]
        self._acceptor = threading.Thread(target=self._accept, args=(self._listener,), daemon=True)
        self._acceptor.start()

    def stop(self) -> None:
        """End the listener and every connection; their receivers see the end of their input."""
        if self._listener is None:
            return
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the acceptor, which close() does not
        self._listener.close()
        self._listener = None
        self._acceptor.join()
        for transport in self._connections:
            transport.close()
        self._connections.clear()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self._connections = {transport for transport in self._connections if transport.is_active()}
            transport = paramiko.Transport(connection)
            transport.set_log_channel(LOG)
            transport.banner_timeout = transport.handshake_timeout = transport.auth_timeout = HANDSHAKE_WITHIN_S
            transport.add_server_key(self._key)
            # With an event it returns at once: one slow client holds up no other.
            transport.start_server(event=threading.Event(), server=_Session(self._command, self._public))
            self._connections.add(transport)


class _Session(paramiko.ServerInterface):  # type: ignore[misc]  # paramiko has no types
    """What one client may do: log in with the authorized key, and run the forced command."""

    def __init__(self, command: Sequence[str], public: str) -> None:
        self._command = command
        self._public = public

    def get_allowed_auths(self, username: str) -> str:  # noqa: ARG002  paramiko asks so
        return "publickey"

    def check_auth_publickey(self, username: str, key: paramiko.PKey) -> int:  # noqa: ARG002  paramiko asks so
        allowed = key.get_base64() == self._public
        return int(paramiko.AUTH_SUCCESSFUL if allowed else paramiko.AUTH_FAILED)

    def check_channel_request(self, kind: str, chanid: int) -> int:  # noqa: ARG002  paramiko asks so
        allowed = kind == "session"
        return int(paramiko.OPEN_SUCCEEDED if allowed else paramiko.OPEN_FAILED_ADMINISTRATIVELY_PROHIBITED)

    def check_channel_exec_request(self, channel: paramiko.Channel, command: bytes) -> bool:  # noqa: ARG002  paramiko asks so
        threading.Thread(target=_run, args=(channel, self._command), daemon=True).start()
        return True


def _run(channel: paramiko.Channel, command: Sequence[str]) -> None:
    """Join `channel` to a run of `command` until either ends."""
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        pumps = [
            threading.Thread(target=_pump, args=(process.stdout, channel.sendall), daemon=True),
            threading.Thread(target=_pump, args=(process.stderr, channel.sendall_stderr), daemon=True),
        ]
        for pump in pumps:
            pump.start()
        feeder = threading.Thread(target=_feed, args=(channel, process.stdin), daemon=True)
        feeder.start()
        for pump in pumps:
            pump.join()
        status = process.wait()
        with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
            channel.send_exit_status(status if status >= 0 else 128 - status)
            channel.close()
        feeder.join()


def _pump(source: IO[bytes], send: Callable[[bytes], None]) -> None:
    with contextlib.suppress(OSError, EOFError, paramiko.SSHException):
        while octets := source.read(65_536):
            send(octets)
    # Nobody reads any more: the command shall not wait for us for ever.
    while source.read(65_536):
        continue


def _feed(channel: paramiko.Channel, sink: IO[bytes]) -> None:
    with contextlib.suppress(OSError):
        while octets := channel.recv(65_536):
            view = memoryview(octets)
            while view:
                view = view[sink.write(view) :]
    with contextlib.suppress(OSError):
        sink.close()
