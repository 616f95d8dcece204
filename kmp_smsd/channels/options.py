"""What the options of every kind of channel have in common: the ``[channel]`` table of ``platforms.d/NAME.toml``."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from kmp_smsd.channels.host import Host

FORM = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)

Window = Annotated[
    int,
    Field(
        default=1_000,
        ge=1,
        le=10_000,
        description="Deliveries sent and not yet answered, at most; the receiver may ask for less.",
    ),
]
ConnectWithin = Annotated[
    float,
    Field(default=10.0, gt=0, le=300, description="Seconds to connect to one host, from TCP to the receiver's hello."),
]
AnswerWithin = Annotated[
    float,
    Field(
        default=30.0,
        gt=0,
        le=3600,
        description="Seconds without any answer, while one is owed, after which the connection is given up.",
    ),
]
MaxLine = Annotated[
    int, Field(default=65_536, ge=1024, le=1_048_576, description="Longest line accepted from the platform, in octets.")
]


class SecretRef(BaseModel):
    """Where a secret is found; the secret itself never stands in a configuration file. Exactly one is given."""

    model_config = FORM

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


@dataclass(frozen=True, slots=True)
class Pin:
    """What a host proves who it is by: `host` where it names one, else every host of the platform."""

    host: Host | None

    def is_for(self, host: Host) -> bool:
        return self.host is None or self.host == host


def check_pins(option: str, pins: Sequence[Pin], hosts: Sequence[Host]) -> None:
    """Raises ValueError with a sentence where a pin is for none of `hosts`, or one of them has no pin."""
    for pin in pins:
        if pin.host is not None and pin.host not in hosts:
            raise ValueError(f"{option} names {pin.host}, which is not one of hosts")
    for host in hosts:
        if not any(pin.is_for(host) for pin in pins):
            raise ValueError(f"{option} has no key for {host}")
