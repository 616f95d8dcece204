"""`doctor` on one installation: the order of its checks, what it leaves out, and its exit codes."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import socket
import threading
import time

import pytest

from kmp_smsd.channels.options import SecretRef
from kmp_smsd.cli.doctor import CHECKS
from kmp_smsd.cli.gathering import secrets
from kmp_smsd.cli.gathering.machine import is_synchronized, room_beside, sandbox
from kmp_smsd.diagnosis.room import judge_room
from kmp_smsd.domain.outcome import Outcome
from kmp_smsd.domain.request import Unfit
from kmp_smsd.simulator.openssh import new_identity
from kmp_smsd.simulator.server import SmscServer
from kmp_smsd.vault.master_key import create
from tests.cli.site import FIRST, Site, dead_port

#: What depends on the machine that the tests run on, and what takes the network.
ELSEWHERE = ("clock", "platforms", "sandbox", "database", "address-filter")


def reports(site: Site, *words: str, skip: tuple[str, ...] = ELSEWHERE, **env: str) -> tuple[int, dict[str, dict]]:
    done = site.run("doctor", *(word for name in skip for word in ("--skip", name)), *words, "--json", **env)
    assert done.stderr == ""
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return done.exit_code, {line["check"]: line for line in lines}


def faults(report: dict) -> list[str]:
    return [one["sentence"] for one in report["findings"] if one["level"] != "ok"]


@pytest.fixture
def site(site: Site) -> Site:
    site.ready("K1")
    site.write("ssh-identity", "a key").chmod(0o600)
    listener = socket.create_server(("127.0.0.1", 0))
    site.link(listener.getsockname()[1])
    (site.directory / "smsc-password").chmod(0o600)
    yield site
    listener.close()


def test_good_installation_has_nothing_to_look_at(site):
    code, found = reports(site)
    assert [faults(report) for report in found.values()] == [[]] * len(found)
    assert code == 0
    assert list(found) == [
        "configuration",
        "permissions",
        "credentials",
        "master-key",
        "integrity",
        "traffic",
        "role intake",
        "role dispatch",
        "smsc lab",
    ]


def test_page_for_people_has_a_line_for_each_finding_and_a_count(site):
    lines = site.ok("doctor", *(word for name in ELSEWHERE for word in ("--skip", name))).splitlines()
    assert lines[0] == "[ok] configuration"
    assert lines[1].startswith("  [ok] ")
    assert lines[-1].startswith("0 failures, 0 warnings, ")
    assert not [line for line in lines if "\x1b" in line]


def test_every_check_can_be_left_out(site):
    assert reports(site, skip=CHECKS) == (0, {})


def test_faulty_configuration_is_told_whole_and_nothing_else_is_tried(site):
    site.write("kmp-smsd.toml", site.config.read_text().replace("hosts =", "hoasts ="))
    code, found = reports(site)
    assert (code, list(found)) == (78, ["configuration"])
    assert "unknown option (did you mean 'hosts'?)" in faults(found["configuration"])[0]


def test_role_without_anything_to_do_is_a_warning_for_that_role_alone(site):
    (site.directory / "platforms.d" / "metering.toml").unlink()
    code, found = reports(site)
    assert (code, found["configuration"]["level"]) == (1, "warning")
    assert "no platform is enabled" in faults(found["configuration"])[0]
    assert reports(site, "--role", "intake")[0] == 0
    site.write("kmp-smsd.toml", site.config.read_text() + "enabled = false\n")
    assert "no [smsc.NAME] section is enabled" in faults(reports(site, "--role", "intake")[1]["configuration"])[0]


def test_ignored_files_are_a_warning(site):
    site.write("platforms.d/metering.toml.dpkg-new", "")
    code, found = reports(site)
    assert (code, found["configuration"]["level"]) == (1, "warning")
    assert faults(found["configuration"])[0].endswith("platforms.d: metering.toml.dpkg-new")


def test_what_nobody_reads_in_the_inbox_is_a_warning(site):
    site.write(f"{site.database.name}-inbox/000000000001-00000000000000aa.messages.damaged", "")
    site.write(f"{site.database.name}-inbox/no\ntes", "")
    site.write(f"{site.database.name}-inbox/000000000002-00000000000000aa.messages", "")
    _, found = reports(site, skip=tuple(name for name in ELSEWHERE if name != "database"))
    assert [fault for fault in faults(found["database"]) if "inbox" in fault] == [
        f"in {site.database}-inbox nobody reads 000000000001-00000000000000aa.messages.damaged, no\\ntes"
    ]


def test_of_much_that_nobody_reads_the_first_is_named(site):
    for number in range(7):
        site.write(f"{site.database.name}-inbox/{number}", "")
    _, found = reports(site, skip=tuple(name for name in ELSEWHERE if name != "database"))
    assert faults(found["database"])[0].endswith("nobody reads 0, 1, 2, 3, 4 and 2 more")


def test_file_that_others_may_write_is_a_failure_with_its_remedy(site):
    (site.directory / "master.pub").chmod(0o666)
    code, found = reports(site)
    assert code == 77
    (fault,) = [one for one in found["permissions"]["findings"] if one["level"] != "ok"]
    assert fault["remedy"] == f"chmod go-w {site.directory}/master.pub"


def test_database_open_to_others_is_a_failure(site):
    site.database.chmod(0o664)
    code, found = reports(site)
    assert (code, found["permissions"]["level"]) == (77, "failure")


def test_a_missing_database_is_no_missing_permission(site):
    site.database.unlink()
    code, found = reports(site)
    assert (code, found["permissions"]["level"], found["database"]["level"]) == (78, "warning", "failure")
    assert faults(found["permissions"]) == [f"{site.database}: No such file or directory"]


@pytest.mark.parametrize(
    ("named", "what"),
    [
        ('path = "kmp.db"', "state directory"),
        ('directory = "control"', "directory of the control sockets"),
    ],
)
def test_a_missing_directory_is_no_missing_permission_but_what_the_roles_end_with(site, named, what):
    text = site.config.read_text(encoding="utf-8")
    site.write("kmp-smsd.toml", text.replace(named, named.replace('= "', '= "nowhere/')))
    nowhere = site.directory / "nowhere" / ("control" if "control" in named else "")
    code, found = reports(site)
    assert f"{what} {nowhere}: No such file or directory" in faults(found["permissions"])
    assert code == site.run("intake").exit_code == 78


def test_missing_password_is_a_failure_of_intake_only(site):
    (site.directory / "smsc-password").unlink()
    assert reports(site)[0] == 77
    assert reports(site, "--role", "dispatch")[0] == 0
    assert "smsc lab" not in reports(site, "--role", "dispatch")[1]


def test_credentials_of_a_unit_are_judged_by_what_they_hold_and_not_by_their_modes(site, tmp_path):
    directory = tmp_path / "credentials"
    directory.mkdir()
    site.write(
        "kmp-smsd.toml",
        site.config.read_text().replace(f'{{file = "{site.directory}/master.key"}}', '{credential = "master-key"}'),
    )
    (directory / "master-key").write_bytes((site.directory / "master.key").read_bytes())
    (directory / "master-key").chmod(0o444)
    assert reports(site, CREDENTIALS_DIRECTORY=str(directory))[0] == 0


def test_directory_of_credentials_without_a_name_is_not_the_present_one(tmp_path, monkeypatch):
    (tmp_path / "master-key").write_bytes(b"another file")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", "")
    monkeypatch.setattr(secrets, "CREDENTIALS", tmp_path / "files")
    assert secrets.here(SecretRef(credential="master-key")).file == tmp_path / "files/master-key"


def test_credentials_are_judged_outside_a_unit_by_the_files_that_it_loads(site, tmp_path, monkeypatch):
    monkeypatch.setattr(secrets, "CREDENTIALS", tmp_path)
    text = site.config.read_text()
    for option, name in (("master.key", "master-key"), ("ssh-identity", "ssh_common"), ("smsc-password", "smsc_lab")):
        text = text.replace(f'{{file = "{site.directory}/{option}"}}', f'{{credential = "{name}"}}')
        loaded = tmp_path / name.replace("_", "/")
        loaded.parent.mkdir(exist_ok=True)
        loaded.write_bytes((site.directory / option).read_bytes())
        loaded.chmod(0o600)
    site.write("kmp-smsd.toml", text)
    code, found = reports(site)
    if os.geteuid() == 0:
        assert (code, faults(found["credentials"])) == (0, [])
    assert not faults(found["master-key"])
    password = (tmp_path / "smsc" / "lab").read_bytes()
    (tmp_path / "smsc" / "lab").write_bytes(b"longer than SMPP has it")
    code, found = reports(site)
    if os.geteuid() == 0:  # intake does not start with it
        assert (code, "longer than SMPP's 8 characters" in faults(found["credentials"])[0]) == (77, True)
    (tmp_path / "smsc" / "lab").write_bytes(password)
    (tmp_path / "smsc" / "lab").chmod(0o640)
    assert "smsc/lab is open to other users" in faults(reports(site)[1]["credentials"])[-1 if os.geteuid() else 0]
    (tmp_path / "master-key").write_bytes(create()[0])
    assert reports(site)[1]["master-key"]["level"] == "failure"
    (tmp_path / "master-key").unlink()
    code, found = reports(site)
    assert "master-key: No such file or directory: the role that needs it does not start" in " ".join(
        faults(found["credentials"])
    )
    assert not faults(found["master-key"])


def test_a_credential_that_lies_encrypted_is_not_called_missing_and_is_looked_at_in_a_unit_that_decrypts_it(
    site, tmp_path, monkeypatch
):
    """The unit may be given one of several alone."""
    files, given = tmp_path / "files", tmp_path / "given"
    files.mkdir()
    given.mkdir()
    monkeypatch.setattr(secrets, "CREDENTIALS", files)
    text = site.config.read_text()
    for option, name in (
        ("master.key", "master-key"),
        ("ssh-identity", "ssh-identity"),
        ("smsc-password", "smsc_lab"),
    ):
        text = text.replace(f'{{file = "{site.directory}/{option}"}}', f'{{credential = "{name}"}}')
    site.write("kmp-smsd.toml", text)
    (files / "ssh-identity").write_bytes((site.directory / "ssh-identity").read_bytes())
    (files / "ssh-identity").chmod(0o600)
    for name in ("master-key", "smsc_lab"):
        (files / f"{name}.cred").write_bytes(b"encrypted")
    (given / "master-key").write_bytes(create()[0])
    words = ("doctor", "--json", *(word for name in ("platforms", *ELSEWHERE) for word in ("--skip", name)))
    outside = site.run(*words).stdout
    inside = site.run(*words, CREDENTIALS_DIRECTORY=str(given)).stdout
    assert f"{files}/master-key.cred, into which was not looked" in outside
    assert "the private half is" in inside
    for said in (outside, inside):
        assert f"{files}/smsc_lab.cred, into which was not looked" in said
        assert "No such file" not in said
    for unit in ({}, {"CREDENTIALS_DIRECTORY": str(given)}):
        said = site.run(*words, "--bind", **unit).stdout
        (bind,) = [json.loads(line) for line in said.splitlines() if '"smsc lab"' in line]
        assert bind["level"] == "warning"
        (told,) = [one for one in bind["findings"] if one["sentence"].startswith("no bind is tried")]
        assert told["sentence"].endswith("intake's password lies encrypted on the disk")
        decrypting = f"systemd-run --pty -p LoadCredentialEncrypted=smsc_lab:{files}/smsc_lab.cred"
        assert told["remedy"].endswith(f"\n{decrypting} kmp-smsd doctor --bind --skip sandbox")


@pytest.mark.parametrize(
    ("uid", "remedy"),
    [(0, "run this where intake's password is read"), (1, "run this as root, or where intake's password is read")],
)
def test_root_is_not_asked_to_be_root_for_a_bind(site, monkeypatch, uid, remedy):
    (site.directory / "smsc-password").unlink()
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert f"-> {remedy}\n" in site.run("doctor", "--bind", "--role", "intake").stdout


def test_platform_whose_identity_is_another_units_credential_is_a_warning(site):
    text = site.config.read_text()
    site.write(
        "kmp-smsd.toml", text.replace(f'{{file = "{site.directory}/ssh-identity"}}', '{credential = "none-such"}')
    )
    code, found = reports(site, "--skip", "credentials", skip=("clock", "sandbox", "database"))
    assert (code, found["platform metering"]["level"]) == (1, "warning")
    assert faults(found["platform metering"])[0].startswith("no login is tried: /etc/kmp-smsd/credentials/none-such")


def test_wrong_master_key_is_a_failure(site):
    (site.directory / "master.key").write_bytes(create()[0])
    code, found = reports(site)
    assert (code, found["master-key"]["level"]) == (77, "failure")
    assert "the keys in the database are sealed to master key" in faults(found["master-key"])[0]


def test_without_a_database_the_rest_is_looked_at_nevertheless(site):
    site.database.unlink()
    code, found = reports(site, "--skip", "permissions")
    assert code == 78
    assert found["database"]["level"] == "failure"
    assert found["integrity"]["skipped"] == "the database could not be used"
    assert found["smsc lab"]["level"] == "ok"


def test_refused_number_ranges_of_the_last_day_are_shown(site):
    now = int(time.time() * 1000)
    unfit = Unfit(outcome=Outcome.INVALID_MDN, sender="86199/13", received_at=now, link="lab")
    with site.store() as store:
        store.settle([unfit] * 12, now)
        store.settle([Unfit(outcome=Outcome.INVALID_MDN, sender="86198/13", received_at=now, link="lab")] * 99, 1_000)
    code, found = reports(site)
    assert code == 1
    (fault,) = faults(found["traffic"])
    assert "86199/13 by lab: 12 messages" in fault
    assert "86198" not in fault


def test_time_in_which_the_clock_was_ahead_is_told_after_it_was_set_right(site):
    now = int(time.time() * 1000)
    site.message(FIRST, "K1", now + 86_400_000)
    site.message(FIRST, "K1", now)
    _, found = reports(site, skip=tuple(name for name in ELSEWHERE if name != "clock"))
    assert [fault for fault in faults(found["clock"]) if "in the future" in fault]


def test_delivery_older_than_a_day_is_told(site):
    site.message(FIRST, "K1")
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2_000_000))
    assert "platform metering owes receipts since" in faults(reports(site)[1]["traffic"])[0]


def link_to(site, *hosts):
    text = site.config.read_text()
    start = text.index('hosts = ["127.0.0.1:')
    site.write("kmp-smsd.toml", text.replace(text[start : text.index("\n", start)], f"hosts = {json.dumps(hosts)}"))


def test_smsc_that_does_not_answer_is_a_failure(site):
    with dead_port() as port:
        link_to(site, f"127.0.0.1:{port}", "no-such.invalid:1")
        code, found = reports(site)
    assert code == 69
    refused, unresolved = faults(found["smsc lab"])
    assert refused.endswith("no connection: Connection refused")
    assert unresolved.startswith("no-such.invalid:1: its name is not resolved")


def test_bind_that_gets_no_answer_is_a_failure(site):
    site.write("kmp-smsd.toml", site.config.read_text() + "bind_timeout_s = 0.2\n")
    code, found = reports(site, "--bind")
    assert code == 69
    assert "the bind was not answered within 0.2 s" in faults(found["smsc lab"])[0]


def test_password_in_a_file_that_the_smsc_refuses_is_taken_over_by_a_reload(site):
    with SmscServer() as smsc:
        link_to(site, f"127.0.0.1:{smsc.port}")
        site.write("smsc-password", "wrong")
        told = site.run("doctor", "--bind", "--role", "intake").stdout
    assert "was refused with ESME_RINVPASWD" in told
    assert "what the SMSC's operator issued, then: kmp-smsd reload\n" in told


def test_password_that_is_unfit_for_a_bind_is_to_be_mended_and_not_to_be_read_by_another(site):
    site.write("smsc-password", "")
    done = site.run("doctor", "--bind", "--role", "intake")
    told = done.stdout[done.stdout.index("no bind is tried: the password in ") :]
    assert "-> mend what the sentence names; intake needs it, too" in told
    assert "run this as root" not in told


def test_platform_that_does_not_answer_is_a_failure(site):
    site.platform("metering", "127.0.0.1:1")
    code, found = reports(site, skip=("clock", "sandbox", "database"))
    assert code == 69
    assert found["platform metering"]["level"] == "failure"


def test_platform_that_hangs_delays_no_other(site):
    """Each of the two is hung up on when both have connected: one after the other, the first would time out."""
    (site.directory / "ssh-identity").write_bytes(new_identity()[0])
    with socket.create_server(("127.0.0.1", 0)) as first, socket.create_server(("127.0.0.1", 0)) as second:
        for name, listener in (("metering", first), ("tracking", second)):
            file = site.platform(name, f"127.0.0.1:{listener.getsockname()[1]}")
            file.write_text(file.read_text().replace('"meter", "tracker"', f'"app-of-{name}"'))

        def hang_up_on_both() -> None:
            with first.accept()[0], second.accept()[0]:
                pass

        hanging_up = threading.Thread(target=hang_up_on_both)
        hanging_up.start()
        found = reports(site, skip=("clock", "sandbox", "database"))[1]
        hanging_up.join()
    for name in ("metering", "tracking"):
        assert "not connected within" not in faults(found[f"platform {name}"])[0]


SYSTEMCTL = """\
#!/bin/sh
echo "LoadState=$([ "$2" = kmp-smsd-intake.service ] && echo loaded || echo not-found)"
echo IPAddressAllow=192.0.2.7/32
echo IPAddressDeny=0.0.0.0/0 ::/0
"""


def test_address_that_the_unit_does_not_let_through_is_a_failure(site):
    """tests/systemd asks the real systemd."""
    site.write("bin/systemctl", SYSTEMCTL).chmod(0o755)
    skip = [check for check in CHECKS if check != "address-filter"]
    code, found = reports(site, skip=skip, PATH=f"{site.directory}/bin:{os.environ['PATH']}")
    assert code == 69
    assert faults(found["address-filter"]) == [
        "kmp-smsd-intake.service may not talk to 127.0.0.1, which is SMSC lab: 127.0.0.1"
    ]


def test_where_systemd_says_nothing_no_address_filter_is_judged(site):
    skip = [check for check in CHECKS if check != "address-filter"]
    code, found = reports(site, skip=skip, PATH=str(site.directory))
    assert code == 0
    assert found["address-filter"]["skipped"] == "systemd does not say what the units may talk to"


def test_sandbox_is_judged_inside_a_unit_only(site):
    skip = ("clock", "platforms", "database")
    assert reports(site, skip=skip)[1]["sandbox"]["skipped"] == "this does not run in a unit of systemd"
    assert reports(site, skip=skip, INVOCATION_ID="1")[1]["sandbox"]["findings"]


def test_unit_that_doctor_advises_to_run_it_in_is_judged_by_no_sandbox(site):
    text = site.config.read_text()
    site.write(
        "kmp-smsd.toml", text.replace(f'{{file = "{site.directory}/ssh-identity"}}', '{credential = "none-such"}')
    )
    (missing,) = (one for one in reports(site)[1]["credentials"]["findings"] if one["level"] != "ok")
    unit, words = missing["remedy"].splitlines()[-1].split(" kmp-smsd doctor ")
    assert unit.startswith("systemd-run ")
    _, found = reports(site, *words.split(), skip=("clock", "platforms", "database"), INVOCATION_ID="1")
    assert ("credentials" in found, "sandbox" in found) == (True, False)


def test_what_the_kernel_says_is_read(site):
    facts = sandbox(site.directory, [site.directory])
    assert (facts.configuration_is_read_only, facts.closed) == (False, ())
    assert None not in (facts.no_new_privileges, facts.seccomp, facts.capabilities, facts.can_make_code)
    assert is_synchronized() in (True, False, None)
    room = room_beside(site.database)
    assert (room.octets, room.free_octets > 0) == (os.stat(site.database).st_size, True)


def test_read_only_mount_is_known_as_one(site, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, os.ST_RDONLY, 255)))
    facts = sandbox(site.directory, [site.directory])
    assert (facts.configuration_is_read_only, facts.closed) == (True, (str(site.directory),))


def test_directory_that_is_missing_is_on_no_read_only_mount(site):
    facts = sandbox(site.directory / "missing", [site.directory / "missing"])
    assert (facts.configuration_is_read_only, facts.closed) == (None, ())


def test_volume_that_does_not_tell_how_large_it_is_has_room(site, monkeypatch):
    monkeypatch.setattr(os, "statvfs", lambda _: os.statvfs_result((4096, 4096, 0, 0, 0, 0, 0, 0, 0, 255)))
    assert judge_room(room_beside(site.database))[0].level == "ok"


def test_db_check_has_the_form_of_doctor(site):
    assert site.ok("db", "check").splitlines()[0] == "[ok] integrity"
    (found,) = site.rows("db", "check")
    assert (found["check"], found["level"]) == ("integrity", "ok")


def test_db_check_exits_78_where_the_database_is_untrue(site):
    site.message(FIRST, "K1")
    with site.store() as store, store._database.transaction() as connection:
        connection.execute("UPDATE outbox SET key = NULL")
    done = site.run("db", "check")
    assert done.exit_code == 78
    assert "[failure] not true that each key that is bound is wanted at one platform: bindings: id 1" in done.stdout
    assert "      -> another program wrote into the database" in done.stdout


@pytest.mark.parametrize(("env", "coloured"), [({}, True), ({"NO_COLOR": "1"}, False), ({"TERM": "dumb"}, False)])
def test_levels_are_coloured_on_a_terminal_that_wants_it(site, env, coloured):
    ours, theirs = pty.openpty()
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"} | env
    skip = (word for name in (*ELSEWHERE, "integrity") for word in ("--skip", name))
    process = site.process("doctor", *skip, stdout=theirs, env=environment)
    os.close(theirs)
    with process, open(ours, "rb", buffering=0) as terminal:
        assert (b"\x1b[32m[ok]" in terminal.read(64)) == coloured
        with contextlib.suppress(OSError):  # as Linux tells the end of a terminal
            while terminal.read(4096):
                pass
    assert process.returncode == 0
