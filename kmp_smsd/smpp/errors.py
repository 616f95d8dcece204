"""What can be wrong with what a peer sent. The class says what to do; the text is for people."""

from __future__ import annotations


class SmppError(Exception):
    """The peer did not keep to SMPP 3.4."""


class FramingError(SmppError):
    """The stream can no longer be cut into PDUs. Close the connection."""


class PduError(SmppError):
    """This PDU is bad, the stream is whole. Answer it with `command_status` and go on."""

    def __init__(self, command_status: int, reason: str) -> None:
        super().__init__(reason)
        self.command_status = command_status
