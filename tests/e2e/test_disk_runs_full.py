"""A full disk: every message stays with the SMSC, and is settled when there is room again."""

from __future__ import annotations

from pathlib import Path

from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier


def test_full_disk_loses_no_message_and_binds_all_of_them_later(small_disk, tmp_path):
    with Carrier(tmp_path / "carrier") as carrier:
        carrier.database = small_disk / "kmp-smsd.db"
        carrier.write_config()
        carrier.command("db", "migrate")
        terminals = [carrier.terminal("meter") for _ in range(5)]
        carrier.start_role("dispatch")
        carrier.start_role("intake")
        first, key = terminals[0]
        assert carrier.say(first, f"K1:{key}") == CommandStatus.ESME_ROK
        carrier.settled()
        inbox = small_disk / "kmp-smsd.db-inbox"
        carrier.wait_for(lambda: not any(inbox.iterdir()), "the inbox to be empty")  # it has room for some more
        fill(small_disk / "ballast")
        answers = [carrier.smsc.send(mdn, f"K1:{key}") for mdn, key in terminals[1:]]
        carrier.wait_for(lambda: carrier.smsc.counts.put_off > 0, "a temporary status")
        assert not any(answer.done() for answer in answers)
        (small_disk / "ballast").unlink()
        assert [answer.result(60) for answer in answers] == [CommandStatus.ESME_ROK] * len(answers)
        carrier.settled()
        assert len(carrier.bindings()) == len(terminals)


def fill(ballast: Path) -> None:
    """Write until nothing fits any more, not even one octet."""
    with open(ballast, "wb", buffering=0) as file:
        for size in (1 << 20, 1 << 12, 1):
            try:
                while file.write(b"\xff" * size):
                    pass
            except OSError:
                continue
