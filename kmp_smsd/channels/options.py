"""The options of a channel of kind ``ssh``: the ``[channel]`` table of ``platforms.d/NAME.toml``."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from kmp_smsd.channels.host import Host

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
class HostKey:
    """A pinned public key: of `host` where it names one, else of every host of the platform."""

    algorithm: str
    blob: bytes
    host: Host | None = None

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
        except binascii.Error:
            raise ValueError(f"the base64 part of the {algorithm} host key is damaged") from None
        # An SSH key blob begins with its own algorithm's name (RFC 4253, section 6.6).
        if not blob.startswith(len(algorithm).to_bytes(4, "big") + algorithm.encode()):
            raise ValueError(f"the base64 part is not that of a key of type {algorithm}")
        return cls(algorithm, blob, host)

    def text(self) -> str:
        """The form that `parse` reads."""
        key = f"{self.algorithm} {base64.b64encode(self.blob).decode()}"
        return key if self.host is None else f"{self.host} {key}"

    def is_for(self, host: Host) -> bool:
        return self.host is None or self.host == host


class SecretRef(BaseModel):
    """Where a secret is found; the secret itself never stands in a configuration file. Exactly one is given."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

    credential: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*$",
        description="Name of a systemd credential (LoadCredential= of the unit), a file in $CREDENTIALS_DIRECTORY.",
    )
    file: Path | None = Field(default=None, description="Absolute path of a file that only the daemon's user can read.")

    @model_validator(mode="after")
    def _exactly_one(self) -> Self:
        if (self.credential is None) == (self.file is None):
            raise ValueError('give either {credential = "NAME"} or {file = "/PATH"}')
        if self.file is not None and not self.file.is_absolute():
            raise ValueError("the path of a secret's file must be absolute")
        return self


class SshOptions(BaseModel):
    """A platform reached over SSH, where kmp-receive or another receiver of docs/platform-protocol.rst answers."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

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
    window: int = Field(
        default=1_000,
        ge=1,
        le=10_000,
        description="Deliveries sent and not yet answered, at most; the receiver may ask for less.",
    )
    connect_within_s: float = Field(
        default=10.0, gt=0, le=300, description="Seconds to connect to one host, from TCP to the receiver's hello."
    )
    answer_within_s: float = Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds without any answer, while one is owed, after which the connection is given up.",
    )
    max_line_octets: int = Field(
        default=65_536, ge=1024, le=1_048_576, description="Longest line accepted from the platform, in octets."
    )

    @model_validator(mode="after")
    def _every_host_is_pinned(self) -> Self:
        for pinned in self.host_keys:
            if pinned.host is not None and pinned.host not in self.hosts:
                raise ValueError(f"host_keys names {pinned.host}, which is not one of hosts")
        for host in self.hosts:
            if not self.pinned_for(host):
                raise ValueError(f"host_keys has no key for {host}")
        return self

    def pinned_for(self, host: Host) -> tuple[HostKey, ...]:
        """The keys that `host` may show."""
        return tuple(key for key in self.host_keys if key.is_for(host))
