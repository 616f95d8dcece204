"""The options of a channel of kind ``ssh``: the ``[channel]`` table of ``platforms.d/NAME.toml``."""

from __future__ import annotations

import base64
import hashlib
from dataclasses import dataclass
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, Field, model_validator

from kmp_smsd.channels.host import Host
from kmp_smsd.channels.options import FORM, AnswerWithin, ConnectWithin, MaxLine, Pin, SecretRef, Window, check_pins

HOST_KEY_ALGORITHMS = (
    "ssh-ed25519",
    "ecdsa-sha2-nistp256",
    "ecdsa-sha2-nistp384",
    "ecdsa-sha2-nistp521",
    "ssh-rsa",
)

SSH_PORT = 22


def ssh_host(text: object) -> Host:
    """Read ``host``, ``host:port`` or ``[IPv6 address]:port``; raise ValueError with a sentence."""
    return Host.parse(text, default_port=SSH_PORT)


@dataclass(frozen=True, slots=True)
class HostKey(Pin):
    """A pinned public key."""

    algorithm: str
    blob: bytes

    @classmethod
    def parse(cls, text: object) -> HostKey:
        """Read ``[HOST] ALGORITHM BASE64 [COMMENT]``, a known_hosts line; raise ValueError with a sentence."""
        if not isinstance(text, str):
            raise ValueError("text in quotes is expected")
        words = text.split()
        host = None
        if words and words[0] not in HOST_KEY_ALGORITHMS:
            if len(words) == 1 or words[1] not in HOST_KEY_ALGORITHMS:
                raise ValueError(
                    f'{text[:40]!r} is not a host key: write "ssh-ed25519 AAAA..."; '
                    f"known are {', '.join(HOST_KEY_ALGORITHMS)}"
                )
            host = ssh_host(words.pop(0))
        if len(words) < 2:
            raise ValueError(f"{text[:40]!r} is not a host key: the base64 part is missing")
        algorithm, encoded = words[:2]
        try:
            blob = base64.b64decode(encoded, validate=True)
        except ValueError:  # of characters that are not ASCII too
            raise ValueError(f"the base64 part of the {algorithm} host key is damaged") from None
        # An SSH key blob begins with its own algorithm's name (RFC 4253, section 6.6).
        if not blob.startswith(len(algorithm).to_bytes(4, "big") + algorithm.encode()):
            raise ValueError(f"the base64 part is not that of a key of type {algorithm}")
        return cls(host, algorithm, blob)

    def text(self) -> str:
        """The form that `parse` reads."""
        key = f"{self.algorithm} {base64.b64encode(self.blob).decode()}"
        return key if self.host is None else f"{self.host} {key}"


def fingerprint(blob: bytes) -> str:
    """The fingerprint of a public key as OpenSSH shows it: ``SHA256:`` and base64 without padding."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(blob).digest()).rstrip(b"=").decode()


class SshOptions(BaseModel):
    """A platform reached over SSH, where kmp-receive or another receiver of docs/platform-protocol.rst answers."""

    model_config = FORM

    kind: Literal["ssh"] = Field(description="The kind of this channel.")
    hosts: tuple[Annotated[Host, BeforeValidator(ssh_host)], ...] = Field(
        min_length=1,
        max_length=16,
        description="The platform's hosts, as HOST or HOST:PORT (port 22 if none; IPv6 as [ADDRESS]:PORT), tried in "
        "this order. They must be doors to one store: what went through one is not sent through another.",
    )
    user: str = Field(
        pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.@-]{0,63}$", description="The user's name on the platform's hosts."
    )
    host_keys: tuple[Annotated[HostKey, BeforeValidator(HostKey.parse)], ...] = Field(
        min_length=1,
        description="The hosts' public keys, as ALGORITHM BASE64 for every host, or HOST ALGORITHM BASE64 for one of "
        "`hosts`. A host that shows another key gets neither our login nor any key. `kmp-smsd platforms trust NAME` "
        "prints the lines; compare the fingerprints with the platform's administrator.",
    )
    identity: SecretRef | None = Field(
        default=None,
        description="The private SSH key to log in with. Default: the common identity of this KMP. A credential is "
        "given to a service at its start only.",
        json_schema_extra={"reload": "needs a restart"},
    )
    command: str = Field(
        default="kmp-receive",
        min_length=1,
        max_length=1000,
        description="The command to run on the host; a forced command in its authorized_keys wins over it.",
    )
    window: Window
    connect_within_s: ConnectWithin
    answer_within_s: AnswerWithin
    max_line_octets: MaxLine

    @model_validator(mode="after")
    def _every_host_is_pinned(self) -> Self:
        check_pins("host_keys", self.host_keys, self.hosts)
        return self

    def pinned_for(self, host: Host) -> tuple[HostKey, ...]:
        """The keys that `host` may show."""
        return tuple(key for key in self.host_keys if key.is_for(host))
