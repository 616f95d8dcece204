"""Lines to and from a receiver behind TLS."""

from __future__ import annotations

import ssl
import time
from collections.abc import Collection

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.protocol import ChannelDown, NotLetIn
from kmp_smsd.channels.stream import Stream
from kmp_smsd.channels.tls_connection import TlsConnection, tls_reason
from kmp_smsd.channels.tls_identity import TlsIdentity

# In the alerts of RFC 8446, section 6.2, by which a server refuses a client.
_OF_OUR_CERTIFICATE = ("CERTIFICATE", "UNKNOWN_CA", "ACCESS_DENIED")


class TlsStream(Stream):
    """The far side of `connection`, whose key is pinned, and which knows us by `identity`."""

    def __init__(
        self, host: Host, connection: TlsConnection, fingerprint: str, identity: TlsIdentity, max_line_octets: int
    ) -> None:
        super().__init__(host, fingerprint, max_line_octets)
        self.certificate_ends_at = identity.valid_until.timestamp()
        self._connection = connection
        self._our_fingerprint = identity.fingerprint

    def send(self, octets: bytes, within_s: float, keys: Collection[bytes]) -> None:
        """As every stream does."""
        try:
            self._connection.send(octets, within_s)
        except TimeoutError:
            raise self.down(f"takes no data since {within_s:g} s", keys) from None
        except OSError as error:
            raise self._broken(error, keys) from None

    def receive(self, within_s: float, keys: Collection[bytes]) -> list[bytes]:
        """As every stream does."""
        deadline = time.monotonic() + within_s
        while True:
            try:
                octets = self._connection.receive(deadline)
            except TimeoutError:
                raise self.down(f"no answer for {within_s:g} s", keys) from None
            except OSError as error:
                raise self._broken(error, keys) from None
            if not octets:
                raise self.down("the receiver ended", keys)
            if lines := self._lines(octets, keys):
                return lines

    def _hang_up(self) -> None:
        self._connection.close()

    def _broken(self, error: OSError, keys: Collection[bytes]) -> ChannelDown:
        cause = self._connection.cause(error)
        if not isinstance(cause, ssl.SSLError) or "ALERT" not in (cause.reason or ""):
            return self.down("the connection broke", keys)
        # In TLS 1.3 a server judges our certificate after the handshake: what comes next tells of it.
        if not any(word in str(cause.reason) for word in _OF_OUR_CERTIFICATE):
            return self.down(f"the host ended the connection: {tls_reason(cause)}", keys)
        why = (
            "takes no certificate with a key like ours: make one with a key of ecdsa secp256r1"
            if "CERTIFICATE_REQUIRED" in str(cause.reason)  # we have one, and send none of a kind that it cannot check
            else f"refused our certificate ({tls_reason(cause)}), whose key is {self._our_fingerprint}; "
            "the platform's administrator has to let it in"
        )
        return NotLetIn(str(self.down(why, keys)))
