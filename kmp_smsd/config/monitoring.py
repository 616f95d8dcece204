"""[monitoring] of kmp-smsd.toml."""

from __future__ import annotations

import ipaddress
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo

from kmp_smsd.channels.host import Host
from kmp_smsd.config.section import Section
from kmp_smsd.control.protocol import SOCKET_PATH_OCTETS_MAX

_WRITTEN = 'write "127.0.0.1:PORT", "[::1]:PORT" or "unix:/PATH"'


@dataclass(frozen=True, slots=True)
class LoopbackPort:
    """A TCP port that this machine alone reaches."""

    address: str
    port: int

    def __str__(self) -> str:
        return str(Host(self.address, self.port))


@dataclass(frozen=True, slots=True)
class SocketFile:
    """A unix stream socket, for whoever may open the file."""

    path: Path

    def __str__(self) -> str:
        return f"unix:{self.path}"


Listening = LoopbackPort | SocketFile


def _listening(value: object) -> Listening:
    if not isinstance(value, str):
        raise ValueError(_WRITTEN)
    if value.startswith("unix:"):
        return _socket_file(value.removeprefix("unix:"))
    try:
        host = Host.parse(value)
    except ValueError as error:
        raise ValueError(str(error) if str(error).startswith("port ") else _WRITTEN) from None
    try:
        address = ipaddress.ip_address(host.name)
    except ValueError:
        raise ValueError(f'"{host.name}" is a name, which may lead anywhere: {_WRITTEN}') from None
    if not address.is_loopback:
        raise ValueError(
            f"{address} is open to the network, and there is no login: {_WRITTEN}, "
            "and put a proxy with a login before it where others shall read it"
        )
    return LoopbackPort(str(address), host.port)


def _socket_file(path: str) -> SocketFile:
    if not path.startswith("/") or "\0" in path or path.endswith("/"):
        raise ValueError('write a socket as "unix:/PATH", from the root on')
    if len(os.fsencode(path)) > SOCKET_PATH_OCTETS_MAX:
        raise ValueError(f"a socket's path has {SOCKET_PATH_OCTETS_MAX} octets at most")
    return SocketFile(Path(path))


def _listening_elsewhere(value: object, info: ValidationInfo) -> Listening:
    listening = _listening(value)
    if listening == info.data.get("intake"):
        raise ValueError("intake listens there already, and each role answers for itself")
    return listening


_WHERE = (
    'listens for Prometheus and browsers: "127.0.0.1:PORT", "[::1]:PORT" or "unix:/PATH". It answers GET only, without '
    "a login: /metrics, /healthz, /readyz, /status.json and a status page (docs/monitoring.rst)."
)


class Monitoring(Section):
    """Where metrics, health and a status page are read. Nothing can be changed there, and no number or key is shown."""

    intake: Annotated[Listening, BeforeValidator(_listening)] | None = Field(
        default=None, description=f"Where intake {_WHERE}", json_schema_extra={"role": "intake"}
    )
    dispatch: Annotated[Listening, BeforeValidator(_listening_elsewhere)] | None = Field(
        default=None, description=f"Where dispatch {_WHERE}", json_schema_extra={"role": "dispatch"}
    )
