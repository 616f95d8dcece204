"""A carrier's operator at work: real processes, their control sockets, and what SMSC and platforms see of it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.simulator.lab import Role
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier

ROK, TEMPORARY = CommandStatus.ESME_ROK, CommandStatus.ESME_RX_T_APPN
WITHIN_S = 20.0
REFUSED = "WARNING: " + "; ".join(
    f"{role}: the last reload was refused: a restart would fail" for role in ("intake", "dispatch")
)


@pytest.fixture(autouse=True)
def no_surprise(carrier: Carrier) -> Iterator[None]:
    """Files are written as they were, and nothing that a role said was unexpected."""
    before = dict(carrier._sync), dict(carrier._link)
    yield
    carrier._sync, carrier._link = before
    carrier.write_config()
    assert reload(carrier).returncode == 0
    for role in carrier.roles:
        assert not any("Traceback" in line for line in role.said)


def status(carrier: Carrier, role: str) -> dict[str, Any]:
    said = carrier.command("status", "--role", role, "--json").stdout
    found: dict[str, Any] = json.loads(said)
    return found


def link(carrier: Carrier) -> dict[str, Any]:
    (only,) = status(carrier, "intake")["links"]
    return dict(only)


def platform(carrier: Carrier, name: str = "metering") -> dict[str, Any]:
    (one,) = (row for row in status(carrier, "dispatch")["platforms"] if row["name"] == name)
    return dict(one)


def check(carrier: Carrier) -> tuple[int, str]:
    done = carrier.command("status", "--check", check=False)
    return done.returncode, done.stdout.strip()


def role_of(carrier: Carrier, name: str) -> Role:
    return next(role for role in carrier.roles if role.name == name and role.process.poll() is None)


def reload(carrier: Carrier) -> subprocess.CompletedProcess[str]:
    return carrier.command("reload", "--wait", check=False)


def bound_and_delivered(carrier: Carrier, app: str = "meter") -> None:
    mdn, key = carrier.terminal(app)
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.settled()
    assert carrier.bindings()[mdn, app] == key


def test_status_shows_what_came_and_what_was_delivered(carrier: Carrier) -> None:
    before, served = status(carrier, "intake"), platform(carrier)
    bound_and_delivered(carrier)
    head = before["store"]["journal_head"] + 1
    carrier.wait_for(lambda: status(carrier, "intake")["store"]["journal_head"] == head, "its figures", WITHIN_S)
    intake, now = status(carrier, "intake"), platform(carrier)
    assert (intake["v"], intake["role"], intake["pid"]) == (1, "intake", role_of(carrier, "intake").process.pid)
    (lab,) = intake["links"]
    messages = lab["messages"] - before["links"][0]["messages"]
    assert (lab["word"], lab["bound"], messages) == ("bound as transceiver", True, 1)
    assert lab["answers"]["ESME_ROK"] - before["links"][0]["answers"].get("ESME_ROK", 0) == 1
    assert intake["outcomes"]["bound"] - before["outcomes"].get("bound", 0) == 1
    assert intake["store"]["error"] is None
    assert intake["store"]["last_write_at"] >= before["started_at"]
    assert (now["confirmed"] - served["confirmed"], now["apps"]) == (1, ["meter"])
    assert now["push_s"]["count"] - served["push_s"]["count"] == 1
    assert check(carrier) == (0, "OK: intake and dispatch")
    people = carrier.command("status").stdout
    assert "bound as transceiver" in people
    assert "metering" in people
    assert carrier.command("top").stdout.startswith("intake: running for ")


def test_status_answers_while_somebody_keeps_the_database_locked(carrier: Carrier) -> None:
    from kmp_smsd.storage import open_store

    mdn, key = carrier.terminal("meter")
    with open_store(carrier.database) as store, store._database.transaction():
        waiting = carrier.smsc.send(mdn, f"K1:{key}")
        carrier.wait_for(lambda: status(carrier, "intake")["store"]["stuck_s"] > 0.5, "a stuck store", WITHIN_S)
        assert link(carrier)["bound"]
        carrier.wait_for(lambda: status(carrier, "intake")["store"]["lock_holder"], "a holder of the lock", WITHIN_S)
        held = status(carrier, "intake")
        assert held["store"]["waits_for_others"]
        assert held["not_ready"] == [f"the write lock is held by {held['store']['lock_holder']}"]
        assert f"PID {os.getpid()} " in held["store"]["lock_holder"]
    assert waiting.result(30) == ROK
    carrier.wait_for(lambda: status(carrier, "intake")["store"]["lock_holder"] is None, "nobody to be named", WITHIN_S)


def test_a_good_reload_changes_what_it_names_and_leaves_the_rest_alone(carrier: Carrier) -> None:
    bound_and_delivered(carrier)
    before, connections = link(carrier), receivers(carrier, "metering")
    carrier._sync["mdn_burst"] = 999
    carrier.write_config()
    configuration = status(carrier, "intake")["configuration"]
    assert (configuration["differs"], configuration["differences"]) == (True, ["[sync] mdn_burst"])
    done = reload(carrier)
    assert done.returncode == 0
    assert done.stdout == (
        "intake: applied: [sync] mdn_burst\ndispatch: applied: nothing; credentials are those of the start\n"
    )
    after = link(carrier)
    assert [after[name] for name in ("since", "binds", "reconnects")] == [
        before[name] for name in ("since", "binds", "reconnects")
    ]
    assert receivers(carrier, "metering") == connections
    assert status(carrier, "intake")["configuration"]["differs"] is False


def test_a_link_that_changed_is_made_anew_and_goes_on_counting(carrier: Carrier) -> None:
    before = link(carrier)
    carrier._link["in_flight_max"] = 77
    carrier.write_config()
    assert "intake: applied: [smsc.lab] in_flight_max\n" in reload(carrier).stdout
    carrier.wait_for(lambda: link(carrier)["bound"], "the new link to bind", WITHIN_S)
    now = link(carrier)
    assert (now["in_flight_max"], now["binds"], now["messages"]) == (77, before["binds"] + 1, before["messages"])
    bound_and_delivered(carrier)


def test_a_refused_reload_tells_every_fault_and_changes_nothing(carrier: Carrier) -> None:
    before, pids = link(carrier), [role.process.pid for role in carrier.roles]
    good = carrier.config.read_text()
    faulty = good.replace('"country_code" = "86"', '"country_code" = 86') + "colour = 1\nhost = smsc\n"
    carrier.config.write_text(faulty)
    done = reload(carrier)
    assert done.returncode == 78
    lines = [faulty.splitlines().index(line) + 1 for line in ('"country_code" = 86', "colour = 1", "host = smsc")]
    for line, fault in zip(lines, done.stderr.splitlines(), strict=False):
        assert fault.startswith(f"{carrier.config}:{line}: ")
    assert "3 faults, nothing was changed" in done.stderr
    assert [role.process.pid for role in carrier.roles if role.process.poll() is None] == pids
    now = link(carrier)
    assert (now["since"], now["binds"]) == (before["since"], before["binds"])
    configuration = status(carrier, "intake")["configuration"]
    assert (configuration["last_reload_ok"], configuration["differs"]) == (False, True)
    assert check(carrier) == (1, REFUSED)
    carrier.config.write_text(good)
    assert reload(carrier).returncode == 0
    assert check(carrier)[0] == 0
    bound_and_delivered(carrier)


def test_sighup_reloads_and_the_log_says_what_came_of_it(carrier: Carrier) -> None:
    intake, before = role_of(carrier, "intake"), link(carrier)["binds"]
    carrier._sync["mdn_burst"] = 998
    carrier.write_config()
    intake.process.send_signal(signal.SIGHUP)
    carrier.wait_for(
        lambda: any("reloaded; applied: [sync] mdn_burst" in line for line in intake.said), "the reload", WITHIN_S
    )
    good = carrier.config.read_text()
    carrier.config.write_text(good + "colour = 1\n")
    intake.process.send_signal(signal.SIGHUP)
    carrier.wait_for(lambda: any("reload refused" in line for line in intake.said), "the refusal", WITHIN_S)
    assert link(carrier)["binds"] == before


def test_a_platform_dropped_in_is_served_and_a_removed_one_is_not(carrier: Carrier) -> None:
    def names() -> list[str]:
        return [row["name"] for row in status(carrier, "dispatch")["platforms"]]

    mdn, key = carrier.terminal("heater")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.wait_for(lambda: names() == ["fleet", "metering", "(none yet)"], "what waits to be counted", WITHIN_S)
    carrier.add_platform("heating", ["heater"])
    carrier.write_config()
    assert "dispatch: applied: platforms.d/heating.toml new\n" in reload(carrier).stdout
    carrier.wait_for(lambda: bool(carrier.platforms["heating"].holds()), "the key at its platform", WITHIN_S)
    carrier.settled()
    assert [row["key_id"] for row in carrier.platforms["heating"].holds()] == [key]

    carrier.command("registrations", "remove", mdn, "heater")
    carrier.settled()
    carrier.platforms.pop("heating").server.stop()
    (carrier.directory / "platforms.d" / "heating.toml").unlink()
    assert "dispatch: applied: platforms.d/heating.toml gone\n" in reload(carrier).stdout
    carrier.wait_for(lambda: names() == ["fleet", "metering"], "it to be counted no more", WITHIN_S)


def test_a_platform_with_a_credential_of_its_own_says_that_it_needs_a_restart(carrier: Carrier) -> None:
    metering = (carrier.directory / "platforms.d" / "metering.toml").read_text()
    own = metering.replace('"meter"', '"other"') + '"identity" = {"credential" = "ssh-own"}\n'
    write(carrier.directory / "platforms.d" / "own.toml", own)
    assert "dispatch: needs restart: platforms.d/own.toml new\n" in reload(carrier).stdout
    assert status(carrier, "dispatch")["configuration"]["needs_restart"] == ["platforms.d/own.toml new"]
    assert check(carrier) == (1, "WARNING: dispatch: needs restart: platforms.d/own.toml new")
    (carrier.directory / "platforms.d" / "own.toml").unlink()


def test_a_paused_link_rests_until_it_is_resumed(carrier: Carrier) -> None:
    carrier.command("pause", "smsc", "lab")
    carrier.wait_for(lambda: carrier.smsc.bound == 0, "the link to unbind", WITHIN_S)
    now = link(carrier)
    assert (now["paused"], now["bound"]) == (True, False)
    assert check(carrier)[0] == 2
    carrier._sync["mdn_burst"] = 997
    carrier.write_config()
    assert reload(carrier).returncode == 0
    assert link(carrier)["paused"]
    carrier.command("resume", "smsc", "lab")
    carrier.wait_for(lambda: carrier.smsc.bound == 1, "the link to bind", WITHIN_S)
    bound_and_delivered(carrier)
    unknown = carrier.command("pause", "smsc", "lob", check=False)
    assert (unknown.returncode, "did you mean 'lab'?" in unknown.stderr) == (1, True)


def test_a_paused_platform_gets_nothing_until_it_is_resumed(carrier: Carrier) -> None:
    bound_and_delivered(carrier)
    carrier.command("pause", "platform", "metering")
    mdn, key = carrier.terminal("meter")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.wait_for(lambda: platform(carrier)["due"] == 1, "the delivery to be due", WITHIN_S)
    assert (platform(carrier)["word"], platform(carrier)["paused"]) == ("paused", True)
    carrier.wait_for(lambda: not receivers(carrier, "metering"), "the far end to notice", WITHIN_S)
    bound_and_delivered_elsewhere(carrier)
    carrier.command("resume", "platform", "metering")
    carrier.settled()
    assert mdn in {row["mdn"] for row in carrier.platforms["metering"].holds()}


def test_a_drained_daemon_takes_nothing_and_goes_on_when_it_is_told(carrier: Carrier) -> None:
    bound_and_delivered(carrier)
    mdn, key = carrier.terminal("meter")
    done = carrier.command("drain")
    assert done.stdout == "intake: draining\ndispatch: draining\n"
    carrier.wait_for(
        lambda: carrier.smsc.bound == 0 and not receivers(carrier, "metering"), "the far ends to notice", WITHIN_S
    )
    waiting = carrier.smsc.send(mdn, f"K1:{key}")
    code, line = check(carrier)
    assert (code, "intake is draining" in line, "dispatch is draining" in line) == (2, True, True)
    assert {role.name for role in carrier.roles if role.process.poll() is None} == {"intake", "dispatch"}
    carrier.command("resume")
    assert waiting.result(30) == ROK
    carrier.settled()


def test_a_drain_tells_of_messages_that_cannot_be_settled(carrier: Carrier) -> None:
    mdn, key = carrier.terminal("meter")
    elsewhere = carrier.database.rename(carrier.database.with_suffix(".elsewhere"))
    try:
        assert carrier.smsc.send(mdn, f"K1:{key}").result(30) == ROK
        done = carrier.command("drain", "--role", "intake", check=False)
    finally:
        elsewhere.rename(carrier.database)
    assert done.returncode == 75
    assert (
        f"intake: answered messages that cannot be settled now: 1 ({carrier.database} was removed or replaced under us"
        in done.stderr
    )
    assert carrier.command("drain", "--role", "intake").stdout == "intake: draining\n"
    assert carrier.bindings()[mdn, "meter"] == key
    carrier.command("resume")
    carrier.settled()


def test_a_second_process_does_not_take_the_socket_of_the_first(carrier: Carrier) -> None:
    second = carrier.start_role_unbound("intake")
    assert second.process.wait(WITHIN_S) == 75
    carrier.wait_for(lambda: any("intake runs already" in line for line in second.said), "its reason", WITHIN_S)
    assert link(carrier)["bound"]
    role_of(carrier, "intake").kill()
    assert carrier.command("status", "--role", "intake", check=False).returncode == 69
    carrier.start_role("intake")  # over the socket that the killed one left
    carrier.wait_for(lambda: link(carrier)["bound"], "the link to bind", WITHIN_S)


def receivers(carrier: Carrier, name: str) -> list[int]:
    server = carrier.platforms[name].server
    return server.receivers()  # type: ignore[union-attr]  # OpenSSH's, as e2e requires it


def bound_and_delivered_elsewhere(carrier: Carrier) -> None:
    mdn, key = carrier.terminal("tracker")
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.wait_for(
        lambda: mdn in {row["mdn"] for row in carrier.platforms["fleet"].holds()}, "the other platform", WITHIN_S
    )


def write(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o644)
