"""Lines to and from a command on the far side of an SSH connection."""

from __future__ import annotations

import logging
import time
from collections.abc import Collection
from contextlib import suppress

import paramiko

from kmp_smsd.channels.hiding import ALLOWANCE, EXAMINED_CHARACTERS, presentable, weight
from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown
from kmp_smsd.channels.ssh_options import fingerprint
from kmp_smsd.channels.stream import Stream

log = logging.getLogger(__name__)

READ_OCTETS = 262_144
DRAINED_READS = 8  # at a time; as much as SSH lets the far side send unread, so nobody talks without an end
DRAIN_EVERY_S = 1.0  # how long the far side's standard error may wait for us
EXIT_STATUS_WITHIN_S = 1.0  # it comes right after the end of the stream, or never
LOGGED_LINES = 100  # of standard error, per connection: a peer may not fill our log
LOOKS = 20_000  # of a line for a key, per connection: each takes a fifth of a millisecond of the processor


class SshStream(Stream):
    """One command's standard input and output as lines; its standard error goes to the log, hiding keys."""

    def __init__(
        self, name: str, host: Host, transport: paramiko.Transport, command: str, max_line_octets: int
    ) -> None:
        """Run `command`. `name` is the platform's, for the log.

        The host key of `transport` was found to be the right one.
        """
        self._host_key = transport.get_remote_server_key().asbytes()
        super().__init__(host, fingerprint(self._host_key), max_line_octets)
        self._name = name
        self._transport = transport
        self._muttered = b""  # on standard error, its line not yet ended
        self._last_said = b""  # there
        self._allowance = ALLOWANCE  # for all lines of standard error: a key may come in one octet a line
        self._logged = self._looks = 0
        self._quiet = False  # of the log
        self._channel = transport.open_session()
        self._channel.exec_command(command)

    def send(self, octets: bytes, within_s: float, keys: Collection[bytes]) -> None:
        """As every stream does.

        Nothing is sent to a host that showed another key when the connection was given new session keys (RFC 4253,
        section 9): paramiko takes any.
        """
        self._channel.settimeout(within_s)
        try:
            if self._transport.get_remote_server_key().asbytes() != self._host_key:
                raise self.down("the host key changed on a live connection", keys)
            self._channel.sendall(octets)
        except TimeoutError:
            raise self.down(f"takes no data since {within_s:g} s", keys) from None
        except (OSError, EOFError, paramiko.SSHException):
            raise self._ended(keys) from None

    def receive(self, within_s: float, keys: Collection[bytes]) -> list[bytes]:
        """As every stream does; looks at standard error meanwhile."""
        deadline = time.monotonic() + within_s
        while True:
            remaining = deadline - time.monotonic()
            # However late we are ourselves, what has come is read.
            self._channel.settimeout(max(0.0, min(DRAIN_EVERY_S, remaining)))
            octets: bytes | None = None
            with suppress(TimeoutError):
                octets = self._channel.recv(READ_OCTETS)
            self._drain(keys)
            if octets == b"":
                raise self._ended(keys)
            if octets and (lines := self._lines(octets, keys)):
                return lines
            if remaining <= 0:
                raise self.down(f"no answer for {within_s:g} s", keys)

    def _hang_up(self) -> None:
        self._transport.close()

    def _last_words(self, keys: Collection[bytes]) -> str:
        return self._presentable(self._muttered or self._last_said, keys)

    def _ended(self, keys: Collection[bytes]) -> ChannelDown:
        # Where the whole connection broke there is no status, and no use in waiting for it.
        if self._transport.is_active():
            self._channel.status_event.wait(EXIT_STATUS_WITHIN_S)
        self._drain(keys)
        status = self._channel.exit_status
        if 0 <= status <= 255:  # SSH has room for 4 octets, a process has one
            return self.down(f"the receiver ended with exit status {status}", keys)
        return self.down("the connection broke", keys)

    def _drain(self, keys: Collection[bytes]) -> None:
        for _ in range(DRAINED_READS):
            if not self._channel.recv_stderr_ready():
                return
            octets: bytes = self._channel.recv_stderr(READ_OCTETS)
            if not octets:
                return
            *lines, self._muttered = (self._muttered + octets).split(b"\n")
            self._muttered = self._muttered[:EXAMINED_CHARACTERS]
            for line in filter(None, map(bytes.strip, lines)):
                self._last_said = line
                self._log(line, keys)

    def _log(self, line: bytes, keys: Collection[bytes]) -> None:
        if self._quiet:  # nothing more of it is looked at: hiding keys costs time
            return
        self._logged += 1
        self._looks += len(keys)
        if self._logged <= LOGGED_LINES and self._looks <= LOOKS:
            said = self._presentable(line, keys)
            self._allowance = max(0, self._allowance - weight(said))
            told = {"event": "platform_says", "platform": self._name, "said": said}
            log.info("platform %s says: %s", self._name, said, extra=told)
        else:
            self._quiet = True
            log.warning(
                "platform %s says much: its standard error is no longer logged",
                self._name,
                extra={"event": "platform_says_much", "platform": self._name},
            )

    def _presentable(self, line: bytes, keys: Collection[bytes]) -> str:
        return presentable(line.decode("latin-1"), keys, allowance=self._allowance)
