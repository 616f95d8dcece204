"""A booted systemd to try things in; `boot-box` says how."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

BOOT = Path(__file__).with_name("boot-box")
ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "LANG": "C.UTF-8",
    "HOME": "/root",
    "DEBIAN_FRONTEND": "noninteractive",
}
SHELL = ["env", "-i", *(f"{name}={value}" for name, value in ENVIRONMENT.items()), "bash", "-euo", "pipefail", "-c"]


def lacking() -> str:
    """Why no box can be had here; '' where one can."""
    if os.geteuid() != 0:
        return "only root can boot a systemd of its own"
    missing = [name for name in ("systemctl", "nsenter", "unshare", "findmnt", "ip", "pgrep") if not shutil.which(name)]
    if missing or not Path("/lib/systemd/systemd").exists():
        return f"not installed: {', '.join(missing) or 'systemd'} (scripts/install-peers)"
    return "" if "cgroup2" in Path("/proc/self/mounts").read_text(encoding="utf-8") else "no cgroup v2 is mounted"


class Box:
    """The machine: its files below `root`, its commands through `run` and `ok`."""

    def __enter__(self) -> Box:
        self._boot = subprocess.Popen([BOOT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._boot.stdout is not None
        self._leader = self._boot.stdout.readline().strip()
        assert self._leader, "the box did not boot"
        self.root = Path("/proc", self._leader, "root")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._boot.communicate(timeout=60)

    def run(self, script: str, within_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Run a shell script as root in there; what it says on either stream is its output."""
        enter = ["nsenter", "-t", self._leader, "-a", "--", *SHELL, script]
        return subprocess.run(
            enter,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=within_s,
        )

    def ok(self, script: str, within_s: float = 120.0) -> str:
        """What a script prints that ends well."""
        done = self.run(script, within_s)
        assert done.returncode == 0, f"{script}\nexit status {done.returncode}:\n{done.stdout}\n{self.log()}"
        return done.stdout.rstrip("\n")

    def show(self, unit: str, *properties: str) -> list[str]:
        """Properties of a unit, in the order asked for."""
        said = self.ok(f"systemctl show {unit} --property={','.join(properties)}")
        found = dict(line.split("=", 1) for line in said.splitlines())
        return [found[name] for name in properties]

    def log(self, unit: str = "kmp-smsd-*", lines: int = 40) -> str:
        """The last lines of the journal of a unit."""
        return self.run(f"journalctl --sync; journalctl --no-pager --output=cat --lines={lines} --unit='{unit}'").stdout

    def put(self, path: str, text: str, mode: int = 0o640) -> None:
        """Write a file as root would, its directory too."""
        file = self.root / path.lstrip("/")
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(mode)

    def until(self, condition: Callable[[], bool], within_s: float = 30.0) -> None:
        """Wait for what happens in there."""
        deadline, pause = time.monotonic() + within_s, threading.Event()
        while not condition():
            assert time.monotonic() < deadline, f"waited too long\n{self.log()}"
            pause.wait(0.05)
