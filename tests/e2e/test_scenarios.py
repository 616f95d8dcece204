"""What breaks such systems in the field, each tried on real processes, real SSH and real files."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path

import pytest

from kmp_smsd.simulator.openssh import OpensshServer
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier, hold_answers, release_answers

ROK = CommandStatus.ESME_ROK


def role(carrier: Carrier, name: str):
    return next(one for one in reversed(carrier.roles) if one.name == name and one.process.poll() is None)


def open_hold(carrier: Carrier, mdn: str) -> str:
    return next(str(row["hold"]) for row in carrier.listing("holds", "list") if row["mdn"] == mdn)


def held_at(carrier: Carrier, platform: str) -> dict[str, str]:
    return {row["mdn"]: row["key_id"] for row in carrier.platforms[platform].holds()}


def test_key_reaches_its_platform(carrier):
    mdn, key = carrier.terminal("meter")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.settled()
    assert held_at(carrier, "metering")[mdn] == key


def test_sim_swapped(carrier):
    old, key = carrier.terminal("meter")
    new, _ = carrier.terminal("meter")
    carrier.say(old, f"K1:{key}")
    carrier.settled()
    assert carrier.say(new, f"K1:{key}") == ROK
    assert carrier.bindings()[old, "meter"] == key  # nothing changes before a person has looked
    carrier.command("holds", "approve", open_hold(carrier, new))
    carrier.settled()
    held = held_at(carrier, "metering")
    assert held[new] == key
    assert old not in held


def test_terminal_swapped(carrier):
    mdn, old = carrier.terminal("meter")
    _, new = carrier.terminal()
    carrier.say(mdn, f"K1:{old}")
    carrier.settled()
    carrier.say(mdn, f"K1:{new}")
    assert held_at(carrier, "metering")[mdn] == old
    carrier.command("holds", "approve", open_hold(carrier, mdn))
    carrier.settled()
    assert held_at(carrier, "metering")[mdn] == new


def test_two_apps_with_two_keys(carrier):
    mdn, first = carrier.terminal("tracker", "alarm")
    _, second = carrier.terminal()
    carrier.say(mdn, f"K1:{first}")
    assert carrier.outcomes(mdn) == ["app_required"]
    carrier.say(mdn, f"K1:{first}:tracker")
    carrier.say(mdn, f"K1:{second}:alarm")
    carrier.settled()
    held = {row["app_id"]: row["key_id"] for row in carrier.platforms["fleet"].holds() if row["mdn"] == mdn}
    assert held == {"tracker": first, "alarm": second}


def test_message_resent_after_a_lost_answer_is_bound_once(carrier):
    mdn, key = carrier.terminal("meter")
    intake = role(carrier, "intake")
    os.kill(intake.process.pid, signal.SIGSTOP)
    sent = carrier.smsc.send(mdn, f"K1:{key}")
    carrier.smsc.drop()
    os.kill(intake.process.pid, signal.SIGCONT)
    assert sent.result(30) == ROK
    carrier.settled()
    assert carrier.outcomes(mdn).count("bound") == 1


def stored_but_unanswered(carrier: Carrier) -> tuple[str, str, Path]:
    """An MDN and its key, which the platform has stored, and the gate that holds its answer back."""
    mdn, key = carrier.terminal("meter")
    gate = carrier.gate("metering")
    hold_answers(gate)
    carrier.say(mdn, f"K1:{key}")
    carrier.wait_for((gate / "held").exists, "the platform to have stored the key")
    return mdn, key, gate


def test_registration_removed_while_the_delivery_is_under_way(carrier):
    mdn, _, gate = stored_but_unanswered(carrier)
    carrier.command("registrations", "remove", mdn, "meter")
    release_answers(gate)
    carrier.settled()
    assert mdn not in held_at(carrier, "metering")


def test_delivered_but_killed_before_settling_and_then_withdrawn(carrier):
    mdn, _, gate = stored_but_unanswered(carrier)
    role(carrier, "dispatch").kill()
    release_answers(gate)
    carrier.command("bindings", "withdraw", mdn, "meter")
    carrier.start_role("dispatch")
    carrier.settled()
    assert mdn not in held_at(carrier, "metering")


def test_key_revoked_in_mid_delivery(carrier):
    mdn, key, gate = stored_but_unanswered(carrier)
    carrier.command("keys", "revoke", key, "--yes", "--compromised", "--reason", "read out in a laboratory")
    release_answers(gate)
    carrier.settled()
    assert mdn not in held_at(carrier, "metering")
    carrier.say(mdn, f"K1:{key}")
    assert (mdn, "meter") not in carrier.bindings()
    carrier.command("keys", "destroy", key, "--yes")


def runs(pid: int) -> bool:
    try:
        return bool(Path(f"/proc/{pid}/cmdline").read_bytes())  # that of a zombie is empty
    except OSError:
        return False


def test_withdraw_overtakes_its_bind(carrier):
    """The old connection still has the bind in its pipe when the new one has delivered the withdraw."""
    mdn, key = carrier.terminal("meter")
    server = carrier.platforms["metering"].server
    assert isinstance(server, OpensshServer)
    carrier.wait_for(lambda: bool(server.receivers()), "a receiver")
    stopped = server.receivers()
    for pid in stopped:
        os.kill(pid, signal.SIGSTOP)
    carrier.say(mdn, f"K1:{key}")
    carrier.wait_for(lambda: any(row["mdn"] == mdn for row in carrier.listing("outbox", "list")), "the bind to be due")
    role(carrier, "dispatch").kill()
    carrier.command("bindings", "withdraw", mdn, "meter")
    carrier.start_role("dispatch")
    carrier.settled()
    for pid in stopped:
        try:
            os.kill(pid, signal.SIGCONT)
        except ProcessLookupError:
            continue
    carrier.wait_for(lambda: not any(map(runs, stopped)), "the old connection to come to its end")
    carrier.settled()
    assert mdn not in held_at(carrier, "metering")


def test_hold_approved_after_the_key_was_revoked(carrier):
    old, key = carrier.terminal("meter")
    new, _ = carrier.terminal("meter")
    carrier.say(old, f"K1:{key}")
    carrier.say(new, f"K1:{key}")
    hold = open_hold(carrier, new)
    carrier.command("keys", "revoke", key, "--yes")
    refused = carrier.command("holds", "approve", hold, check=False)
    assert refused.returncode != 0
    assert "closed" in refused.stderr
    carrier.settled()
    assert not {old, new} & held_at(carrier, "metering").keys()


def test_platform_restored_from_an_old_backup(carrier, tmp_path):
    before, key_before = carrier.terminal("meter")
    carrier.say(before, f"K1:{key_before}")
    carrier.settled()
    platform = carrier.platforms["metering"]
    backup = tmp_path / "held"
    for suffix in ("", "-wal"):
        if (source := Path(f"{platform.store}{suffix}")).exists():
            shutil.copy(source, f"{backup}{suffix}")
    after, key_after = carrier.terminal("meter")
    carrier.say(after, f"K1:{key_after}")
    carrier.settled()
    platform.server.stop()
    for suffix in ("", "-wal", "-shm"):
        Path(f"{platform.store}{suffix}").unlink(missing_ok=True)
        if (source := Path(f"{backup}{suffix}")).exists():
            shutil.copy(source, f"{platform.store}{suffix}")
    platform.server.start()
    assert after not in held_at(carrier, "metering")
    carrier.command("platforms", "resync", "metering", "--yes")
    carrier.settled()
    assert held_at(carrier, "metering")[after] == key_after


def test_database_restored_from_an_old_backup(carrier, tmp_path):
    before, key_before = carrier.terminal("meter")
    after, key_after = carrier.terminal("meter")
    withdrawn, key_withdrawn = carrier.terminal("meter")
    carrier.say(before, f"K1:{key_before}")
    carrier.say(withdrawn, f"K1:{key_withdrawn}")
    carrier.command("db", "backup", str(tmp_path / "backup.db"))
    carrier.say(after, f"K1:{key_after}")
    carrier.command("bindings", "withdraw", withdrawn, "meter")
    carrier.settled()
    busy = carrier.command("db", "restore", str(tmp_path / "backup.db"), "--yes", check=False)
    assert busy.returncode == 75
    for name in ("intake", "dispatch"):
        role(carrier, name).stop()
    carrier.command("db", "restore", str(tmp_path / "backup.db"), "--yes")
    carrier.start_role("dispatch")
    carrier.start_role("intake")
    carrier.say(after, f"K1:{key_after}")  # its binding is newer than the backup: the terminal's repeat makes it anew
    carrier.settled()
    held = held_at(carrier, "metering")
    assert held[before] == key_before
    assert held[after] == key_after
    assert held[withdrawn] == key_withdrawn  # as the backup has it


def give_apps_to_their_platforms(carrier: Carrier) -> None:
    """Write the platforms' files as their apps are by now, and start dispatch with them."""
    carrier.write_config()
    role(carrier, "dispatch").stop()
    carrier.start_role("dispatch")


def test_app_moved_to_another_platform_file(carrier):
    mdn, key = carrier.terminal("alarm")
    carrier.say(mdn, f"K1:{key}")
    carrier.settled()
    fleet, metering = carrier.platforms["fleet"], carrier.platforms["metering"]
    fleet.apps, metering.apps = ("tracker",), ("meter", "alarm")
    give_apps_to_their_platforms(carrier)
    carrier.wait_for(lambda: mdn in held_at(carrier, "metering"), "the key at its new platform")
    carrier.settled()
    assert mdn not in held_at(carrier, "fleet")
    fleet.apps, metering.apps = ("tracker", "alarm"), ("meter",)
    give_apps_to_their_platforms(carrier)
    carrier.wait_for(lambda: mdn in held_at(carrier, "fleet"), "the key at its first platform again")
    carrier.settled()


def test_binding_for_an_app_without_a_platform_waits_and_leaves_by_itself(carrier):
    mdn, key = carrier.terminal("irrigation")
    carrier.say(mdn, f"K1:{key}")
    assert [row["platform"] for row in carrier.listing("outbox", "list") if row["mdn"] == mdn] == [""]
    carrier.platforms["metering"].apps = ("meter", "irrigation")
    give_apps_to_their_platforms(carrier)
    carrier.wait_for(lambda: mdn in held_at(carrier, "metering"), "the key at the new app's platform")
    carrier.settled()


def test_binding_for_a_platform_that_is_down_waits_and_leaves_by_itself(carrier):
    server = carrier.platforms["metering"].server
    server.stop()
    mdn, key = carrier.terminal("meter")
    other, other_key = carrier.terminal("tracker")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    assert carrier.say(other, f"K1:{other_key}") == ROK
    carrier.wait_for(lambda: other in held_at(carrier, "fleet"), "the other platform to be served")
    server.start()
    carrier.settled()
    assert held_at(carrier, "metering")[mdn] == key


def test_one_rejected_delivery_among_thousands(carrier):
    gate = carrier.gate("metering")
    terminals = [(f"861399{number:07d}", f"BULK-{number:05d}") for number in range(2000)]
    carrier.import_keys([(key, "") for _, key in terminals])
    bulk = carrier.directory / "bulk.csv"
    bulk.write_text("mdn,app_id\n" + "".join(f"{mdn},meter\n" for mdn, _ in terminals))
    carrier.command("registrations", "import", str(bulk))
    rejected = terminals[1000][0]
    (gate / f"reject-{rejected}").touch()
    answers = [carrier.smsc.send(mdn, f"K1:{key}") for mdn, key in terminals]
    assert {answer.result(60) for answer in answers} == {ROK}
    carrier.settled()
    held = held_at(carrier, "metering")
    assert [mdn for mdn, _ in terminals if mdn not in held] == [rejected]
    (gate / f"reject-{rejected}").unlink()
    carrier.command("outbox", "retry", "--mdn", rejected)
    carrier.settled()
    assert rejected in held_at(carrier, "metering")


def test_platform_that_rejects_everything_is_held_back_and_recovers(carrier):
    """25 rejections, of which the first 20 have it held back; one confirmation later all of them are delivered."""
    gate = carrier.gate("fleet")
    terminals = [carrier.terminal("tracker") for _ in range(25)]
    for mdn, _ in terminals:
        (gate / f"reject-{mdn}").touch()
    for mdn, key in terminals:
        carrier.say(mdn, f"K1:{key}")
    carrier.wait_for(lambda: platform(carrier, "fleet")["held_back"], "it to be held back")
    assert platform(carrier, "fleet")["rejected"] >= 20
    for mdn, _ in terminals:
        (gate / f"reject-{mdn}").unlink()
    mdn, key = carrier.terminal("tracker")
    carrier.say(mdn, f"K1:{key}")
    carrier.command("outbox", "retry", "--platform", "fleet")  # a person does not wait for ten minutes
    carrier.settled()
    assert {mdn for mdn, _ in terminals} <= held_at(carrier, "fleet").keys()
    assert not platform(carrier, "fleet")["held_back"]


def platform(carrier, name):
    return next(row for row in carrier.listing("platforms", "list") if row["platform"] == name)


def test_old_message_after_its_replacement_undoes_nothing(carrier):
    mdn, old = carrier.terminal("meter")
    _, new = carrier.terminal()
    carrier.say(mdn, f"K1:{old}")
    carrier.say(mdn, f"K1:{new}")
    carrier.command("holds", "approve", open_hold(carrier, mdn))
    carrier.settled()
    carrier.say(mdn, f"K1:{old}")  # a day on the road: sent before the replacement, delivered after it
    assert carrier.bindings()[mdn, "meter"] == new
    assert "superseded" in next(row["why"] for row in carrier.listing("holds", "list") if row["mdn"] == mdn)


@pytest.mark.parametrize("rubbish", [b"", b"\0" * 140, b"K1:", b"K1:%n%n%n", b"\xff" * 254, b"K1:A:B:C:D", b"K1:A\nB"])
def test_rubbish_is_refused_for_ever_and_the_link_stays(carrier, rubbish):
    mdn, key = carrier.terminal("meter")
    assert carrier.say(mdn, rubbish) == CommandStatus.ESME_RX_R_APPN
    assert carrier.say(mdn, f"K1:{key}") == ROK
