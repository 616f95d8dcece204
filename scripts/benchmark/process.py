"""What a process has used, as Linux tells it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")


def cpu_s(pid: int) -> float:
    """Processor seconds that it used so far, in all threads."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS  # utime and stime: fields 14 and 15 of proc(5)


def peak_octets(pid: int) -> int:
    """The most memory that it ever held."""
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
