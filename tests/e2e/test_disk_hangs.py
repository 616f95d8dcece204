"""A disk that hangs: nothing is promised, no link is lost, and everything is settled when it answers again."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kmp_smsd.simulator.lab import SMPP_PASSWORD
from kmp_smsd.simulator.smsc import SmscSettings
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier
from tests.mounting import require_root

ENQUIRE_S = 0.2
HUNG_FOR = 40  # enquire_links, one after the other


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, which the kernel can keep from writing."""
    require_root()
    image, mounted = tmp_path / "image", tmp_path / "disk"
    mounted.mkdir()
    with image.open("wb") as file:
        file.truncate(64 << 20)
    subprocess.run(["mkfs.ext4", "-q", image], check=True)
    subprocess.run(["mount", "-o", "loop", image, mounted], check=True)
    yield mounted
    subprocess.run(["umount", "--lazy", mounted], check=True)


@contextmanager
def frozen(disk: Path) -> Iterator[None]:
    """Whoever writes to `disk`, or waits until something is on it, waits until the end of the block."""
    subprocess.run(["fsfreeze", "--freeze", disk], check=True)
    try:
        yield
    finally:
        subprocess.run(["fsfreeze", "--unfreeze", disk], check=True)


def test_hung_disk_costs_no_link_and_no_message(disk, tmp_path):
    smsc = SmscSettings(system_id="kmp", password=SMPP_PASSWORD, enquire_link_s=ENQUIRE_S, retry_after_s=0.5)
    link = {"answer_within_s": 0.5, "failures_before_unbind": 10_000, "enquire_after_s": 1.0}
    with Carrier(tmp_path / "carrier", smsc=smsc, link=link) as carrier:
        carrier.database = disk / "kmp-smsd.db"
        carrier.write_config()
        carrier.command("db", "migrate")
        terminals = [carrier.terminal("meter") for _ in range(6)]
        carrier.start_role("dispatch")
        carrier.start_role("intake")
        first, key = terminals[0]
        assert carrier.say(first, f"K1:{key}") == CommandStatus.ESME_ROK
        carrier.settled()
        before = carrier.smsc.counts
        with frozen(disk):
            answers = [carrier.smsc.send(mdn, f"K1:{key}") for mdn, key in terminals[1:]]
            carrier.wait_for(
                lambda: carrier.smsc.counts.enquire_links_answered >= before.enquire_links_answered + HUNG_FOR,
                "enquire_links to be answered meanwhile",
                within_s=60,
            )
            hung = carrier.smsc.counts
            assert hung.put_off > before.put_off
            assert hung.accepted == before.accepted
        assert [answer.result(60) for answer in answers] == [CommandStatus.ESME_ROK] * len(answers)
        carrier.settled()
        assert len(carrier.bindings()) == len(terminals)
        assert carrier.smsc.counts.binds == before.binds
