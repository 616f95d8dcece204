"""The package under a real systemd: one box, in which the tests follow one another."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from kmp_smsd.cli.doctor import CHECKS
from tests.systemd.site import CONFIG, DISPATCH, INTAKE, MDN, ROLES, Site

PROBE = Path(__file__).with_name("probe.py")
MUST_WORK = {
    "read its own secret",
    "read the configuration",
    "write its state",
    "write beside the control socket",
    "connect",
}
both_roles = pytest.mark.parametrize("unit", ROLES)


def modes(site: Site, *paths: str) -> list[str]:
    return site.box.ok(f"stat --format='%a %U %G %n' {' '.join(paths)}").splitlines()


def test_files_and_directories_are_as_documented(installed: Site) -> None:
    assert modes(
        installed,
        "/etc/kmp-smsd /etc/kmp-smsd/kmp-smsd.toml /etc/kmp-smsd/platforms.d/example.toml",
        "/etc/kmp-smsd/credentials /etc/kmp-smsd/credentials/smsc /var/lib/kmp-smsd /run/kmp-smsd",
    ) == [
        "2750 root kmp-smsd /etc/kmp-smsd",
        "640 root kmp-smsd /etc/kmp-smsd/kmp-smsd.toml",
        "640 root kmp-smsd /etc/kmp-smsd/platforms.d/example.toml",
        "700 root root /etc/kmp-smsd/credentials",
        "700 root root /etc/kmp-smsd/credentials/smsc",
        "2770 root kmp-smsd /var/lib/kmp-smsd",
        "2770 root kmp-smsd /run/kmp-smsd",
    ]


def test_the_receiver_for_platforms_needs_nothing_of_the_package(installed: Site) -> None:
    receiver = installed.box.root / "usr/share/doc/kmp-smsd/scripts/kmp-receive"
    assert receiver.read_text(encoding="utf-8").startswith("#!/usr/bin/env python3\n")
    assert modes(installed, f"/{receiver.relative_to(installed.box.root)}")[0].startswith("755 ")


def test_nothing_runs_before_somebody_starts_it(installed: Site) -> None:
    assert [installed.box.show(unit, "ActiveState") for unit in ROLES] == [["inactive"], ["inactive"]]
    assert installed.box.run("systemctl is-enabled kmp-smsd.target").stdout == "disabled\n"


def test_units_have_no_fault_that_systemd_knows_of(installed: Site) -> None:
    units = "kmp-smsd-intake.service kmp-smsd-dispatch.service kmp-smsd.service kmp-smsd.target"
    assert installed.box.ok(f"systemd-analyze verify --man=no {units}") == ""


def test_the_target_starts_both_roles_and_a_terminal_is_bound(installed: Site) -> None:
    installed.box.ok("systemctl enable --now kmp-smsd.target")
    assert [installed.box.show(unit, "SubState") for unit in ROLES] == [["running"], ["running"]]
    installed.binds(1)
    installed.box.until(lambda: installed.status_text(INTAKE) == "1 of 1 links bound")
    installed.box.until(lambda: installed.status_text(DISPATCH) == "1 platform, nothing due")


def test_whoever_makes_a_file_makes_it_for_the_group(site: Site) -> None:
    made = modes(site, "/var/lib/kmp-smsd/*", "/run/kmp-smsd/*.sock")
    assert {line.split()[0] for line in made if not line.endswith("-inbox")} == {"660"}
    assert [line.split()[0] for line in made if line.endswith("-inbox")] == ["2770"]
    assert {line.split()[2] for line in made} == {"kmp-smsd"}
    assert len([line for line in made if line.endswith((".db", ".db-wal", ".db-shm", ".sock"))]) == 5


def test_secrets_that_were_put_back_open_to_all_are_closed_with_the_other_modes(site: Site) -> None:
    secrets = "/etc/kmp-smsd/credentials/{master-key,ssh-identity,smsc/north}"
    site.box.ok(f"chmod 644 {secrets}; systemd-tmpfiles --create kmp-smsd.conf")
    assert {line.split()[0] for line in modes(site, secrets)} == {"600"}


def test_remedies_of_doctor_set_right_what_belongs_to_another_group_or_is_closed(site: Site) -> None:
    paths = "/var/lib/kmp-smsd /var/lib/kmp-smsd/kmp-smsd.db-inbox /run/kmp-smsd"
    before = modes(site, *paths.split())
    site.box.ok(f"systemctl stop {' '.join(ROLES)}; chmod 0700 {paths}; chgrp root /var/lib/kmp-smsd /run/kmp-smsd")
    faults = wrong_permissions(site)
    assert len(faults) == 3
    site.box.ok("\n".join(fault["remedy"] for fault in faults))
    assert modes(site, *paths.split()) == before
    assert not wrong_permissions(site)


def wrong_permissions(site: Site) -> list[dict[str, str]]:
    skip = " ".join(f"--skip {check}" for check in CHECKS if check != "permissions")
    (line,) = site.box.run(f"kmp-smsd doctor {skip} --json").stdout.splitlines()
    return [one for one in json.loads(line)["findings"] if one["level"] != "ok"]


@pytest.mark.parametrize(
    ("unit", "other", "others_secret", "own_secret"),
    [
        (INTAKE, DISPATCH, "master-key", "smsc_north"),
        (DISPATCH, INTAKE, "smsc_north", "master-key"),
    ],
)
def test_a_stolen_role_can_do_nothing_but_its_work(
    site: Site, unit: str, other: str, others_secret: str, own_secret: str
) -> None:
    shutil.copy(PROBE, site.box.root / "usr/local/lib/probe.py")
    library = site.box.ok("ls /usr/lib/*/libz.so.1 /usr/lib/*/libuuid.so.1 2>/dev/null | head -1")
    words = f"/usr/local/lib/probe.py {other} {library} {others_secret} {own_secret}"
    put_into_sandbox(site, unit, f"python3 {words}", "probe")
    site.box.ok("systemctl start probe; rm -f /var/lib/kmp-smsd/dropped*")
    came = json.loads((site.box.root / "run/lab/probe").read_text(encoding="utf-8"))
    assert {name for name, outcome in came.items() if outcome == "done"} == MUST_WORK, came


def put_into_sandbox(site: Site, unit: str, command: str, name: str) -> None:
    """Have the service `name` run `command` once, as `unit` runs its role; /run/lab/NAME gets its output."""
    text = site.box.ok(f"cat /usr/lib/systemd/system/{unit}")
    text = re.sub(r"^ExecStart=.*", f"ExecStart=/opt/kmp-smsd/bin/{command}", text, flags=re.MULTILINE)
    text = re.sub(r"^(PartOf|ExecReload|WatchdogSec|Restart\w*|NotifyAccess)=.*\n", "", text, flags=re.MULTILINE)
    text = text.replace("Type=notify", "Type=oneshot").replace("Output=journal", f"Output=truncate:/run/lab/{name}", 1)
    site.box.put(f"/run/systemd/system/{name}.service", text)
    site.box.ok("systemctl daemon-reload")


@both_roles
def test_doctor_finds_the_sandbox_of_a_role_good_and_what_a_drop_in_took_from_it(site: Site, unit: str) -> None:
    skip = " ".join(f"--skip {check}" for check in CHECKS if check != "sandbox")
    put_into_sandbox(site, unit, f"kmp-smsd doctor {skip}", "judging")
    said = site.box.root / "run/lab/judging"
    site.box.ok("systemctl start judging")
    assert said.read_text(encoding="utf-8").endswith("0 failures, 0 warnings, 8 ok\n")
    drop_in = "[Service]\nReadWritePaths=\nReadOnlyPaths=\nReadOnlyPaths=/run\nNoExecPaths=\n"
    site.box.put("/run/systemd/system/judging.service.d/less.conf", drop_in)
    assert site.box.run("systemctl daemon-reload; systemctl start judging").returncode != 0
    needed = "/var/lib/kmp-smsd, /run/kmp-smsd cannot be written: the unit lacks ReadWritePaths="
    assert needed in said.read_text(encoding="utf-8")
    site.box.ok("rm -r /run/systemd/system/judging.service*; systemctl daemon-reload")


@both_roles
def test_a_killed_role_is_started_again(site: Site, unit: str) -> None:
    killed = site.pid(unit)
    site.box.ok(f"kill -9 {killed}")
    site.box.until(lambda: site.pid(unit) not in (0, killed) and site.box.show(unit, "SubState") == ["running"])
    site.binds({INTAKE: 2, DISPATCH: 3}[unit])


def test_what_is_confirmed_and_what_is_in_flight_survive_a_kill_of_both(site: Site) -> None:
    site.send(*range(4, 10))
    site.box.ok(f"kill -9 {site.pid(INTAKE)} {site.pid(DISPATCH)}")
    site.box.until(lambda: site.answered(*range(4, 10)))
    site.box.until(lambda: {MDN.format(n) for n in range(4, 10)} <= site.held())
    assert len({row["mdn"] for row in site.bound()}) == len(site.bound())


@both_roles
def test_a_hang_is_noticed_by_the_watchdog(site: Site, unit: str) -> None:
    site.box.put(f"/run/systemd/system/{unit}.d/watchdog.conf", "[Service]\nWatchdogSec=2s\n")
    site.box.ok(f"systemctl daemon-reload; systemctl restart {unit}")
    hung = site.pid(unit)
    site.box.ok(f"kill -STOP {hung}")
    site.box.until(lambda: site.pid(unit) not in (0, hung) and site.box.show(unit, "SubState") == ["running"])
    log = site.box.log(unit, 160)
    assert f"{unit}: Watchdog timeout" in log
    assert "most recent call first" in log  # where it hung
    site.box.ok(f"rm /run/systemd/system/{unit}.d/watchdog.conf; systemctl daemon-reload")


def test_a_good_reload_is_taken_by_the_same_process(site: Site) -> None:
    before = [site.pid(unit) for unit in ROLES]
    site.box.ok(f"sed -i 's/^#mdn_burst = .*/mdn_burst = 20/' {CONFIG}; systemctl reload {' '.join(ROLES)}")
    assert [site.pid(unit) for unit in ROLES] == before
    for unit in ROLES:
        told = site.configuration(unit)
        assert (told["last_reload_ok"], told["differs"]) == (True, False)


@both_roles
def test_a_hangup_reloads_too_and_systemd_is_told(site: Site, unit: str) -> None:
    before = site.pid(unit)
    site.box.ok(f"kill -HUP {before}")
    site.box.until(lambda: site.configuration(unit)["last_reload_ok"] is True)
    site.box.until(lambda: site.box.show(unit, "SubState", "MainPID") == ["running", str(before)])


@both_roles
def test_a_refused_reload_fails_and_the_old_configuration_runs_on(site: Site, unit: str) -> None:
    before = site.pid(unit)
    site.box.ok(f"echo 'no_such_option = 1' >> {CONFIG}")
    assert site.box.run(f"systemctl reload {unit}").returncode != 0
    assert (site.pid(unit), site.box.show(unit, "ActiveState")) == (before, ["active"])
    assert "no_such_option: unknown option" in site.box.ok(f"journalctl --sync; systemctl status {unit}")
    site.box.until(lambda: "the last reload was refused" in site.status_text(unit))
    site.binds({INTAKE: 10, DISPATCH: 11}[unit])


@both_roles
def test_a_stop_is_in_good_order_and_loses_nothing(site: Site, unit: str) -> None:
    numbers = {INTAKE: range(12, 15), DISPATCH: range(15, 18)}[unit]
    site.send(*numbers)
    site.box.ok(f"systemctl stop {unit}")
    assert site.box.show(unit, "Result", "ExecMainStatus") == ["success", "0"]
    assert "stopped: " in site.box.log(unit)
    site.box.ok(f"systemctl start {unit}")
    site.box.until(lambda: site.answered(*numbers))
    site.box.until(lambda: {MDN.format(n) for n in numbers} <= site.held())


def fails_to_start(site: Site, unit: str, status: int) -> str:
    """Start `unit`, which is to end with `status` and not to be started again; what the journal has of errors then."""
    site.box.ok(f"systemctl stop {unit}; journalctl --rotate --vacuum-time=1s --quiet 2>/dev/null || true")
    assert site.box.run(f"systemctl start {unit}").returncode != 0
    shown = site.box.show(unit, "ActiveState", "ExecMainStatus", "NRestarts")
    assert shown == ["failed", str(status), "0"]
    return site.box.ok(f"journalctl --sync; journalctl --no-pager --output=cat --priority=err --unit={unit}")


@both_roles
def test_a_bad_configuration_is_told_and_not_tried_again(site: Site, unit: str) -> None:
    site.box.ok(f"echo 'no_such_option = 1' >> {CONFIG}")
    assert "no_such_option: unknown option" in fails_to_start(site, unit, 78)


@pytest.mark.parametrize("spoil", ["rm master-key", "sed -i s/././ master-key"], ids=["missing", "wrong"])
def test_a_master_key_that_is_not_the_right_one_is_told_and_not_tried_again(site: Site, spoil: str) -> None:
    site.box.ok(f"cd /etc/kmp-smsd/credentials; cp -a master-key /root/master-key; {spoil}")
    assert "master-key" in fails_to_start(site, DISPATCH, 77)
    site.box.ok("mv /root/master-key /etc/kmp-smsd/credentials/master-key")


def test_a_missing_password_is_told_with_the_file_that_it_is_wanted_in(site: Site) -> None:
    site.box.ok("mv /etc/kmp-smsd/credentials/smsc/north /root/north")
    assert "put it into /etc/kmp-smsd/credentials/smsc/north" in fails_to_start(site, INTAKE, 77)
    site.box.ok("mv /root/north /etc/kmp-smsd/credentials/smsc/north")


def test_directories_of_secrets_may_be_missing_and_what_is_wanted_of_them_is_told(site: Site) -> None:
    """A copy that is put back may lack those that were empty."""
    site.box.ok(f"cd /etc/kmp-smsd/credentials; mv ssh tls smsc /root; systemctl restart {DISPATCH}")
    assert "put it into /etc/kmp-smsd/credentials/smsc/north" in fails_to_start(site, INTAKE, 77)
    site.box.ok("mv /etc/kmp-smsd/credentials /root/secrets")
    assert "master-key" in fails_to_start(site, DISPATCH, 77)
    site.box.ok("cd /root; mv secrets /etc/kmp-smsd/credentials; mv ssh tls smsc /etc/kmp-smsd/credentials")


DECRYPTING = (
    "systemd-run --pipe --wait --quiet -p LoadCredentialEncrypted=master-key:/etc/kmp-smsd/credentials/master-key.cred"
)


def judged_secrets(site: Site, unit: str) -> list[str]:
    """What doctor makes of the secrets and of the master key, run by `unit`."""
    skip = " ".join(f"--skip {check}" for check in CHECKS if check not in ("credentials", "master-key"))
    said = site.box.run(f"{unit} kmp-smsd doctor {skip} --json").stdout.splitlines()
    return [json.loads(line)["level"] for line in said]


def test_a_master_key_that_is_encrypted_on_the_disk_is_taken(site: Site) -> None:
    site.box.ok(
        f"mkdir -p /etc/systemd/system/{DISPATCH}.d\n"
        f"cp /usr/share/doc/kmp-smsd/systemd/examples/20-encrypted-credentials.conf /etc/systemd/system/{DISPATCH}.d/\n"
        "cd /etc/kmp-smsd/credentials\n"
        "systemd-creds encrypt --with-key=host --name=master-key master-key master-key.cred\n"
        "mv master-key /root/master-key\n"
        f"systemctl daemon-reload; systemctl restart {DISPATCH}"
    )
    site.binds(18)
    assert judged_secrets(site, "") == judged_secrets(site, DECRYPTING) == ["ok", "ok"]
    site.box.ok(
        "cd /etc/kmp-smsd/credentials\n"
        "mv master-key.cred /root/good.cred; head -c 100 /root/good.cred > master-key.cred"
    )
    assert judged_secrets(site, "") == ["ok", "ok"]
    assert judged_secrets(site, DECRYPTING) == []  # as the role, it is not even started
    fails_to_start(site, DISPATCH, 243)
    site.box.ok(
        f"rm -r /etc/systemd/system/{DISPATCH}.d; mv /root/master-key /etc/kmp-smsd/credentials/\n"
        f"systemctl daemon-reload; systemctl restart {DISPATCH}"
    )


def test_roles_that_may_talk_to_nobody_but_their_peers_do_their_work(site: Site) -> None:
    site.box.ok(
        "for role in intake dispatch; do\n"
        "  mkdir -p /etc/systemd/system/kmp-smsd-$role.service.d\n"
        "  kmp-smsd hardening $role > /etc/systemd/system/kmp-smsd-$role.service.d/10-peers.conf\n"
        "done\n"
        "systemctl daemon-reload; systemctl restart kmp-smsd.target"
    )
    assert sorted(site.box.show(INTAKE, "IPAddressDeny")[0].split()) == ["0.0.0.0/0", "::/0"]
    site.binds(1)
    assert judged_filters(site) == ["ok", "ok"]
    site.box.ok(
        "sed -i /^IPAddressAllow=/d /etc/systemd/system/kmp-smsd-intake.service.d/10-peers.conf\n"
        "systemctl daemon-reload"
    )
    assert judged_filters(site) == ["failure", "ok"]
    site.box.ok("rm -r /etc/systemd/system/kmp-smsd-*.service.d; systemctl daemon-reload")


def judged_filters(site: Site) -> list[str]:
    """What doctor makes of each unit's."""
    skip = " ".join(f"--skip {check}" for check in CHECKS if check != "address-filter")
    (line,) = site.box.run(f"kmp-smsd doctor {skip} --json").stdout.splitlines()
    return [one["level"] for one in json.loads(line)["findings"]]


def test_one_process_can_have_both_roles_and_ends_the_two(site: Site) -> None:
    """Each has ended before the other begins, however long that takes: here until the SMSC's answer is given up."""
    both = "kmp-smsd.service"
    site.box.ok("systemctl kill --signal=STOP lab-smsc")
    site.box.ok(f"systemctl start {both}")
    assert [site.box.show(unit, "ActiveState", "Result") for unit in ROLES] == [["inactive", "success"]] * 2
    site.box.ok("systemctl kill --signal=CONT lab-smsc")
    site.binds(19)
    site.box.ok("systemctl kill --signal=STOP lab-smsc")
    site.box.ok("systemctl start kmp-smsd.target")
    site.box.ok("systemctl kill --signal=CONT lab-smsc")
    assert site.box.show(both, "ActiveState", "Result") == ["inactive", "success"]
    shown = [site.box.show(unit, "ActiveState", "NRestarts") for unit in ROLES]
    assert shown == [["active", "0"]] * 2


STOPPED = "run/kmp-smsd.stopped"
IN_THE_WAY = """\
/opt/kmp-smsd/bin/python3 - <<'PYTHON'
from pysqlite3 import dbapi2
with dbapi2.connect("/var/lib/kmp-smsd/kmp-smsd.db") as database:
    database.execute("{statement}")
PYTHON
"""


def test_an_upgrade_whose_migration_fails_is_finished_by_configuring_again(site: Site, next_package: Path) -> None:
    bindings, before = site.bound(), [site.pid(unit) for unit in ROLES]
    site.box.ok(IN_THE_WAY.format(statement="CREATE TABLE next_version (number INTEGER)"))
    shutil.copy(next_package, site.box.root / "root/next.deb")
    failed = site.box.run("dpkg --install /root/next.deb")
    assert failed.returncode != 0
    assert "Mend this, then: dpkg --configure kmp-smsd" in failed.stdout
    assert [site.pid(unit) for unit in ROLES] == [0, 0]
    site.box.ok(IN_THE_WAY.format(statement="DROP TABLE next_version"))
    # A command that still has the database open is waited for.
    site.box.ok("flock --shared /var/lib/kmp-smsd/kmp-smsd.db.schema sleep 5 & dpkg --configure kmp-smsd; wait")
    assert site.box.ok("kmp-smsd db schema") == "9999_next"
    assert site.bound() == bindings
    assert not {0, *before} & {site.pid(unit) for unit in ROLES}
    assert "before-9999_next" in site.box.ok("ls /var/lib/kmp-smsd")
    site.binds(20)


def test_an_upgrade_has_what_ran_run_again_and_nothing_else(site: Site, next_package: Path) -> None:
    site.box.ok(f"systemctl stop {DISPATCH}")
    before = site.pid(INTAKE)
    site.install(next_package)
    assert site.pid(INTAKE) not in (0, before)
    assert site.pid(DISPATCH) == 0


def test_what_a_person_stopped_after_a_migration_by_hand_is_not_started_by_configuring(
    site: Site, next_package: Path
) -> None:
    """The migration fails because what it makes is there already."""
    site.box.ok(IN_THE_WAY.format(statement="DELETE FROM _sqlite_migrations WHERE name = '9999_next'"))
    shutil.copy(next_package, site.box.root / "root/next.deb")
    assert site.box.run("dpkg --install /root/next.deb").returncode != 0
    assert [site.pid(unit) for unit in ROLES] == [0, 0]
    site.box.ok(IN_THE_WAY.format(statement="DROP TABLE next_version"))
    site.box.ok(f"kmp-smsd db migrate; systemctl start kmp-smsd.target; systemctl stop {' '.join(ROLES)}")
    site.box.ok(f"systemctl start {INTAKE}; dpkg --configure kmp-smsd")
    assert site.pid(INTAKE) != 0
    assert site.pid(DISPATCH) == 0
    assert not (site.box.root / STOPPED).exists()


def test_an_upgrade_that_the_configuration_does_not_suit_says_how_to_renew_what_ran_and_nothing_else(
    site: Site, next_package: Path
) -> None:
    site.box.ok(f"systemctl stop {DISPATCH}; echo 'no_such_option = 1' >> {CONFIG}")
    before = site.pid(INTAKE)
    shutil.copy(next_package, site.box.root / "root/next.deb")
    said = site.box.ok("dpkg --install /root/next.deb")
    assert "no_such_option: unknown option" in said
    assert site.pid(INTAKE) == before
    (words,) = re.findall(r"^kmp-smsd: (systemctl stop .*)$", said, re.MULTILINE)
    site.box.ok(f"cp /root/good.toml {CONFIG}; {words}")
    assert site.pid(INTAKE) not in (0, before)
    assert site.pid(DISPATCH) == 0


def test_a_downgrade_below_the_database_is_refused_and_disturbs_nobody(site: Site, package: Path) -> None:
    before = [site.pid(unit) for unit in ROLES]
    refused = site.box.run(f"dpkg --install /root/{package.name}")
    assert refused.returncode != 0
    assert "the database has schema 9999_next, and version" in refused.stdout
    assert [site.pid(unit) for unit in ROLES] == before
    assert "Version: 99." in site.box.ok("dpkg-query --status kmp-smsd")
    assert site.box.ok("dpkg --audit") == ""


def test_removal_stops_the_roles_and_keeps_what_is_the_users(site: Site) -> None:
    left = "/var/lib/kmp-smsd/kmp-smsd.db-inbox/000000000099-00000000000000aa.messages"
    site.box.ok(f"systemctl stop {' '.join(ROLES)}; echo > {left}; systemctl start {DISPATCH}")
    site.box.put(f"/{STOPPED}", f"9999_next\n{INTAKE}\n")
    assert "not decided are left in /var/lib/kmp-smsd/kmp-smsd.db-inbox:" in site.box.ok("dpkg --remove kmp-smsd")
    assert not (site.box.root / STOPPED).exists()
    assert site.box.run("pgrep -u kmp-intake,kmp-dispatch").stdout == ""
    assert not (site.box.root / "opt/kmp-smsd").exists()
    assert len(modes(site, CONFIG, "/var/lib/kmp-smsd/kmp-smsd.db", "/etc/kmp-smsd/credentials/master-key")) == 3


def test_purging_leaves_the_keys_and_the_database_to_a_person(installed: Site) -> None:
    said = installed.box.ok("dpkg --purge kmp-smsd")
    assert "/var/lib/kmp-smsd is left" in said
    assert "/etc/kmp-smsd is left" in said
    assert len(modes(installed, "/var/lib/kmp-smsd/kmp-smsd.db", "/etc/kmp-smsd/credentials/master-key")) == 2
    assert not (installed.box.root / CONFIG.lstrip("/")).exists()
    assert "kmp-smsd" not in installed.box.ok("ls /etc/systemd/system/multi-user.target.wants 2>/dev/null || true")
