"""A carrier's whole installation: our SMSC, both roles as processes, OpenSSH, kmp-receive, and terminals."""

from __future__ import annotations

import os
import secrets
import sys
from concurrent.futures import Future
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

from kmp_smsd.simulator.openssh import OpensshServer
from kmp_smsd.simulator.receiver import receiver_path
from tests.quick_lab import QuickLab

GATE = Path(__file__).with_name("gate.py")
PLATFORMS = {"metering": ("meter",), "fleet": ("tracker", "alarm")}
KEYS_AT_ONCE = 10


class Carrier(QuickLab):
    """A Lab that makes terminals: each with a number and a key of its own."""

    def __init__(self, directory: Path, **options: Any) -> None:
        super().__init__(directory, PLATFORMS, **{"sync": {"mdn_burst": 1000}, **options})
        self._numbers = count(1)
        self._stock: list[str] = []  # imported, and no terminal's yet
        self.keys: dict[str, bytes] = {}

    def terminal(self, *apps: str) -> tuple[str, str]:
        """A new MDN, registered for `apps`, and the ID of a new key."""
        if not self._stock:
            self._stock = [f"KEY-{next(self._numbers):05d}" for _ in range(KEYS_AT_ONCE)]
            self.import_keys([(key_id, "") for key_id in self._stock])
        key_id = self._stock.pop(0)
        mdn = f"8613{int(key_id[4:]):09d}"
        if apps:
            self.here("registrations", "add", mdn, *apps)
        return mdn, key_id

    def import_keys(self, keys: list[tuple[str, str]]) -> None:
        file = self.directory / f"keys-{next(self._numbers)}.csv"
        lines = ["key_id,key,app_id"]
        for key_id, app in keys:
            self.keys[key_id] = secrets.token_bytes(16)
            lines.append(f"{key_id},{self.keys[key_id].hex()},{app}")
        file.write_text("\n".join(lines) + "\n")
        self.command("keys", "import", str(file), "--vendor", "Acme", "--plaintext")
        file.unlink()

    def say(self, mdn: str, text: str, **fields: Any) -> int:
        """Send one SMS and wait until it is settled; the command_status that was the last word on it."""
        return self.answered(self.smsc.send(mdn, text, **fields))

    def answered(self, sent: Future[int]) -> int:
        """Wait until what was sent is settled; the command_status that was the last word on it."""
        status = sent.result(30)
        self.wait_for(self.all_settled, "the message to be settled")
        return status

    def bindings(self) -> dict[tuple[str, str], str]:
        """What the daemon has bound: key ID by MDN and app."""
        return {(row["mdn"], row["app_id"]): row["key_id"] for row in self.listing("bindings", "list")}

    def outcomes(self, mdn: str) -> list[str]:
        return [row["outcome"] for row in self.listing("journal", "list", "--mdn", mdn)]

    def settled(self) -> None:
        """Wait until nothing is due; then bindings, outbox and platforms must agree on every row, versions included."""
        self.wait_for(self.nothing_due, "every delivery to be settled", within_s=60)
        bound = {
            (row["platform"], row["mdn"], row["app_id"]): (row["key_id"], row["wanted_version"])
            for row in self.listing("bindings", "list")
            if row["platform"] and row["rejected_version"] != row["wanted_version"]
        }
        wanted = {
            (row["platform"], row["mdn"], row["app_id"]): (row["key_id"], row["wanted_version"])
            for row in self.listing("outbox", "list", "--all")
            if row["key_id"] and row["platform"] and row["rejected_version"] != row["wanted_version"]
        }
        held = {
            (name, row["mdn"], row["app_id"]): (row["key_id"], row["version"])
            for name, platform in self.platforms.items()
            for row in platform.holds()
        }
        assert held == wanted == bound

    def gate(self, platform: str) -> Path:
        """Put the gate before a platform's receiver; the directory in which files tell it what to do."""
        directory = self.directory / f"{platform}.gate"
        directory.mkdir(exist_ok=True)
        server = self.platforms[platform].server
        assert isinstance(server, OpensshServer)
        words = [sys.executable, GATE, directory, sys.executable, receiver_path()]
        server.command(" ".join(map(str, [*words, "--store", self.platforms[platform].store])))
        server.kill_sessions()
        return directory


def hold_answers(gate: Path) -> None:
    """Let the platform store, and keep its answers from us; the first of them appears in the file `held`."""
    (gate / "held").unlink(missing_ok=True)
    os.mkfifo(gate / "hold")


def release_answers(gate: Path) -> None:
    """Let held answers pass, if anybody still waits for them."""
    fifo = gate / "hold"
    with suppress(OSError):  # nobody waits
        os.close(os.open(fifo, os.O_WRONLY | os.O_NONBLOCK))
    fifo.unlink()
