"""Every mistake is one sentence with its remedy, and an exit code that says whose it is."""

from __future__ import annotations

import errno
import os
import shutil

import click
import pytest
from click.testing import CliRunner
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.cli import failures
from kmp_smsd.cli.failures import explain
from kmp_smsd.cli.program import program
from kmp_smsd.config import load
from kmp_smsd.storage import StoreUnavailable
from kmp_smsd.vault.master_key import PublicKey
from tests.cli.site import FIRST, SECOND, Site


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("db", "backup", "-"), "a backup is not written to standard output: name a file"),
        (("keyz",), "No such command 'keyz' (did you mean 'keys'?)"),
        (("frobnicate",), "No such command 'frobnicate' (see"),
        (("keys", "list", "--config", "x"), "No such option '--config': it stands before the command (see"),
        (("status", "--debug"), "No such option '--debug': it stands before the command (see"),
        (("keys", "show"), "Missing argument 'KEY_ID' (see 'kmp-smsd keys show --help')"),
        (("keys", "show", "K 1"), "'K 1': a key ID is 1 to 64 of A-Z a-z 0-9 . -"),
        (("keys", "list", "--vendr", "x"), "No such option '--vendr'. Did you mean '--vendor'?"),
        (("registrations", "add", "12345", "meter"), "+12345 is in no range of the numbering plan"),
        (("registrations", "add", "861380000000", "meter"), "+861380000000 has 12 digits"),
        (("registrations", "add", "abc", "meter"), "'abc' is not a number"),
        (("registrations", "add", FIRST, "a_b"), "'a_b': an app ID is 1 to 32 of A-Z a-z 0-9 . -"),
        (("holds", "approve", "x"), "'x' is not a valid integer (see"),
        (("keys", "import", "none.csv", "--vendor", "Acme"), "File 'none.csv' does not exist"),
        (("keys", "revoke", "K1"), "Key K1 will never be bound again, and platforms give up what they hold of it. Say"),
        (("keys", "destroy", "K1"), "Key K1 will be deleted for good. Say --yes to do it"),
        (("run", "--log-level", "loud"), "'loud' is not one of 'debug', 'info', 'warning', 'error'"),
    ],
)
def test_wrong_arguments_are_told_in_one_sentence(site, words, sentence):
    site.ready("K1")
    code, told = site.refused(*words)
    assert code == 64
    assert sentence in told


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("holds", "approve", str(2**63)), "is not in the range 1<=x<=9223372036854775807"),
        (("holds", "refuse", "9" * 4000), "is not in the range 1<=x<=9223372036854775807"),
        (("holds", "refuse", "0"), "0 is not in the range"),
        (("holds", "refuse", "-1"), "No such option '-1'"),
        (("holds", "refuse", "1", "--by", "op\udcff"), "the argument 'op\\udcff' is not in UTF-8"),
        (("holds", "refuse", "1", "--by", " "), "' ': write 1 to 64 printable characters"),
        (("holds", "approve", "1", "--by", "x" * 65), "write 1 to 64 printable characters"),
        (("holds", "approve", "1", "--wait", "nan"), "'nan' is not a valid float"),
        (("holds", "approve", "1", "--wait", "inf"), "inf is not in the range 0<=x<=86400"),
        (("keys", "suspend", "K1", "--reason", "x" * 201), "write 1 to 200 printable characters"),
        (("db", "backup", "saved\udcff.db"), "the argument 'saved\\udcff.db' is not in UTF-8"),
        (("keys", "list", "--vendor", "red \x1b[31m"), r"the argument 'red \x1b[31m' has control characters"),
        (("keys", "list", "--vendor", "\u202egnp"), r"the argument '\u202egnp' has control characters"),
        (("simulator", "smsc", "--port", "0", "--destination", "\u7535"), "'\u7535' is not in Latin-1"),
        (("keys", "show", "K" * 4097), "has more than 4,096 characters"),
    ],
)
def test_arguments_that_no_command_can_take_are_refused(site, words, sentence):
    site.ready("K1")
    code, told = site.refused(*words)
    assert code == 64
    assert sentence in told
    assert site.rows("keys", "list")[0]["state"] == "pre-active"


@pytest.mark.parametrize("characters", [300, 4_000, 100_000])
@pytest.mark.parametrize(
    "words",
    [
        ("{}",),
        ("--{}",),
        ("keys", "show", "_{}"),
        ("keys", "suspend", "--reason={}", "K1"),
        ("keys", "import", "{}", "--vendor", "Acme"),
        ("holds", "approve", "{}"),
        ("holds", "approve", "1", "--wait={}"),
        ("bindings", "show", "{}"),
        ("bindings", "show", "+{}"),
        ("outbox", "list", "--platform", "{}"),
        ("platforms", "test", "{}"),
        ("platforms", "trust", "{}"),
        ("db", "backup", "{}"),
        ("db", "restore", "{}"),
    ],
)
def test_what_was_written_is_never_told_in_full_length(site, words, characters):
    site.ready("K1")
    code, told = site.refused(*(word.format("5" * characters) for word in words))
    assert code in (1, 64, 75)
    assert "5" * 81 not in told


def test_a_platform_without_hosts_is_told_so(site):
    site.write("platforms.d/metering.toml", 'apps = ["meter"]\n[channel]\nkind = "ssh"\nhosts = []\n')
    code, told = site.refused("platforms", "trust", "metering")
    assert code == 78
    assert 'hosts = ["HOST:PORT"] is needed in [channel]' in told


@pytest.mark.parametrize("name", ["used", "loop"])
def test_a_demo_is_not_played_over_other_files(site, name):
    (site.directory / "loop").symlink_to("loop")
    (site.directory / "used").mkdir()
    (site.directory / "used" / "master.key").write_text("precious")
    code, told = site.refused("demo", "--directory", str(site.directory / name))
    assert code == 1
    assert "is in use: name an empty directory, or one that does not exist yet" in told
    assert (site.directory / "used" / "master.key").read_text() == "precious"


def test_a_demo_too_deep_for_the_path_of_a_socket_says_so(site):
    with site.process("demo", "--directory", str(site.directory / ("d" * 108))) as demo:
        _, told = demo.communicate(timeout=60)
    assert demo.returncode == 1
    assert "The demo failed: " in told
    assert "a socket's path has at most 107: give [control] directory a shorter one" in told


def test_a_name_in_the_environment_that_is_not_utf8_is_no_bug(site, monkeypatch):
    site.ready()
    monkeypatch.setenv("SUDO_USER", "op\udcff")
    code, told = site.refused("holds", "refuse", "1")
    assert code == 64
    assert r"'op\udcff': write 1 to 64 printable characters" in told


def test_a_directory_whose_name_is_not_utf8_is_no_bug(site):
    site.ready("K1")
    odd = site.directory / "state\udcff"
    odd.mkdir()
    for name in ("kmp-smsd.toml", "kmp.db"):
        shutil.copy(site.directory / name, odd / name)
    runner = CliRunner(env={"KMP_SMSD_CONFIG": str(odd / "kmp-smsd.toml")})
    for words in (["db", "migrate"], ["keys", "list"], ["db", "restore", str(site.database), "--yes"]):
        done = runner.invoke(program, words)
        assert done.exit_code in (0, 78)
        assert "bug" not in done.stderr


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (("keys", "show", "NONE"), "no key NONE: see 'kmp-smsd keys list'"),
        (("keys", "resume", "K1"), "key K1 is not suspended: there is nothing to resume"),
        (("holds", "refuse", "7"), "hold 7 does not exist: see 'kmp-smsd holds list'"),
        (("bindings", "withdraw", FIRST, "meter"), f"{FIRST} has no binding for meter: see"),
        (("registrations", "remove", SECOND, "meter"), f"{SECOND} is not registered for meter: see"),
        (("platforms", "test", "meterng"), "no enabled platform 'meterng' (did you mean 'metering'?)"),
        (("platforms", "trust", "meterng"), "no platforms.d/meterng.toml (did you mean 'metering'?)"),
        (("platforms", "trust", "../x"), "no platforms.d/../x.toml"),
        (("outbox", "retry", "--platform", "(none yet)"), "'(none yet)' is no platform: no file names the apps"),
        (("outbox", "list", "--platform", "meterng"), "nothing is known of platform 'meterng' (did you mean"),
        (("master-key", "create"), "are sealed to master key"),
    ],
)
def test_what_is_not_possible_exits_1_and_names_the_way_on(site, words, sentence):
    site.ready("K1")
    code, told = site.refused(*words)
    assert code == 1
    assert sentence in told


def test_keys_are_imported_only_under_the_master_key_of_those_that_are_there(site, tmp_path_factory):
    site.ready("K1")
    other = Site(tmp_path_factory.mktemp("other"))
    other.ready()
    known, configured = (PublicKey.load(one.directory / "master.pub").fingerprint for one in (site, other))
    shutil.copy(other.directory / "master.pub", site.directory)
    assert site.refused("keys", "import", str(site.keys("K2")), "--vendor", "Acme", "--plaintext") == (
        1,
        f"the keys in this database are sealed to master key {known}, the configured public half is {configured}:"
        " correct [secrets] public_key",
    )
    assert [row["key_id"] for row in site.rows("keys", "list")] == ["K1"]


def test_clear_text_is_imported_only_where_somebody_says_so(site):
    site.ready()
    code, told = site.refused("keys", "import", str(site.keys("K1")), "--vendor", "Acme")
    assert code == 64
    assert "say --plaintext" in told


def test_all_faults_of_a_configuration_are_told_with_their_lines(site):
    site.write("kmp-smsd.toml", '[storag]\n[secrets]\npublic_key = 1\n[numbering]\ncountry_code = "86"\n')
    done = site.run("check-config")
    assert (done.exit_code, done.stdout) == (78, "")
    *faults, count = done.stderr.splitlines()
    assert count == f"{len(faults)} faults, nothing was changed"
    assert any(":1: " in fault and "did you mean 'storage'?" in fault for fault in faults)
    assert any(":3: [secrets] public_key" in fault for fault in faults)
    for words in (("keys", "list"), ("intake",), ("registrations", "add", FIRST, "meter")):
        assert site.run(*words).exit_code == 78


def test_a_good_configuration_is_summed_up(site):
    told = site.ok("check-config")
    assert told.startswith(f"{site.config}: good; 0 links to SMSCs, 1 platform\n")
    assert "no link to an SMSC is enabled: intake does not start" in told
    assert site.refused("intake")[0] == 78


def test_a_good_configuration_whose_password_is_unfit_for_a_bind_is_a_matter_of_the_password(site):
    site.link(2775)
    password = site.write("smsc-password", "")
    code, told = site.refused("check-config")
    assert code == 77
    assert told.startswith("[smsc.lab] the password in smsc-password is empty: ")
    assert site.refused("intake") == (77, told.removeprefix("[smsc.lab] "))
    password.unlink()  # as for somebody who may not look at it
    assert "good; 1 link to SMSCs" in site.ok("check-config")


def test_a_password_is_checked_where_no_core_dump_can_have_it(site, monkeypatch):
    site.link(2775)
    done = []
    monkeypatch.setattr("kmp_smsd.cli.check_config.make_undumpable", lambda: done.append("undumpable"))
    monkeypatch.setattr("kmp_smsd.cli.gathering.secrets.read_password", lambda _: done.append("read"))
    site.ok("check-config")
    assert done == ["undumpable", "read"]


def test_a_secret_that_everybody_may_read_is_refused_as_the_role_refuses_it(site):
    site.link(2775)
    site.ready()
    site.write("ssh-identity", "PRIVATE KEY")
    site.ok("check-config")
    for name in ("smsc-password", "master.key", "ssh-identity"):
        (site.directory / name).chmod(0o644)
    done = site.run("check-config")
    assert (done.exit_code, done.stdout) == (77, "")
    faults = [
        f"{site.directory}/{name} is open to other users: chmod g-w,o= {site.directory}/{name}"
        for name in ("smsc-password", "master.key", "ssh-identity")
    ]
    assert done.stderr.splitlines() == [
        f"[smsc.lab] password: {faults[0]}",
        f"[secrets] master_key: {faults[1]}",
        f"[secrets] ssh_identity: {faults[2]}",
    ]
    assert site.run("intake").stderr == f"kmp-smsd: {faults[0]}\n"
    assert site.run("dispatch").stderr == f"kmp-smsd: {faults[1]}\n"


@pytest.mark.parametrize("mode", [0o700, 0o755])
def test_a_directory_in_the_place_of_a_secret_is_called_one(site, tmp_path_factory, monkeypatch, mode):
    credentials = tmp_path_factory.mktemp("credentials")
    monkeypatch.setattr("kmp_smsd.cli.gathering.secrets.CREDENTIALS", credentials)
    text = site.config.read_text(encoding="utf-8").replace(
        f'{{file = "{site.directory}/master.key"}}', '{credential = "m"}'
    )
    site.write("kmp-smsd.toml", text)
    (credentials / "m").mkdir(mode)
    (site.directory / "ssh-identity").mkdir(mode)
    done = site.run("check-config")
    assert (done.exit_code, done.stdout) == (77, "")
    assert done.stderr.splitlines() == [
        f"kmp-smsd: [secrets] master_key: {credentials}/m is a directory (warning)",
        f"kmp-smsd: [secrets] ssh_identity: {site.directory}/ssh-identity is a directory",
    ]


@pytest.mark.parametrize("mode", [0o400, 0o440, 0o644])
def test_a_credential_that_everybody_may_read_is_a_warning_outside_its_unit(site, tmp_path_factory, monkeypatch, mode):
    credentials = tmp_path_factory.mktemp("credentials")
    monkeypatch.setattr("kmp_smsd.cli.gathering.secrets.CREDENTIALS", credentials)
    text = site.config.read_text(encoding="utf-8").replace(
        f'{{file = "{site.directory}/master.key"}}', '{credential = "m"}'
    )
    site.write("kmp-smsd.toml", text)
    (credentials / "m").write_text("secret")
    (credentials / "m").chmod(mode)
    warning = f"[secrets] master_key: {credentials}/m is open to other users: chmod g-w,o= {credentials}/m (warning)"
    assert (warning in site.ok("check-config")) is (mode == 0o644)
    in_unit = site.run("check-config", CREDENTIALS_DIRECTORY=str(credentials))
    assert (in_unit.exit_code, "open to other users" in in_unit.stderr) == (0, False)


def test_a_missing_configuration_is_named(tmp_path):
    site = Site(tmp_path)
    site.config.unlink()
    done = site.run("keys", "list")
    assert done.exit_code == 78
    assert f"{site.config}: cannot be read: No such file or directory" in done.stderr


@pytest.mark.parametrize("words", [["keys", "list"], ["check-config"], ["doctor"]])
def test_a_configuration_that_may_not_be_read_is_a_matter_of_permission(site, monkeypatch, words):
    def refuse(path, _flags):
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr("kmp_smsd.config.load.open_without_waiting", refuse)  # root can read every file
    done = site.run(*words)
    assert done.exit_code == 77
    assert f"{site.config}: permission denied: run this as root, or as a member of" in done.output
    assert "mend the file" not in done.output


def test_the_configuration_may_be_named_by_the_environment(site):
    done = CliRunner(env={"KMP_SMSD_CONFIG": str(site.config)}).invoke(program, ["check-config"])
    assert done.exit_code == 0


@pytest.mark.parametrize("words", [("keys", "list"), ("db", "backup", "copy.db"), ("registrations", "list")])
def test_a_missing_database_is_never_made_by_the_way(site, words):
    code, told = site.refused(*words)
    assert code == 78
    assert "no database at kmp.db: is its volume mounted? For a new one run 'kmp-smsd db migrate'" in told
    assert not site.database.exists()


def test_a_file_of_something_else_is_no_database(site):
    site.ready()
    site.database.write_text("this is a letter, not a database\n" * 100)
    for words in (("keys", "list"), ("db", "migrate")):
        code, told = site.refused(*words)
        assert code == 78
        assert "file is not a database: correct [storage] path, or stop both roles, and put the last backup" in told


def test_a_missing_volume_is_named(site):
    text = site.config.read_text().replace('"kmp.db"', '"volume/kmp.db"')
    site.write("kmp-smsd.toml", text)
    code, told = site.refused("db", "migrate")
    assert code == 78
    assert "no directory volume: is its volume mounted?" in told


def test_keys_cannot_be_imported_without_a_master_key(site):
    site.ok("db", "migrate")
    keys = str(site.keys("K1"))
    assert site.refused("keys", "import", keys, "--vendor", "Acme", "--plaintext") == (
        77,
        "no master.pub: make the master key with 'kmp-smsd master-key create'",
    )
    site.ok("master-key", "create")
    shutil.copy(site.directory / "master.key", site.directory / "master.pub")
    code, told = site.refused("keys", "import", keys, "--vendor", "Acme", "--plaintext")
    assert code == 77
    assert "this is the private half of a master key; the public half is needed here" in told


def test_a_master_key_is_never_overwritten_nor_half_made(site):
    (site.directory / "master.pub").write_text("precious")
    assert site.refused("master-key", "create") == (1, "master.pub exists: a master key is never overwritten")
    assert not (site.directory / "master.key").exists()
    (site.directory / "master.pub").unlink()
    nowhere = str(site.directory / "nowhere" / "master.key")
    code, told = site.refused("master-key", "create", "--private", nowhere)
    assert (code, "create it first" in told) == (1, True)
    assert not (site.directory / "master.pub").exists()


def test_a_credential_of_the_unit_lies_in_credentials_beside_the_configuration(site):
    text = site.config.read_text().replace(
        f'master_key = {{file = "{site.directory}/master.key"}}', 'master_key = {credential = "kmp-master"}'
    )
    site.write("kmp-smsd.toml", text)
    assert site.refused("master-key", "create")[1].startswith("no directory credentials: create it first")
    (site.directory / "credentials").mkdir()
    site.ok("master-key", "create")
    assert (site.directory / "credentials" / "kmp-master").exists()


def test_a_busy_database_is_tried_again_later(site):
    site.ready()
    with site.store():
        code, told = site.refused("db", "migrate")
    assert code == 75
    assert "kmp.db is in use: stop kmp-smsd and wait for running commands, then try again" in told


@pytest.mark.parametrize(
    "words",
    [
        ("registrations", "apply"),
        ("registrations", "import"),
        ("keys", "import", "--vendor", "Acme", "--plaintext"),
        ("sync", "submit", "--gateway", "data"),
        ("db", "restore"),
        ("db", "backup"),
        ("platforms", "test", "metering", "--identity"),
        ("master-key", "create", "--private"),
        ("master-key", "rotate", "--from"),
        ("simulator", "platform"),
        ("simulator", "smsc"),
    ],
)
def test_a_file_that_we_may_not_read_is_a_missing_permission_and_no_wrong_argument(site, monkeypatch, words):
    file, access = str(site.write("theirs", "")), os.access  # root, who may run this, may read everything

    def opened(name, *_, **__):
        raise PermissionError(13, "Permission denied", name)

    monkeypatch.setattr(os, "access", lambda path, mode: str(path) != file and access(path, mode))
    monkeypatch.setattr(click.types, "open_stream", opened)
    code, told = site.refused(*words, file)
    assert (code, told) == (77, "theirs: permission denied: run this as root, or as a user who may read it")


@pytest.mark.parametrize("words", [("check-config",), ("status",), ("keys", "list")])
def test_a_configuration_that_we_may_not_read_is_a_missing_permission_too(site, monkeypatch, words):
    def opened(name, *_, **__):
        raise PermissionError(13, "Permission denied", str(name))

    monkeypatch.setattr(os, "access", lambda *_: False)
    monkeypatch.setattr(load, "open_without_waiting", opened)
    monkeypatch.setattr(type(site.config), "read_text", opened)
    done = site.run(*words)
    assert (done.exit_code, "permission denied: run this as root, or as a member of" in done.stderr) == (77, True)


def test_a_database_that_we_may_not_read_is_a_missing_permission_too(site, monkeypatch):
    def opened(*_, **__):
        raise sqlite3.OperationalError("unable to open database file")

    site.ready()
    file, access = site.database, os.access
    monkeypatch.setattr(os, "access", lambda path, mode: (path != file or mode == os.F_OK) and access(path, mode))
    monkeypatch.setattr(sqlite3, "connect", opened)
    told = (
        "kmp.db: permission denied: run this as root, or as a member of the service's group;"
        " a role needs owners and modes as 'systemd-tmpfiles --create kmp-smsd.conf' sets them"
    )
    assert site.refused("keys", "list") == (77, told)


def test_a_permission_that_is_missing_is_not_told_as_a_passing_fault():
    error = PermissionError(13, "Permission denied", "/var/lib/kmp-smsd/kmp.db.schema")
    hidden = StoreUnavailable("the write lock cannot be taken")
    hidden.__cause__ = error
    for one in (error, hidden):
        code, told = explain(one)
        assert code == failures.NO_PERMISSION
        assert told.startswith("/var/lib/kmp-smsd/kmp.db.schema: permission denied: run this as root, or as a member")


def test_a_bug_is_called_one_and_shows_its_traceback_only_on_demand(site, monkeypatch):
    def broken(*_args, **_kwargs):
        raise RuntimeError("secret-value")

    site.ready()
    monkeypatch.setattr("kmp_smsd.storage.keys.Keys.listing", broken)
    code, told = site.refused("keys", "list")
    assert code == 70
    assert told.startswith("this is a bug in kmp-smsd")
    assert "secret-value" not in told
    done = CliRunner().invoke(program, ["--debug", "--config", str(site.config), "keys", "list"])
    assert done.exit_code == 70
    assert "Traceback (most recent call last)" in done.stderr


def test_what_others_wrote_cannot_paint_the_terminal(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2_000_000))
        store._database.connection.execute("UPDATE outbox SET error = 'red \x1b[31m\nline'")
    told = site.ok("outbox", "list")
    assert r"red \x1b[31m\nline" in told
    assert "\x1b" not in told


@pytest.mark.parametrize("words", [("keys", "show", "K2999"), ("keys", "suspend", "K50"), ("db", "backup", "{}/x")])
def test_damaged_database_is_no_matter_of_trying_again(site, words):
    site.ready(*(f"K{number}" for number in range(3_000)))
    octets = site.database.read_bytes()
    begin, end = 4_096 * 100, 4_096 * 100 + len(octets) // 2
    site.database.write_bytes(octets[:begin] + b"\x8f" * (end - begin) + octets[end:])
    code, told = site.refused(*(word.format(site.directory) for word in words))
    assert code == 78
    assert told.startswith("kmp.db: database disk image is malformed: 'kmp-smsd db check' tells what is damaged")
    assert told.endswith("put the last backup in its place: 'kmp-smsd db restore FILE'")


def test_error_of_the_system_says_where_it_came_from_or_how_to_see_that():
    assert explain(OSError(errno.EIO, "Input/output error", "/f")) == (75, "/f: Input/output error")
    assert explain(OSError(errno.EIO, "I/O error")) == (75, "I/O error: --debug before the command shows where")
    assert explain(OSError("/t, where this is sorted: full")) == (75, "/t, where this is sorted: full")


def test_memory_that_is_short_is_no_bug():
    assert explain(MemoryError()) == (75, "not enough memory: --debug before the command shows where")
