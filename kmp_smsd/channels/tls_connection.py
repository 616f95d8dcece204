"""A TLS connection over a socket of ours.

The ssl module's own socket sends in clear once another thread has shut it down, and can only be waited on for one
direction at a time. This one has no way but through TLS, and takes in what comes while the far side takes nothing.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

READ_OCTETS = 262_144
TAKEN_IN_MAX = 8 * READ_OCTETS  # while sending: a far side that is owed no more answers must wait


def tls_reason(error: ssl.SSLError) -> str:
    """What OpenSSL found, or what the far side's alert says (RFC 8446, section 6), in words."""
    reason = error.reason or "the connection was closed"
    return (reason.partition("ALERT_")[2] or reason).replace("_", " ").lower()


class TlsConnection:
    """A TLS client on `connection`, which it closes. Used by one thread, but for `close`.

    Raises OSError; ssl.SSLError and TimeoutError are kinds of it.
    """

    def __init__(self, connection: socket.socket, context: ssl.SSLContext, server_name: str) -> None:
        connection.setblocking(False)
        self._socket = connection
        self._arrived, self._ready = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._arrived, self._ready, server_hostname=server_name)
        self._at_end = False  # of what comes
        self._lock = threading.Lock()  # of the two below
        self._busy = self._closed = False

    def handshake(self, deadline: float) -> None:
        """Shake hands until `deadline` (monotonic seconds). Whose certificate it is, is not judged."""
        self._complete(self._tls.do_handshake, deadline)

    @property
    def certificate(self) -> bytes:
        """The certificate of the far side, in DER, of whose private key the handshake was the proof."""
        return self._tls.getpeercert(binary_form=True) or b""

    def send(self, octets: bytes, within_s: float) -> None:
        """Send all of `octets`. TimeoutError where the far side takes none of them for `within_s`."""
        with self._in_use():
            left = memoryview(octets)
            while left:
                left = left[self._tls.write(left) :]
            self._flush(within_s)

    def receive(self, deadline: float) -> bytes:
        """What has come, at least one octet; b"" where the far side has ended the connection in order.

        However late it is, what is there is read.
        """
        return self._complete(lambda: self._tls.read(READ_OCTETS), deadline)

    def cause(self, error: OSError) -> OSError:
        """What made the far side hang up, where it said so before `error` told that it did; else `error`."""
        if isinstance(error, ssl.SSLError):
            return error
        try:
            while self.receive(deadline=0.0):
                pass
        except ssl.SSLError as alert:
            return alert
        except OSError:
            pass
        return error

    def close(self) -> None:
        """Close the connection, from any thread; whoever waits on it is woken, and gets an OSError."""
        with self._lock:
            if not (self._busy or self._closed):
                self._say_goodbye()
            self._closed = True
            with suppress(OSError):  # not connected any more
                self._socket.shutdown(socket.SHUT_RDWR)
            if not self._busy:  # else its number might be another's while a thread still waits on it
                self._socket.close()

    def _say_goodbye(self) -> None:
        """Tell the far side that this is the end, or what it did wrong (RFC 8446, section 6)."""
        with suppress(OSError):
            self._tls.unwrap()
        with suppress(OSError):
            self._socket.send(self._ready.read())

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            self._busy = True
        try:
            yield
        finally:
            with self._lock:
                self._busy = False
                if self._closed:
                    self._socket.close()

    def _complete(self, step: Callable[[], bytes | None], deadline: float) -> bytes:
        """The result of `step`, which wants more octets until it has one."""
        with self._in_use():
            late = False
            while True:
                try:
                    result = step()
                except ssl.SSLWantReadError:
                    self._flush(max(0.0, deadline - time.monotonic()))
                    if late or not self._wait(select.POLLIN, deadline):
                        raise TimeoutError from None
                    late = time.monotonic() >= deadline  # what is there is read, but nobody may talk without an end
                    self._take_in()
                else:
                    self._flush(max(0.0, deadline - time.monotonic()))
                    return result or b""

    def _flush(self, within_s: float) -> None:
        """Send what TLS has made ready."""
        left = memoryview(self._ready.read())
        deadline = time.monotonic() + within_s
        while left:
            try:
                left = left[self._socket.send(left) :]
                deadline = time.monotonic() + within_s
            except BlockingIOError:
                self._wait_to_send(deadline)

    def _wait_to_send(self, deadline: float) -> None:
        """Wait until the far side takes something, which it may be unable to before we have taken what it says."""
        takes_in = not self._at_end and self._arrived.pending < TAKEN_IN_MAX
        found = self._wait(select.POLLOUT | (select.POLLIN if takes_in else 0), deadline)
        if not found:
            raise TimeoutError
        if takes_in and found & select.POLLIN:
            self._take_in()

    def _take_in(self) -> None:
        with suppress(BlockingIOError):
            if octets := self._socket.recv(READ_OCTETS):
                self._arrived.write(octets)
            else:
                self._arrived.write_eof()
                self._at_end = True

    def _wait(self, events: int, deadline: float) -> int:
        """Which of `events`, or a fault, there is; 0 after `deadline`."""
        poll = select.poll()
        poll.register(self._socket, events)
        for _, found in poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return found
        return 0
