"""tshark as a judge: streams of SMPP go in as a capture file, each PDU as tshark understands it comes out."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterable, Iterator
from functools import cache
from itertools import count
from pathlib import Path
from struct import pack
from typing import NamedTuple

import pytest

SMSC_PORT = 2775
RESPONSE = 0x80000000
_LINKTYPE_RAW_IP = 101
_SEGMENT_OCTETS = 60_000
_FIELDS = (
    "tcp.stream",
    "smpp.command_length",
    "smpp.command_id",
    "smpp.command_status",
    "smpp.sequence_number",
    "_ws.malformed",
    "_ws.expert.message",
)


class Seen(NamedTuple):
    """One PDU in the eyes of tshark."""

    stream: int
    command_length: int
    command: str  # as in the specification
    command_status: int
    sequence_number: int


def require_tshark() -> None:
    if shutil.which("tshark") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have tshark: scripts/install-peers")
        pytest.skip("no tshark on this machine: run scripts/install-peers")


def dissect(streams: Iterable[Iterable[bytes]], capture: Path) -> tuple[list[Seen], list[str]]:
    """Return the PDUs of all streams, in order, and whatever tshark finds wrong; `capture` is written on the way.

    A stream is a list of writes to the SMSC, in the order in which they were made.
    """
    capture.write_bytes(b"".join(_pcap(streams)))
    command = ["tshark", "-n", "-r", str(capture), "-d", f"tcp.port=={SMSC_PORT},smpp", "-T", "fields"]
    command += ["-E", "occurrence=a", "-E", "aggregator=;"]
    for field in _FIELDS:
        command += ["-e", field]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"tshark ended with {done.returncode}: {done.stderr}")
    names = command_names()
    seen: list[Seen] = []
    faults: list[str] = []
    for line in done.stdout.splitlines():
        stream, lengths, ids, statuses, numbers, malformed, expert = line.split("\t")
        if malformed or expert:
            faults.append(f"connection {stream}: {malformed} {expert}")
        status_of_response = iter(_numbers(statuses))  # a request has none
        for length, command_id, sequence_number in zip(*map(_numbers, (lengths, ids, numbers)), strict=True):
            status = next(status_of_response) if command_id & RESPONSE else 0
            seen.append(Seen(int(stream), length, names.get(command_id, "unknown"), status, sequence_number))
    return seen, faults


@cache
def command_names() -> dict[int, str]:
    """The names that tshark itself has for values of command_id."""
    values = subprocess.run(["tshark", "-G", "values"], capture_output=True, timeout=60, check=True).stdout
    rows = (line.split("\t") for line in values.decode("utf-8", "replace").splitlines())
    return {int(row[2], 0): row[3].lower().replace(" - ", "_") for row in rows if row[1:2] == ["smpp.command_id"]}


def _numbers(field: str) -> list[int]:
    return [int(value, 0) for value in field.split(";")] if field else []


def _pcap(streams: Iterable[Iterable[bytes]]) -> Iterator[bytes]:
    yield pack("<IHHiIII", 0xA1B2C3D4, 2, 4, 0, 0, 262_144, _LINKTYPE_RAW_IP)
    clock = count(1)
    for number, writes in enumerate(streams):
        source = pack(">I", 0x0A000001 + number)  # 10.0.0.1 and on: each stream is a host of its own
        position = 1
        for write in writes:
            for start in range(0, len(write), _SEGMENT_OCTETS):
                segment = write[start : start + _SEGMENT_OCTETS]
                packet = _tcp(source, position, segment)
                yield pack("<IIII", next(clock), 0, len(packet), len(packet)) + packet
                position += len(segment)


def _tcp(source: bytes, position: int, segment: bytes) -> bytes:
    destination = b"\xc0\x00\x02\x01"  # 192.0.2.1
    header = pack(">HHIIBBHHH", 40_000, SMSC_PORT, position & 0xFFFFFFFF, 1, 0x50, 0x18, 65_535, 0, 0)
    ip = pack(">BBHHHBBH4s4s", 0x45, 0, 40 + len(segment), 0, 0, 64, 6, 0, source, destination)
    return ip + header + segment
