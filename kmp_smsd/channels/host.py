"""Where a peer is reached: HOST:PORT, as people write it in every file."""

from __future__ import annotations

import re
from dataclasses import dataclass

_HOST = re.compile(r"(?:\[(?P<address>[0-9A-Za-z:._-]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::(?P<port>[0-9]{1,9}))?")

LABEL_MAX = 63  # RFC 1035, section 2.3.4; Python's resolver raises UnicodeError where there are more, or none


@dataclass(frozen=True, slots=True)
class Host:
    """A host name or address, and a TCP port."""

    name: str
    port: int

    @classmethod
    def parse(cls, text: object, *, default_port: int | None = None) -> Host:
        """Read ``host:port`` or ``[IPv6 address]:port``, where there is a `default_port` without the port too.

        Raises ValueError with a sentence.
        """
        match = _HOST.fullmatch(text) if isinstance(text, str) else None
        if match is None or (match["port"] is None and default_port is None):
            raise ValueError(
                'write "HOST:PORT" or "[IPV6]:PORT", as in "host.example:2775"'
                if default_port is None
                else f'write "HOST", "HOST:PORT" or "[IPV6]:PORT"; without a port it is {default_port}'
            )
        port = int(match["port"] or default_port or 0)
        if not 1 <= port <= 65535:
            raise ValueError(f"port {port} is not between 1 and 65535")
        name = match["address"] or match["name"]
        if not all(1 <= len(label) <= LABEL_MAX for label in name.removesuffix(".").split(".")):
            raise ValueError(f"a host name has 1 to {LABEL_MAX} characters between its dots")
        return cls(name, port)

    def __str__(self) -> str:
        return f"[{self.name}]:{self.port}" if ":" in self.name else f"{self.name}:{self.port}"
