"""The options of a channel of kind ``tls``."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import FORM, AnswerWithin, ConnectWithin, MaxLine, Pin, SecretRef, Window, check_pins

_ALGORITHM = "sha256//"
_FORM = 'write "sha256//BASE64", or "HOST:PORT sha256//BASE64" for one of hosts'


@dataclass(frozen=True, slots=True)
class ServerKey(Pin):
    """The SHA-256 digest of a certificate's public key, in DER as it stands there (RFC 7469, section 2.4).

    A certificate that is renewed for the same key needs no other.
    """

    digest: bytes

    @classmethod
    def of(cls, public_key: bytes, host: Host | None = None) -> ServerKey:
        """From a SubjectPublicKeyInfo in DER."""
        return cls(host, hashlib.sha256(public_key).digest())

    @classmethod
    def parse(cls, text: object) -> ServerKey:
        """Read ``[HOST:PORT] sha256//BASE64``; raise ValueError with a sentence."""
        if not isinstance(text, str):
            raise ValueError("text in quotes is expected")
        *named, pin = text.split() or [""]
        if len(named) > 1 or not pin.startswith(_ALGORITHM):
            raise ValueError(f"{text[:40]!r} is not a server key: {_FORM}")
        host = Host.parse(named[0]) if named else None
        try:
            digest = base64.b64decode(pin.removeprefix(_ALGORITHM), validate=True)
        except ValueError:  # of characters that are not ASCII too
            digest = b""
        if len(digest) != hashlib.sha256().digest_size:
            raise ValueError("the base64 part of the server key is damaged: it is that of 32 octets")
        return cls(host, digest)

    @property
    def fingerprint(self) -> str:
        """The digest as ``parse`` and curl's ``--pinnedpubkey`` read it."""
        return _ALGORITHM + base64.b64encode(self.digest).decode()

    def text(self) -> str:
        """The form that `parse` reads."""
        return self.fingerprint if self.host is None else f"{self.host} {self.fingerprint}"


class TlsOptions(BaseModel):
    """A platform reached over TLS 1.3: kmp-receive behind stunnel, or another of docs/platform-protocol.rst."""

    model_config = FORM

    kind: Literal["tls"] = Field(description="The kind of this channel.")
    hosts: tuple[Annotated[Host, BeforeValidator(Host.parse)], ...] = Field(
        min_length=1,
        max_length=16,
        description="The platform's hosts, as HOST:PORT (IPv6 as [ADDRESS]:PORT), tried in this order. They must be "
        "doors to one store: what went through one is not sent through another.",
    )
    server_keys: tuple[Annotated[ServerKey, BeforeValidator(ServerKey.parse)], ...] = Field(
        min_length=1,
        description="The public keys of the hosts' certificates, as sha256//BASE64 for every host, or HOST:PORT "
        "sha256//BASE64 for one of `hosts`. A host that shows another key gets no key of ours; who signed its "
        "certificate, and until when it is valid, is not asked. `kmp-smsd platforms trust NAME` prints the lines; "
        "compare them with the platform's administrator.",
    )
    identity: SecretRef = Field(
        description="Our certificate and its private key, both in PEM in one file: what the platform knows us by. A "
        "credential is given to a service at its start only.",
        json_schema_extra={"reload": "needs a restart"},
    )
    window: Window
    connect_within_s: ConnectWithin
    answer_within_s: AnswerWithin
    max_line_octets: MaxLine

    @model_validator(mode="after")
    def _every_host_is_pinned(self) -> Self:
        check_pins("server_keys", self.server_keys, self.hosts)
        return self

    def pinned_for(self, host: Host) -> tuple[ServerKey, ...]:
        """The keys that `host` may show."""
        return tuple(key for key in self.server_keys if key.is_for(host))
