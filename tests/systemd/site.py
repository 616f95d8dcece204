"""The package, installed and configured in a box as docs/operations.rst says, and two peers to talk to."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

from tests.systemd.box import Box

INTAKE, DISPATCH = "kmp-smsd-intake.service", "kmp-smsd-dispatch.service"
ROLES = (INTAKE, DISPATCH)
CONFIG = "/etc/kmp-smsd/kmp-smsd.toml"
MDN = "86139000000{:02}"

LAB = """\
[Service]
ExecStart=/usr/bin/kmp-smsd simulator {words}
StandardOutput=truncate:/run/lab/{output}
"""
SMSC = "smsc --port 2775 --system-id kmp --password labpass1 --stay /run/lab/messages"
PLATFORM = "platform /etc/kmp-smsd/credentials/ssh-identity.pub --store /run/lab/held.db"
LAST = 20  # of the terminals whose keys are imported and whose numbers are registered


class Site:
    """Both roles, and what a test asks of them."""

    def __init__(self, box: Box) -> None:
        self.box = box

    def install(self, package: Path) -> None:
        """Copy the package into the box and install it."""
        shutil.copy(package, self.box.root / "root" / package.name)
        self.box.ok(f"dpkg --install /root/{package.name}")

    def configure(self) -> None:
        """From the installed examples to a good configuration; the roles are not started."""
        box = self.box
        box.ok(
            "sed -i 's/^hosts = .*/hosts = [\"127.0.0.1:2775\"]\\nreconnect_min_s = 0.1\\nreconnect_max_s = 0.5/'"
            f" {CONFIG}\n"
            "cd /etc/kmp-smsd/credentials\n"
            "umask 077\n"
            "echo labpass1 > smsc/north\n"
            "ssh-keygen -q -t ed25519 -N '' -C kmp -f ssh-identity\n"
            "kmp-smsd master-key create\n"
            "kmp-smsd db migrate\n"
            "mkdir /run/lab; mkfifo /run/lab/messages"
        )
        for name, words, output in (("smsc", SMSC, "answers"), ("platform", PLATFORM, "channel")):
            box.put(f"/run/systemd/system/lab-{name}.service", LAB.format(words=words, output=output))
        for unit in ROLES:
            box.put(f"/run/systemd/system/{unit}.d/soon.conf", "[Service]\nRestartSec=100ms\n")
        # Held open from here: the SMSC goes on reading after each message.
        self._messages = os.open(box.root / "run/lab/messages", os.O_RDWR)
        box.ok("systemctl daemon-reload; systemctl start lab-smsc lab-platform")
        box.until(lambda: "host_keys" in self._lab("channel"))
        box.put("/etc/kmp-smsd/platforms.d/metering.toml", f'apps = ["meter"]\n{self._lab("channel")}')
        box.put("/root/keys.csv", "key_id,key\n" + "".join(f"K-{n},{n:032x}\n" for n in range(1, LAST + 1)))
        numbers = " ".join(MDN.format(n) for n in range(1, LAST + 1))
        box.ok(
            "kmp-smsd check-config\n"
            "kmp-smsd keys import /root/keys.csv --vendor Acme --plaintext\n"
            f"for mdn in {numbers}; do echo $mdn,meter; done | sed 1i'mdn,app_id' > /root/numbers.csv\n"
            "kmp-smsd registrations import /root/numbers.csv\n"
            f"cp {CONFIG} /root/good.toml"
        )

    def _lab(self, name: str) -> str:
        file = self.box.root / "run/lab" / name
        return file.read_text(encoding="utf-8") if file.exists() else ""

    def good(self) -> None:
        """Have both roles run with the good configuration."""
        self.box.ok(f"cp /root/good.toml {CONFIG}; systemctl reset-failed; systemctl start {' '.join(ROLES)}")
        self.box.until(lambda: self.status_text(INTAKE).startswith("1 of 1 links bound"))

    def status_text(self, unit: str) -> str:
        return self.box.show(unit, "StatusText")[0]

    def configuration(self, unit: str) -> dict[str, Any]:
        """What the role says about its configuration."""
        role = unit.removeprefix("kmp-smsd-").removesuffix(".service")
        told: dict[str, Any] = json.loads(self.box.ok(f"kmp-smsd status --json --role {role}"))["configuration"]
        return told

    def pid(self, unit: str) -> int:
        return int(self.box.show(unit, "MainPID")[0])

    def send(self, *numbers: int) -> None:
        """Have terminals report their keys."""
        os.write(self._messages, "".join(f"{MDN.format(n)} K1:K-{n}\n" for n in numbers).encode())

    def answered(self, *numbers: int) -> bool:
        """Whether each of these terminals' messages was accepted."""
        lines = self._lab("answers").splitlines()
        return all(f"ESME_ROK (0x00) {MDN.format(n)} K1:K-{n}" in lines for n in numbers)

    def held(self) -> set[str]:
        """The numbers whose keys the platform says that it holds."""
        said = self.box.ok("/opt/kmp-smsd/bin/kmp-receive --store /run/lab/held.db list --json")
        return {row["mdn"] for row in map(json.loads, said.splitlines()) if row["key_id"]}

    def bound(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.box.ok("kmp-smsd bindings list --json").splitlines()]

    def binds(self, number: int) -> None:
        """A terminal's whole road: accepted by intake, held by the platform."""
        self.send(number)
        self.box.until(lambda: self.answered(number))
        self.box.until(lambda: MDN.format(number) in self.held())

    def close(self) -> None:
        os.close(self._messages)
