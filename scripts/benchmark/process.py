"""What a process has used, as Linux tells it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


class Meter:
    """What a process and the ones that it began use from now on."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._before_s = self._cpu_s()

    @property
    def used_s(self) -> list[float]:
        """Processor seconds of each, in all its threads."""
        return [used - self._before_s.get(pid, 0.0) for pid, used in self._cpu_s().items()]

    @property
    def peak_octets(self) -> int:
        """The most memory that each ever held, added up."""
        return sum(_peak_octets(pid) for pid in self._pids())

    def _cpu_s(self) -> dict[int, float]:
        used: dict[int, float] = {}
        for pid in self._pids():
            fields = _stat(pid)
            used[pid] = (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime: fields 14 and 15 of proc(5)
        return used

    def _pids(self) -> list[int]:
        pids = [int(one.name) for one in Path("/proc").iterdir() if one.name.isdigit()]
        return [self._pid, *(pid for pid in pids if _parent(pid) == self._pid)]


def _stat(pid: int) -> list[str]:
    """The fields of proc(5) from the third on."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _parent(pid: int) -> int | None:
    try:
        return int(_stat(pid)[1])
    except (FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
        return None


def _peak_octets(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError(f"process {pid} tells no VmHWM")


@contextmanager
def started(*words: object) -> Iterator[subprocess.Popen[bytes]]:
    """A Python program that runs until the block ends."""
    process = subprocess.Popen([sys.executable, *map(str, words)])
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def limit(took_s: float, generator: float, used_s: Sequence[float]) -> str:
    """What held a figure back: who used nearly all of a processor; else the disk, each other, or other load."""
    if generator > 0.9:
        return "the generator"
    if max(used_s) / took_s > 0.9:
        return "its processor"
    if generator + sum(used_s) / took_s > 0.9 * (os.cpu_count() or 1):
        return "all processors"
    return "waiting"
