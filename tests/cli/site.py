"""One installation's files, and the command line run on it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from click.testing import CliRunner, Result

from kmp_smsd.cli.program import program
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import SyncRequest
from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.outbox import Confirm
from tests.storage.fresh import new_database

HOST_KEY = f"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI{'A' * 43}"
FIRST, SECOND, THIRD = "8613800000001", "8613800000002", "8613800000003"

MAIN = """\
[storage]
path = "kmp.db"
[secrets]
public_key = "master.pub"
master_key = {{file = "{directory}/master.key"}}
ssh_identity = {{file = "{directory}/ssh-identity"}}
[control]
directory = "control"
[numbering]
country_code = "86"
ranges = [{{prefix = "8613", digits = 13, name = "mobile"}}]
"""

LINK = """\
[smsc.lab]
hosts = ["127.0.0.1:{port}"]
system_id = "esme"
password = {{file = "{directory}/smsc-password"}}
"""

PLATFORM = """\
apps = ["meter", "tracker"]
[channel]
kind = "ssh"
hosts = ["{host}"]
user = "kmp"
host_keys = ["{host_key}"]
"""


def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    """Wait for what another process does."""
    deadline, pause = time.monotonic() + within_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        pause.wait(0.02)


@contextmanager
def dead_port() -> Iterator[int]:
    """A port at which nobody listens, and which the kernel gives to nobody else meanwhile."""
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        yield reserved.getsockname()[1]


class Site:
    """Commands run in this process; `process` runs one as users do."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.config = directory / "kmp-smsd.toml"
        self.database = directory / "kmp.db"
        directory.chmod(0o750)
        (directory / "control").mkdir(mode=0o750, exist_ok=True)
        self.write("kmp-smsd.toml", MAIN.format(directory=directory))
        self.platform("metering", "keys.example")

    def write(self, name: str, text: str) -> Path:
        path = self.directory / name
        path.parent.mkdir(mode=0o750, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        path.chmod(0o640)
        return path

    def platform(self, name: str, host: str, host_key: str = HOST_KEY) -> Path:
        return self.write(f"platforms.d/{name}.toml", PLATFORM.format(host=host, host_key=host_key))

    def keys(self, *key_ids: str) -> Path:
        lines = [f"{key_id},{number:032x}" for number, key_id in enumerate(key_ids, 1)]
        return self.write("keys.csv", "\n".join(["key_id,key", *lines]) + "\n")

    def run(self, *words: str, **env: str) -> Result:
        return CliRunner(env=env).invoke(program, ["--config", str(self.config), *words])

    def ok(self, *words: str) -> str:
        """What a command that succeeds prints; what it says on standard error comes last."""
        done = self.run(*words)
        assert done.exit_code == 0, done.output
        return done.stdout + done.stderr

    def rows(self, *words: str) -> list[dict[str, Any]]:
        done = self.run(*words, "--json")
        assert (done.exit_code, done.stderr) == (0, "")
        return [json.loads(line) for line in done.stdout.splitlines()]

    def refused(self, *words: str) -> tuple[int, str]:
        """The exit code and the one sentence of a mistake."""
        done = self.run(*words)
        assert done.stdout == ""
        assert done.exit_code != 0
        (line,) = done.stderr.splitlines()
        return done.exit_code, line.removeprefix("kmp-smsd: ").replace(f"{self.directory}/", "")

    def words(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "kmp_smsd", "--config", str(self.config), *words]

    def process(self, *words: str, **options: Any) -> subprocess.Popen[str]:
        pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(self.words(*words), **{**pipes, **options})

    def customized(self, code: str) -> dict[str, str]:
        """The environment of a process that runs `code` before anything else."""
        self.write("custom/sitecustomize.py", code)
        return {**os.environ, "PYTHONPATH": os.pathsep.join([str(self.directory / "custom"), *sys.path])}

    def link(self, port: int) -> None:
        """Have a link to an SMSC on loopback; its password is the simulator's."""
        self.write("smsc-password", "secret")
        text = self.config.read_text(encoding="utf-8")
        self.write("kmp-smsd.toml", text + LINK.format(port=port, directory=self.directory))

    def store(self) -> Store:
        return open_store(self.database)

    def ready(self, *key_ids: str, apps: tuple[str, ...] = ("meter",), mdns: tuple[str, ...] = (FIRST,)) -> None:
        """Master key, database, keys and registrations."""
        self.ok("master-key", "create")
        new_database(self.database)
        if key_ids:
            self.ok("keys", "import", str(self.keys(*key_ids)), "--vendor", "Acme", "--plaintext")
        for mdn in mdns:
            self.ok("registrations", "add", mdn, *apps)

    def message(self, mdn: str, key_id: str, at: int = 1_000_000, app_id: str | None = None) -> Outcome:
        """Settle one message as intake does."""
        request = SyncRequest(mdn=mdn, key_id=key_id, app_id=app_id, proof=None, received_at=at, link="north")
        with self.store() as store:
            return store.settle([request], at)[0]

    def deliver(self, platform: str) -> int:
        """Have `platform` confirm what is due there, as dispatch does."""
        with self.store() as store:
            store.routes.set({"meter": platform, "tracker": platform})
            for _ in store.routes.move(2_000_000):
                pass
            due = store.outbox.due(platform, 2**60, 100)
            store.outbox.settle(platform, [Confirm(row) for row in due], 3_000_000)
        return len(due)
