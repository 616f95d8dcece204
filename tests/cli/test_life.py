"""What an operator does with one installation, from its first key to the last one's end."""

from __future__ import annotations

import hashlib
import json
import threading
from contextlib import ExitStack, closing

import pytest

from kmp_smsd.storage.inbox import Inbox
from kmp_smsd.storage.outbox import Postpone, Reject
from kmp_smsd.storage.scrubbing import Scrubber
from kmp_smsd.vault.master_key import PublicKey, create
from tests.cli.site import FIRST, SECOND, THIRD, Site, dead_port, until
from tests.storage.stock import sync


@pytest.fixture
def intake(site: Site):
    """A running intake whose SMSC is away: it decides what commands wish."""

    def start() -> None:
        site.link(reserved.enter_context(dead_port()))
        process = site.process("intake")
        running.append(process)
        for line in process.stderr:
            if " starts: intake" in line:
                break
        drain = threading.Thread(target=process.stderr.read, daemon=True)
        drain.start()
        drains.append(drain)

    running: list = []
    drains: list[threading.Thread] = []
    with ExitStack() as reserved:
        yield start
        for process in running:
            process.terminate()
            assert process.wait(20) == 0
            drains.pop().join()
            process.stdout.close()
            process.stderr.close()


def test_a_key_lives_from_its_import_to_its_destruction(site):
    assert "private half: " in site.ok("master-key", "create")
    assert (site.directory / "master.key").stat().st_mode & 0o777 == 0o600
    assert "applied 0001_first" in site.ok("db", "migrate")
    assert "up to date" in site.ok("db", "migrate")
    assert site.ok("db", "schema") == site.ok("db", "schema", "--known")

    keys = site.keys("K1", "K2")
    dry = site.ok("keys", "import", str(keys), "--vendor", "Acme", "--plaintext", "--dry-run")
    assert dry == f"{keys}: 2 keys, nothing wrong; a dry run, nothing was imported\n"
    assert site.rows("keys", "list") == site.rows("keys", "imports") == []
    assert "2 keys of Acme imported, import 1" in site.ok(
        "keys", "import", str(keys), "--vendor", "Acme", "--plaintext"
    )
    assert [(row["key_id"], row["state"]) for row in site.rows("keys", "list")] == [
        ("K1", "pre-active"),
        ("K2", "pre-active"),
    ]
    (imported,) = site.rows("keys", "imports")
    assert (imported["vendor"], imported["file"], imported["keys"]) == ("Acme", keys.name, 2)
    assert imported["digest"] == hashlib.sha256(keys.read_bytes()).hexdigest()
    assert imported["started_at"] <= imported["imported_at"]
    assert imported["digest"] in site.ok("keys", "imports")

    site.ok("registrations", "add", "+86 138 0000 0001", "meter")
    assert site.message(FIRST, "K1") == "bound"
    (binding,) = site.rows("bindings", "list")
    assert (binding["mdn"], binding["app_id"], binding["key_id"], binding["platform"]) == (FIRST, "meter", "K1", "")
    assert "(none yet)" in site.ok("bindings", "list")
    assert site.rows("platforms", "list")[0]["due"] == 1
    assert [row["mdn"] for row in site.rows("outbox", "list", "--platform", "(none yet)")] == [FIRST]

    assert site.deliver("metering") == 1
    (binding,) = site.rows("bindings", "list")
    assert binding["platform"] == "metering"
    assert binding["wanted_version"] == binding["confirmed_version"]
    assert "confirmed" in site.ok("bindings", "show", FIRST)

    told = site.ok("bindings", "withdraw", FIRST, "meter")
    assert told.startswith(f"{FIRST} meter: key K1 is withdrawn\n")
    assert "next message binds it again" in told
    assert "keys suspend K1" in told
    assert site.refused("bindings", "withdraw", FIRST, "meter")[0] == 1
    assert site.message(FIRST, "K1", at=1_500_000) == "bound"

    assert site.refused("keys", "destroy", "K1", "--yes") == (
        1,
        "key K1 is bound: revoke it first ('kmp-smsd keys revoke K1')",
    )
    code, question = site.refused("keys", "revoke", "K1")
    assert (code, question.partition(" will")[0]) == (64, f"Key K1, bound to {FIRST} for meter,")
    assert site.refused("keys", "revoke", "K1", "K2", "K3")[1].startswith("Each of 2 keys, 1 of them bound, will")
    assert site.refused("keys", "revoke", "K9") == (1, "no key K9: see 'kmp-smsd keys list'")
    assert site.refused("keys", "destroy", "K8", "K9") == (1, "none of 2 keys exists: see 'kmp-smsd keys list'")
    told = site.ok("keys", "revoke", "K1", "--compromised", "--reason", "stolen", "--yes")
    assert told == f"key K1 is compromised, withdrawn from {FIRST} meter\n"
    assert site.rows("keys", "show", "K1")[0]["reason"] == "stolen"
    code, sentence = site.refused("keys", "destroy", "K1", "--yes")
    assert code == 1
    assert "may still be held: platform metering has not confirmed" in sentence
    site.deliver("metering")
    assert site.ok("keys", "destroy", "K1", "--yes") == "key K1 is destroyed\n"
    assert site.rows("keys", "show", "K1")[0]["state"] == "destroyed"

    outcomes = [row["outcome"] for row in site.rows("journal", "list", "--mdn", FIRST)]
    assert outcomes == ["bound", "bound"]
    assert site.rows("journal", "list", "--mdn", SECOND) == []
    assert "1970-01-01T" in site.ok("journal", "list")
    newest, _ = site.rows("journal", "list", "--mdn", FIRST)
    assert site.rows("journal", "list", "--mdn", FIRST, "--limit", "1") == [newest]
    assert len(site.rows("journal", "list", "--link", "north", "--outcome", "bound")) == 2
    assert site.rows("journal", "list", "--link", "south") == site.rows("journal", "list", "--outcome", "held") == []
    assert site.refused("journal", "list", "--limit", "0")[0] == 64


@pytest.mark.parametrize(("vendor", "is_told"), [("ACME", True), ("Acmee", True), ("Acme", False), ("Bolt", False)])
def test_a_new_vendor_whose_name_is_like_another_is_told(site, vendor, is_told):
    site.ready("K1")
    again = site.ok("keys", "import", str(site.keys("K2")), "--vendor", vendor, "--plaintext", "--dry-run")
    told = f"kmp-smsd: nothing of vendor '{vendor}' was imported before (did you mean 'Acme'?)\n"
    assert (told in again) is is_told
    assert ("nothing of vendor" in again) is is_told


def test_a_file_with_faults_imports_nothing_and_names_each_line(site):
    site.ready()
    keys = site.write("bad.csv", "key_id,key\nK1,00112233445566778899aabbccddeeff\nK 2,zz\nK1,00\n")
    done = site.run("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    assert (done.exit_code, done.stdout) == (1, "")
    *faults, count = done.stderr.splitlines()
    assert len(faults) == 3
    assert all(line.startswith((f"{keys}:3: ", f"{keys}:4: ")) for line in faults)
    assert count == f"kmp-smsd: 3 faults in {keys}: nothing was imported"
    assert site.rows("keys", "list") == []


def test_a_key_that_exists_makes_the_whole_file_a_conflict(site):
    site.ready("K1")
    keys = site.keys("K0", "K1")
    for more in ((), ("--dry-run",)):
        done = site.run("keys", "import", str(keys), "--vendor", "Acme", "--plaintext", *more)
        assert done.exit_code == 1
        assert f'{keys}:3: column 1 "key_id": key ID K1 exists already' in done.stderr
    assert [row["key_id"] for row in site.rows("keys", "list")] == ["K1"]


def test_only_the_first_faults_are_shown_and_all_are_counted(site):
    site.ready()
    keys = site.write("bad.csv", "key_id,key\n" + "K 1,00\n" * 300)
    done = site.run("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    assert len(done.stderr.splitlines()) == 101
    assert done.stderr.endswith(f"600 faults (500 more not shown) in {keys}: nothing was imported\n")


def test_only_the_first_warnings_are_shown_and_how_many_more_there_are(site):
    site.ready()
    lines = [f"K{number},{number:032x},app{number}" for number in range(1102)]
    keys = site.write("keys.csv", "\n".join(["key_id,key,app_id", *lines]))
    done = site.run("keys", "import", str(keys), "--vendor", "Acme", "--plaintext", "--dry-run")
    *warnings, last = done.stderr.splitlines()
    assert (done.exit_code, len(warnings), warnings[-1].endswith(" (warning)")) == (0, 100, True)
    assert last == f"kmp-smsd: 1,002 more warnings of {keys} not shown"


def test_suspended_keys_are_bound_again_after_a_resume(site):
    site.ready("K1", "K2")
    assert site.ok("keys", "suspend", "K1", "K2", "--reason", "recall") == (
        "key K1 is suspended\nkey K2 is suspended\n"
    )
    assert site.message(FIRST, "K1") == "key_not_usable"
    site.ok("keys", "resume", "K1")
    assert site.message(FIRST, "K1") == "bound"


def test_one_impossible_wish_of_several_spoils_the_exit_code_only(site):
    site.ready("K1", "K2")
    done = site.run("keys", "suspend", "K1", "NONE", "K2")
    assert done.exit_code == 1
    assert done.stdout == "key K1 is suspended\nkey K2 is suspended\n"
    assert done.stderr == "kmp-smsd: no key NONE: see 'kmp-smsd keys list'\n"


def test_keys_are_listed_by_vendor_and_by_terminal(site):
    site.ready("K1")
    more = site.write("more.csv", "key_id,key,serial\nM1,00112233445566778899aabbccddeeff,T-9\n")
    site.ok("keys", "import", str(more), "--vendor", "Meters", "--plaintext")
    assert [row["key_id"] for row in site.rows("keys", "list", "--vendor", "Meters")] == ["M1"]
    assert [row["key_id"] for row in site.rows("keys", "list", "--serial", "T-9")] == ["M1"]
    assert site.rows("keys", "list", "--serial", "T-8") == []


def test_registrations_are_added_listed_and_removed(site):
    site.ready("K1", mdns=())
    told = site.ok("registrations", "add", FIRST, "meter", "alarm", "meter")
    assert told.startswith(f"{FIRST} meter: registered\n{FIRST} alarm: registered\n")
    assert "no enabled platform has alarm among its apps: its keys wait until one has" in told
    assert f"{FIRST} meter: was registered already" in site.ok("registrations", "add", "13800000001", "meter")
    assert [(row["mdn"], row["app_id"]) for row in site.rows("registrations", "list")] == [
        (FIRST, "alarm"),
        (FIRST, "meter"),
    ]
    assert len(site.rows("registrations", "list", "--app", "alarm")) == 1
    assert site.rows("registrations", "list", "--mdn", SECOND) == []
    site.message(FIRST, "K1", app_id="meter")
    assert site.ok("registrations", "remove", FIRST, "meter") == f"{FIRST} meter: removed, key K1 is withdrawn\n"
    done = site.run("registrations", "remove", FIRST, "meter", "alarm")
    assert (done.exit_code, done.stdout) == (1, f"{FIRST} alarm: removed\n")
    assert f"{FIRST} is not registered for meter" in done.stderr
    assert site.rows("bindings", "list") == []


def test_registrations_come_from_a_file_whole_or_not_at_all(site):
    site.ready()
    good = site.write("good.csv", f"mdn,app_id\n{FIRST},meter\n{SECOND},meter\n{THIRD},tracker\n")
    assert "nothing wrong; a dry run" in site.ok("registrations", "import", str(good), "--dry-run")
    assert len(site.rows("registrations", "list")) == 1
    assert site.ok("registrations", "import", str(good)) == f"{good}: 3 registrations, 2 of them new\n"
    assert len(site.rows("registrations", "list")) == 3
    bad = site.write("bad.csv", f"mdn,app_id\n8613800000009,meter\n{SECOND}0,meter\n{THIRD},no app\n")
    done = site.run("registrations", "import", str(bad))
    assert done.exit_code == 1
    *faults, count = done.stderr.splitlines()
    assert [fault.split(" ")[0] for fault in faults] == [f"{bad}:3:", f"{bad}:4:"]
    assert "2 faults" in count
    assert len(site.rows("registrations", "list")) == 3


def test_registrations_that_find_no_room_say_how_many_did(site, monkeypatch):
    site.ready()
    rows = "".join(f"86138{number:08d},meter\n" for number in range(100, 1_600))
    file = site.write("many.csv", f"mdn,app_id\n{rows}")
    growths = iter([0] * 3)  # asked before and under the lock: those of the first step
    monkeypatch.setattr("kmp_smsd.storage.database.Database.growth", lambda _: next(growths, 1 << 60))
    done = site.run("registrations", "import", str(file))
    assert done.exit_code == 75
    assert done.stderr.endswith(f"make room, then try again; 1,000 of {file} are registered: import it again\n")


def test_interrupted_import_says_what_it_leaves_behind(site, monkeypatch):
    site.ready()
    keys = ("keys", "import", str(site.keys("K1")), "--vendor", "Acme", "--plaintext")
    file = site.write("more.csv", f"mdn,app_id\n{SECOND},meter\n")
    growths = iter([0])

    def growth(_):
        if (grown := next(growths, None)) is None:
            raise KeyboardInterrupt
        return grown

    monkeypatch.setattr("kmp_smsd.storage.database.Database.growth", growth)
    assert site.refused(*keys) == (130, "interrupted: nothing was imported")
    code, told = site.refused("registrations", "import", str(file))
    assert (code, told) == (130, "interrupted: what of it is registered stands, import it again")
    monkeypatch.undo()
    assert site.rows("keys", "list") == []


def test_import_that_is_interrupted_when_its_keys_are_live_says_so(site, monkeypatch):
    site.ready()

    def report(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("kmp_smsd.importing.import_keys.Report", report)
    keys = ("keys", "import", str(site.keys("K1")), "--vendor", "Acme", "--plaintext")
    assert site.refused(*keys, "--dry-run") == (130, "interrupted: nothing was imported")
    assert site.refused(*keys) == (130, "interrupted: all of it was imported")
    assert [row["key_id"] for row in site.rows("keys", "list")] == ["K1"]


def test_a_page_may_end_between_two_apps_of_one_number(site, monkeypatch):
    monkeypatch.setattr("kmp_smsd.cli.output.PAGE", 3)
    site.ready(apps=("meter", "tracker"), mdns=(FIRST, SECOND, THIRD))
    rows = [(row["mdn"], row["app_id"]) for row in site.rows("registrations", "list")]
    assert rows == [(mdn, app) for mdn in (FIRST, SECOND, THIRD) for app in ("meter", "tracker")]
    table = site.ok("registrations", "list").splitlines()
    assert len(table) == 7
    assert len({line.rindex(" ") for line in table[1:]}) == 1


def test_what_is_bound_for_one_app_is_listed_page_by_page(site, monkeypatch):
    monkeypatch.setattr("kmp_smsd.cli.output.PAGE", 1)
    site.ready("K1", "K2", "K3", apps=("meter", "tracker"), mdns=(FIRST, SECOND))
    for mdn, key_id, app_id in ((SECOND, "K1", "meter"), (FIRST, "K2", "tracker"), (FIRST, "K3", "meter")):
        site.message(mdn, key_id, app_id=app_id)
    assert [row["key_id"] for row in site.rows("bindings", "list", "--app", "meter")] == ["K3", "K1"]


def test_all_pages_of_a_table_have_their_columns_below_the_headers(site, monkeypatch):
    monkeypatch.setattr("kmp_smsd.cli.output.PAGE", 2)
    site.ready("K1", "K2-LONGER", "K3", "K4", "K5")
    header, *rows = site.ok("keys", "list").splitlines()
    assert len(rows) == 5
    assert {row.index("Acme") for row in rows} == {header.index("vendor")}
    assert {row.index("aes") for row in rows} == {header.index("algorithm")}


def test_the_outbox_is_listed_page_by_page_and_retried(site, monkeypatch):
    monkeypatch.setattr("kmp_smsd.cli.output.PAGE", 2)
    monkeypatch.setattr("kmp_smsd.storage.outbox.READ_ROWS", 2)
    site.ready("K1", "K2", "K3", mdns=(FIRST, SECOND, THIRD))
    for mdn, key_id in ((FIRST, "K1"), (SECOND, "K2"), (THIRD, "K3")):
        site.message(mdn, key_id)
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2_000_000))
        first, *_ = store.outbox.due("metering", 2_000_000, 9)
        store.outbox.settle("metering", [Postpone(first, 2_000_009, "busy")], 2_000_000)
    assert [row["mdn"] for row in site.rows("outbox", "list", "--platform", "metering")] == [SECOND, THIRD, FIRST]
    assert site.rows("outbox", "list", "--platform", "(none yet)") == []
    assert [row["key_id"] for row in site.rows("outbox", "list", "--mdn", SECOND)] == ["K2"]
    assert site.ok("outbox", "retry", "--mdn", FIRST).endswith("are due now, with all that was due already\n")
    assert site.deliver("metering") == 3
    assert site.rows("outbox", "list") == []
    assert "nothing waits for a platform" in site.ok("outbox", "list")
    assert len(site.rows("outbox", "list", "--all", "--platform", "metering")) == 3
    assert site.ok("outbox", "retry") == (
        "0 deliveries that were put off or rejected are due now, with all that was due already\n"
    )


def test_a_resync_wants_all_rows_of_a_platform_again(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("metering")
    assert site.ok("platforms", "resync", "metering", "--dry-run") == "1 row of metering will be delivered again.\n"
    assert site.rows("outbox", "list") == []
    code, sentence = site.refused("platforms", "resync", "metering")
    assert code == 64
    assert "1 row of metering will be delivered again. Say --yes to do it" in sentence
    assert site.ok("platforms", "resync", "metering", "--yes") == "1 row of metering: wanted again\n"
    assert len(site.rows("outbox", "list")) == 1
    assert site.refused("platforms", "resync", "meterin", "--yes")[1].startswith(
        "nothing is known of platform 'meterin' (did you mean 'metering'?)"
    )


def test_an_approved_hold_is_moved_by_intake_and_a_refused_one_is_not(site, intake):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    assert site.message(FIRST, "K2", at=1_000_001) == "held"
    assert site.message(SECOND, "K1", at=1_000_002) == "held"
    first, second = site.rows("holds", "list")
    assert (first["here_bound_key_id"], second["key_bound_at_mdn"], first["deciding"]) == ("K1", FIRST, False)
    assert f"{FIRST} meter since 1970-" in site.ok("holds", "list")
    intake()
    told = site.ok("holds", "approve", str(first["hold"]), "--by", "eve")
    assert told == f"hold {first['hold']}: moved: key K2 is bound to {FIRST} meter\n"
    assert site.run("holds", "refuse", str(second["hold"]), SUDO_USER="adam", USER="root").exit_code == 0
    everything = {row["hold"]: row for row in site.rows("holds", "list", "--all")}
    assert (everything[first["hold"]]["state"], everything[first["hold"]]["by"]) == ("approved", "eve")
    assert site.rows("holds", "list") == []


def test_whoever_used_sudo_is_named_in_a_refusal(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    site.message(SECOND, "K1", at=1_000_002)
    done = site.run("holds", "refuse", "1", SUDO_USER="adam", USER="root")
    assert (done.exit_code, done.stdout) == (0, "hold 1: refused\n")
    assert site.rows("holds", "list", "--all")[0]["by"] == "adam"
    assert site.refused("holds", "refuse", "1") == (1, "hold 1 is refused: see 'kmp-smsd holds list --all'")
    assert site.message(SECOND, "K1", at=1_000_003) == "refused"


def test_a_wish_is_kept_where_no_intake_runs_and_decided_when_one_does(site, intake):
    site.ready("K1", "K2")
    site.message(FIRST, "K1")
    site.message(FIRST, "K2", at=1_000_001)
    code, sentence = site.refused("holds", "approve", "1", "--wait", "0")
    assert code == 69
    assert sentence.startswith("intake has not decided hold 1 within 0 s; the wish is kept")
    assert "approved, not decided yet" in site.ok("holds", "list")
    intake()
    until(lambda: site.rows("bindings", "list")[0]["key_id"] == "K2")


def test_an_approval_that_binds_nothing_says_why_and_leaves_the_hold_open(site, intake):
    site.ready("K1", "K2")
    site.message(FIRST, "K1")
    site.message(FIRST, "K2", at=1_000_001)
    site.ok("keys", "suspend", "K2")
    intake()
    done = site.run("holds", "approve", "1")
    assert (done.exit_code, done.stdout) == (1, "hold 1: key_not_usable: nothing was bound, the hold stays open\n")
    assert "open, last key_not_usable" in site.ok("holds", "list")


def test_an_approval_in_whose_way_another_key_came_says_to_approve_again(site, intake):
    site.ready("K1", "K2", mdns=(FIRST, SECOND))
    site.message(SECOND, "K1")
    site.message(FIRST, "K1", at=1_000_001)
    site.message(FIRST, "K2", at=1_000_002)
    intake()
    done = site.run("holds", "approve", "1")
    assert (done.exit_code, done.stdout) == (
        1,
        "hold 1: held: nothing was bound, since another binding came in its way meanwhile: see 'kmp-smsd holds list',"
        " then approve it again\n",
    )
    assert site.ok("holds", "approve", "1") == f"hold 1: moved: key K1 is bound to {FIRST} meter\n"


def test_a_backup_tells_of_messages_that_are_not_in_it(site):
    site.ready("K1")
    with site.store() as store, closing(Inbox(site.database, store.settled)) as inbox:
        inbox.append([sync(FIRST, "K1"), sync(FIRST, "K2")])
        told = site.ok("db", "backup", str(site.directory / "copy.db"))
    assert f"not in it: 2 messages in {site.database}-inbox, answered and not decided yet\n" in told


def test_a_backup_is_restored_and_everything_delivered_again(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    site.deliver("metering")
    copy = site.directory / "copy.db"
    told = site.ok("db", "backup", str(copy))
    assert "needs the private half of master key " in told
    assert site.refused("db", "backup", str(copy)) == (1, "copy.db exists: name another file")
    site.ok("registrations", "remove", FIRST, "meter")
    code, sentence = site.refused("db", "restore", str(copy))
    assert code == 64
    assert "kmp.db will be replaced by copy.db" in sentence
    assert "everything since that backup is lost" in sentence
    assert len(site.rows("registrations", "list")) == 0
    told = site.ok("db", "restore", str(copy), "--yes")
    assert "2 rows wanted again" in told  # at its platform, and where it waited before there was one
    assert "the database as it was: " in told
    assert len(site.rows("registrations", "list")) == 1
    assert len(site.rows("outbox", "list")) == 1


def test_nobody_is_asked_whether_the_database_may_take_its_own_place(site):
    site.ready()
    code, sentence = site.refused("db", "restore", str(site.database))
    assert (code, sentence.startswith("kmp.db is the database itself, name a backup of it")) == (1, True)


def test_a_backup_of_another_installation_is_restored_only_where_that_is_said(site, tmp_path_factory):
    site.ready("K1")
    other = Site(tmp_path_factory.mktemp("other"))
    other.ready("K1")
    copy = other.directory / "copy.db"
    other.ok("db", "backup", str(copy))
    code, told = site.refused("db", "restore", str(copy), "--yes")
    assert code == 1
    assert "is it the backup of another installation, or from before 'kmp-smsd master-key rotate'?" in told
    (site.directory / "master.pub").rename(site.directory / "moved")  # the present database tells it as well
    assert site.refused("db", "restore", str(copy), "--yes")[0] == 1
    (site.directory / "moved").rename(site.directory / "master.pub")
    site.database.unlink()
    assert "the configured public half is " in site.refused("db", "restore", str(copy), "--yes")[1]
    told = site.ok("db", "restore", str(copy), "--yes", "--other-master-key")
    theirs, ours = (PublicKey.load(one.directory / "master.pub").fingerprint for one in (other, site))
    assert f"its keys need both halves of master key {theirs}, and the configured public half is {ours}" in told
    site.link(1)
    code, told = site.refused("intake", "--log-level", "error")
    assert code == 78
    assert "correct [storage] path or [secrets] public_key, or restore this installation's backup" in told


def test_a_backup_says_which_master_key_it_needs_and_so_does_its_restoring_on_a_new_machine(site, tmp_path_factory):
    site.ready("K1")
    needed = PublicKey.load(site.directory / "master.pub").fingerprint
    copy = site.directory / "copy.db"
    assert f"who restores it needs the private half of master key {needed}" in site.ok("db", "backup", str(copy))
    new = Site(tmp_path_factory.mktemp("new"))
    told = new.ok("db", "restore", str(copy), "--yes")
    assert f"its keys need both halves of master key {needed}, and there is no good public half here" in told
    (new.directory / "master.pub").write_bytes((site.directory / "master.pub").read_bytes())
    assert "its keys need" not in new.ok("db", "restore", str(copy), "--yes")


def test_a_public_half_that_is_none_is_not_to_be_made_anew_for_a_restore(site):
    site.ready("K1")
    copy = site.directory / "copy.db"
    site.ok("db", "backup", str(copy))
    site.write("master.pub", "nonsense")
    assert site.refused("db", "restore", str(copy)) == (  # before anybody is asked
        77,
        "master.pub: this is not a master key; restore the file from its copy, or, where no key was imported yet, move"
        " it away and let `kmp-smsd master-key create` make one; to restore without it, say --other-master-key",
    )
    site.ok("db", "restore", str(copy), "--yes", "--other-master-key")


def test_a_number_that_left_the_numbering_plan_can_still_be_seen_and_ended(site):
    site.ready("K1", "K2", apps=("meter", "tracker"))
    site.message(FIRST, "K1", app_id="meter")
    site.message(FIRST, "K2", app_id="tracker")
    site.deliver("metering")
    text = site.config.read_text(encoding="utf-8")
    site.write("kmp-smsd.toml", text.replace('prefix = "8613"', 'prefix = "8615"'))

    def found(*words):
        done = site.run(*words, "--json")
        assert done.exit_code == 0
        assert done.stderr == f"kmp-smsd: +{FIRST} is no number of the numbering plan; it is taken as it stands\n"
        return len(done.stdout.splitlines())

    for number in (FIRST, f"+{FIRST}"):
        assert found("registrations", "list", "--mdn", number) == 2
        assert found("bindings", "show", number) == 2
        assert found("journal", "list", "--mdn", number) == 2
        assert found("outbox", "list", "--mdn", number, "--all") >= 2
    assert "key K1 is withdrawn" in site.ok("bindings", "withdraw", FIRST, "meter")
    assert f"{FIRST} tracker: removed, key K2 is withdrawn" in site.ok("registrations", "remove", FIRST, "tracker")
    assert site.rows("bindings", "list") == []
    due = [row for row in site.rows("outbox", "list") if row["platform"]]
    assert [(row["mdn"], row["key_id"]) for row in due] == [(FIRST, None)] * 2
    assert site.run("outbox", "retry", "--mdn", FIRST).exit_code == 0
    assert site.refused("registrations", "add", FIRST, "meter")[0] == 64
    assert site.refused("bindings", "show", f"{FIRST}x")[0] == 64


def test_a_number_with_two_readings_is_never_taken_for_a_foreign_one(site):
    site.ready()
    text = site.config.read_text(encoding="utf-8")
    more = 'name = "mobile"}, {prefix = "138", digits = 11, name = "elsewhere"}'
    site.write("kmp-smsd.toml", text.replace('name = "mobile"}', more))
    code, told = site.refused("registrations", "remove", "13800000001", "meter")
    assert code == 64
    assert "may be +13800000001 or +8613800000001" in told


def test_a_rejected_delivery_has_no_next_try_but_the_time_of_its_rejection(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    with site.store() as store:
        store.routes.set({"meter": "metering"})
        list(store.routes.move(2_000_000))
    (row,) = site.rows("outbox", "list", "--platform", "metering")
    assert (row["try_at"], row["rejected_at"]) == (2_000_000, None)
    with site.store() as store:
        store.outbox.settle(
            "metering", [Reject(store.outbox.due("metering", 2**60, 1)[0], 3_000_000, "full")], 3_000_000
        )
    (row,) = site.rows("outbox", "list", "--platform", "metering")
    assert (row["try_at"], row["rejected_at"]) == (None, 3_000_000)
    site.ok("outbox", "retry")
    site.deliver("metering")
    confirmed = site.rows("outbox", "list", "--platform", "metering", "--all")[0]
    assert (confirmed["try_at"], confirmed["rejected_at"]) == (None, None)


def test_the_private_half_is_made_where_no_other_process_can_read_it(site, monkeypatch):
    done = []
    monkeypatch.setattr("kmp_smsd.cli.master_key.make_undumpable", lambda: done.append("undumpable"))
    monkeypatch.setattr("kmp_smsd.vault.key_files.create", lambda: done.append("made") or create())
    site.ok("master-key", "create")
    assert done == ["undumpable", "made"]


def test_a_restore_waits_for_nobody(site):
    site.ready("K1")
    copy = site.directory / "copy.db"
    site.ok("db", "backup", str(copy))
    with site.store():
        code, sentence = site.refused("db", "restore", str(copy), "--yes")
    assert (code, "is in use: stop kmp-smsd" in sentence) == (75, True)


def test_a_second_master_key_is_never_made_beside_keys_of_the_first(site):
    site.ready("K1")
    assert site.refused("master-key", "create")[1].endswith("them: its two files are in their places")
    assert site.refused("master-key", "create", "--private", str(site.directory / "other.key"))[0] == 1
    (site.directory / "master.pub").unlink()
    code, sentence = site.refused("master-key", "create", "--private", str(site.directory / "other.key"))
    assert code == 1
    assert "a new one could not open them" in sentence
    assert not (site.directory / "other.key").exists()


def test_no_listing_and_no_message_ever_shows_a_key(site):
    secret = "00112233445566778899aabbccddeeff"
    site.ready()
    keys = site.write("keys.csv", f"key_id,key\nK1,{secret}\nK2,{secret}0\n")
    said = site.run("keys", "import", str(keys), "--vendor", "Acme", "--plaintext").output
    keys.write_text(f"key_id,key\nK1,{secret}\n")
    said += site.ok("keys", "import", str(keys), "--vendor", "Acme", "--plaintext")
    site.message(FIRST, "K1")
    for words in (("keys", "list"), ("keys", "show", "K1"), ("bindings", "list"), ("outbox", "list")):
        said += site.ok(*words) + json.dumps(site.rows(*words))
    assert secret not in said
    assert "K1" in said


def test_files_are_cleared_once_after_all_keys_that_are_destroyed(site, monkeypatch):
    site.ready("K1", "K2", "K3", "K4")
    cleared = []
    scrub = Scrubber.scrub

    def counting(scrubber):
        cleared.append(None)
        return scrub(scrubber)

    monkeypatch.setattr(Scrubber, "scrub", counting)
    done = site.run("keys", "destroy", "K1", "K1", "K9", "K2", "--yes")
    assert (done.exit_code, done.stdout) == (1, "key K1 is destroyed\nkey K2 is destroyed\n")
    assert "no key K9" in done.stderr
    with site.store() as store:
        assert store._database.rows("SELECT erase_log FROM store") == [(0,)]
    assert len(cleared) == 1
    monkeypatch.setattr(Scrubber, "scrub", lambda _: False)
    assert "may still be in the files of the database, because it is being read" in site.ok(
        "keys", "destroy", "K3", "--yes"
    )
