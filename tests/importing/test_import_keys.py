from __future__ import annotations

import os
import pickle
import signal
import subprocess
import sys
import traceback
from itertools import islice

import pytest

from kmp_smsd.importing import key_file
from kmp_smsd.importing.import_keys import ImportRefused, import_keys
from kmp_smsd.importing.key_file import Position, SomeKeys, WholeFile, read_key_file
from kmp_smsd.importing.lines import Lines
from kmp_smsd.storage import open_store
from kmp_smsd.storage.errors import NotPossible, StoreUnavailable
from kmp_smsd.storage.migrating import migrate
from kmp_smsd.storage.rows import STEP_ROWS
from kmp_smsd.vault.algorithms import kcv
from kmp_smsd.vault.data_key import DataKey, Wrapped
from kmp_smsd.vault.key_files import create_master_key
from kmp_smsd.vault.master_key import MasterKey

KEY = bytes(range(16))
HEX = KEY.hex()
TIMES = (1_732_380_000_000, 1_732_380_060_000)  # when an import begins, when it goes live


class Store:
    """What the store does for an import, in dictionaries."""

    def __init__(self):
        self.imports = {}
        self.staged = {}
        self.live = {}
        self.fail_on = None

    def begin(self, *, vendor, file_name, data_key_id, sealed, fingerprint, now):
        if self.fail_on == "begin":
            raise NotPossible("another master key")
        number = len(self.imports) + 1
        self.imports[number] = {
            "vendor": vendor,
            "file_name": file_name,
            "data_key_id": data_key_id,
            "sealed": sealed,
            "fingerprint": fingerprint,
            "began": now,
        }
        self.staged[number] = {}
        return number

    def stage(self, import_id, rows):
        assert len(rows) <= STEP_ROWS
        if self.fail_on == "stage":
            raise OSError("disk full")
        self.staged[import_id].update({row.key_id: row for row in rows if row.key_id not in self.live})
        return [row.key_id for row in rows if row.key_id in self.live]

    def publish(self, import_id, digest, now):
        if self.fail_on == "publish":
            raise OSError("disk full")
        self.imports[import_id] |= {"digest": digest, "live": now}
        self.live.update(self.staged.pop(import_id))

        if self.fail_on == "interrupt":
            raise KeyboardInterrupt

    def is_live(self, import_id):
        return import_id not in self.staged

    def discard(self, import_id):
        if self.fail_on == "discard":
            raise StoreUnavailable("disk full")
        del self.staged[import_id]


@pytest.fixture
def store():
    return Store()


@pytest.fixture(scope="module")
def public_and_master(tmp_path_factory):
    directory = tmp_path_factory.mktemp("master")
    return create_master_key(directory / "key", directory / "key.pub"), MasterKey.load(directory / "key")


@pytest.fixture
def run(store, tmp_path, public_and_master):
    def run(content, vendor="Acme Ltd.", plaintext=True, **options):
        path = tmp_path / "keys.csv"
        path.write_text(content)
        return import_keys(
            store,
            path,
            vendor,
            public_and_master[0],
            clock=iter(TIMES).__next__,
            plaintext=plaintext,
            served={"meter"},
            **options,
        )

    return run


GOOD = f"key_id,key,serial,app_id\nk1,{KEY.hex()},7,meter\nk2,{KEY[::-1].hex()},7,\n"


def test_good_file_goes_live_and_dispatch_can_read_its_keys(run, store, public_and_master):
    report = run(GOOD)
    assert (report.keys, report.import_id, report.faults.count, report.warnings.count) == (2, 1, 0, 0)
    begun = store.imports[1]
    data_key = public_and_master[1].open(begun["data_key_id"], begun["sealed"])
    for key_id, key, app in (("k1", KEY, "meter"), ("k2", KEY[::-1], None)):
        staged = store.live[key_id]
        assert (staged.app_id, staged.serial, staged.algorithm, staged.kcv) == (app, "7", "aes", kcv("aes", key))
        assert data_key.unwrap(Wrapped(staged.nonce, staged.ciphertext), key_id, "aes", app) == key


def test_key_that_can_never_be_bound_is_told_and_imported_all_the_same(run, store):
    ends = ("2024-11-22", "2024-11-23T16:40:00Z", "2024-11-23T16:40:01Z", "2024-11-23", "")  # it begins at 16:40
    lines = [f"k{number},{number:032x},{end}" for number, end in enumerate(ends, 1)]
    report = run("\n".join(["key_id,key,valid_until", *lines]))
    assert [(one.line, one.column, one.column_name) for one in report.warnings.by_line()] == [
        (2, 3, "valid_until"),
        (3, 3, "valid_until"),
    ]
    assert len(store.live) == 5


def test_time_that_is_over_is_told_once_and_hides_no_other_doubt(run):
    lines = [f"k{number},{number:032x},2024-11-22," for number in range(STEP_ROWS)]
    report = run("\n".join(["key_id,key,valid_until,app_id", *lines, f"k,{KEY.hex()},,metre"]))
    assert [(one.line, one.column, one.column_name) for one in report.warnings.by_line()] == [
        (2, 3, "valid_until"),
        (STEP_ROWS + 2, 4, "app_id"),
    ]


def test_doubts_that_are_remembered_are_no_more_than_are_told(run, monkeypatch):
    monkeypatch.setattr("kmp_smsd.importing.faults.MOST_KEPT", 1)
    lines = [f"k{number},{number:032x},{app}" for number, app in enumerate(("metre", "alarm", "metre", "alarm"))]
    report = run("\n".join(["key_id,key,app_id", *lines]))
    assert [one.line for one in report.warnings.by_line()] == [2]
    assert report.warnings.count == 3  # alarm, which there was no room to remember, is one on each of its lines


def test_reservation_for_an_app_that_nobody_serves_is_told_once(run, store):
    apps = ("metre", "meter", "", "metre", "alarm")
    lines = [f"k{number},{number:032x},{app}" for number, app in enumerate(apps, 1)]
    report = run("\n".join(["key_id,key,app_id", *lines]))
    assert [(one.line, one.column_name, one.sentence.split(",")[0]) for one in report.warnings.by_line()] == [
        (2, "app_id", "no enabled platform has metre among its apps"),
        (6, "app_id", "no enabled platform has alarm among its apps"),
    ]
    assert len(store.live) == 5


def test_key_that_terminals_share_is_told_once_and_shown_nowhere(run, store):
    keys = [KEY, KEY[::-1], KEY, KEY, KEY[::-1], bytes(16)]
    report = run("key_id,key\n" + "".join(f"k{number},{key.hex()}\n" for number, key in enumerate(keys)))
    assert [(one.line, one.column_name, one.sentence.split(":")[0]) for one in report.warnings.by_line()] == [
        (4, "key", "the key of line 2 under another ID"),
        (6, "key", "the key of line 3 under another ID"),
    ]
    assert len(store.live) == len(keys)
    assert KEY.hex() not in repr(report)


def test_staged_key_shows_nothing_but_its_id_and_check_value(run, store):
    run(GOOD)
    assert repr(store.live["k1"]) == "<StagedKey k1 BE7ED6>"


def test_import_is_recorded_with_its_vendor_file_digest_and_master_key(run, store, public_and_master, tmp_path):
    run(GOOD)
    digest = subprocess.run(["sha256sum", tmp_path / "keys.csv"], capture_output=True, check=True, text=True)
    begun = store.imports[1]
    assert (begun["vendor"], begun["file_name"]) == ("Acme Ltd.", "keys.csv")
    assert begun["digest"] == digest.stdout.split()[0]
    assert (begun["began"], begun["live"]) == TIMES
    assert begun["fingerprint"] == public_and_master[0].fingerprint


def test_every_import_has_its_own_data_key(run, store):
    run(GOOD)
    run(GOOD.replace("k1", "k3").replace("k2", "k4"))
    assert store.imports[1]["data_key_id"] != store.imports[2]["data_key_id"]


def test_one_fault_and_the_store_is_not_even_asked(run, store, tmp_path):
    report = run(GOOD + "a_b,zz,,\n")
    assert report.import_id is None
    assert [str(fault) for fault in report.faults.by_line()] == [
        f'{tmp_path}/keys.csv:4: column 1 "key_id": a key ID is 1 to 64 of A-Z a-z 0-9 . -',
        f'{tmp_path}/keys.csv:4: column 2 "key": the key is not hexadecimal, two digits for each octet, but the first '
        "key of the file is hex; write all alike, or name the encoding",
    ]
    assert not store.imports


def test_file_that_is_wrong_at_its_head_is_not_said_to_have_changed(run):
    report = run(GOOD.replace("key_id", "kye_id"))
    assert {fault.line for fault in report.faults.by_line()} == {1}
    assert "changed" not in "".join(fault.sentence for fault in report.faults.by_line())


@pytest.mark.parametrize("wrong", ["a_b,zz", f"k0,{KEY.hex()}"])
def test_fault_at_the_end_of_a_large_file_leaves_nothing_of_it(run, store, wrong):
    content = "key_id,key\n" + "".join(f"k{n},{KEY.hex()}\n" for n in range(2 * STEP_ROWS))
    report = run(content + wrong + "\n")
    assert report.import_id is None
    assert {fault.line for fault in report.faults.by_line()} == {2 * STEP_ROWS + 2}
    assert store.imports  # it had begun
    assert not store.staged
    assert not store.live


def test_after_a_fault_nothing_is_staged_and_all_of_the_file_is_checked(run, store):
    stage, staged = store.stage, []
    store.stage = lambda number, rows: staged.extend(rows) or stage(number, rows)
    lines = [f"k{n},{KEY.hex()}\n" for n in range(4 * STEP_ROWS)]
    lines[STEP_ROWS + 7] = lines[3 * STEP_ROWS] = "a_b,zz\n"
    report = run("key_id,key\n" + "".join(lines))
    assert {fault.line for fault in report.faults.by_line()} == {STEP_ROWS + 9, 3 * STEP_ROWS + 2}
    assert [row.key_id for row in staged] == [f"k{n}" for n in range(STEP_ROWS)]
    assert not store.staged


def test_key_id_that_exists_refuses_the_whole_file_and_is_named_with_its_line(run, store, tmp_path):
    run(GOOD)
    before = dict(store.live)
    report = run(f"key_id,key\nnew,{KEY.hex()}\nk2,{KEY.hex()}\nk1,{KEY.hex()}\n")
    assert report.import_id is None
    assert [str(fault) for fault in report.faults.by_line()] == [
        f'{tmp_path}/keys.csv:{line}: column 1 "key_id": key ID {key_id} exists already; '
        "key IDs are unique over all vendors, and an import never replaces a key"
        for line, key_id in ((3, "k2"), (4, "k1"))
    ]
    assert store.live == before
    assert not store.staged


def test_key_id_that_exists_and_is_there_twice_is_told_on_both_lines(run):
    run(GOOD)
    content = "key_id,key\n" + f"k1,{KEY.hex()}\n" + "".join(f"n{n},{KEY.hex()}\n" for n in range(STEP_ROWS - 2))
    report = run(content + f"k1,{KEY.hex()}\n" + f"last,{KEY.hex()}\n")
    exists = [fault.line for fault in report.faults.by_line() if "exists already" in fault.sentence]
    again = [fault.line for fault in report.faults.by_line() if "again" in fault.sentence]
    assert (exists, again) == ([2, STEP_ROWS + 1], [STEP_ROWS + 1])


@pytest.mark.parametrize(
    "content",
    [
        f"{HEX},8A3F\n{HEX},8A40\n",
        f"key_id,key\n{HEX},8A3F\n{HEX},8A3F\n",
        f"key_id,key,{HEX}\na,{HEX},1\n",
        f"key_id,key,serial,app_id\na,{HEX},{HEX * 3},{HEX + HEX}\n",
        f"key_id,key,algorithm,kcv,valid_from\na,{HEX},{HEX},{HEX},{HEX}\n",
        f"key_id,key\n{HEX},{HEX}\n{HEX},{HEX}\n{HEX.upper()},{HEX}\n",
        f'key_id,key\n"{HEX},{HEX}\n{HEX}\n{HEX},{HEX},{HEX}\n',
    ],
)
def test_key_in_the_wrong_place_is_quoted_nowhere(run, content):
    report = run(content)
    assert report.faults
    told = "".join(str(fault) + repr(fault) for fault in report.faults.kept + report.warnings.kept).lower()
    assert HEX not in told


def test_key_id_that_comes_twice_is_a_fault_on_each_later_line(run, store):
    ids = ("a", "b", "a", "b", "a")
    report = run("key_id,key\n" + "".join(f"{key_id},{number:032x}\n" for number, key_id in enumerate(ids)))
    assert [str(fault).partition("keys.csv:")[2] for fault in report.faults.by_line()] == [
        '4: column 1 "key_id": the key ID of line 2 again; each key has its own',
        '5: column 1 "key_id": the key ID of line 3 again; each key has its own',
        '6: column 1 "key_id": the key ID of line 2 again; each key has its own',
    ]
    assert not store.live


def test_key_ids_that_differ_only_in_case_are_two_keys_and_a_warning(run, store):
    ids = ("ab", "c", "Ab")
    report = run("key_id,key\n" + "".join(f"{key_id},{number:032x}\n" for number, key_id in enumerate(ids)))
    assert [str(warning).partition("keys.csv:")[2] for warning in report.warnings.by_line()] == [
        '4: column 1 "key_id": the key ID of line 2 in another case; they are two different keys'
    ]
    assert set(store.live) == set(ids)


@pytest.mark.parametrize("wrong", ["", "a_b,zz\n"])
def test_repeated_key_ids_are_found_far_apart_and_behind_other_faults_too(run, wrong):
    keys = "".join(f"k{number},{number:032x}\n" for number in range(12 * STEP_ROWS))
    report = run(f"key_id,key\n{wrong}{keys}k0,{KEY.hex()}\n")
    first = 3 if wrong else 2
    told = [(one.line, one.sentence) for one in report.faults.by_line() if "again" in one.sentence]
    assert told == [(first + 12 * STEP_ROWS, f"the key ID of line {first} again; each key has its own")]


def test_same_large_file_again_names_the_first_conflicts_and_counts_all(run, store):
    content = "key_id,key\n" + "".join(f"k{n},{KEY.hex()}\n" for n in range(6000))
    run(content)
    report = run(content)
    assert report.faults.count == 6000
    assert [fault.line for fault in report.faults.by_line()] == list(range(2, 102))
    assert not store.staged


def test_faults_of_the_file_and_keys_that_exist_are_told_in_the_order_of_the_file(run):
    run("key_id,key\n" + "".join(f"k{n},{KEY.hex()}\n" for n in range(STEP_ROWS)))
    rows = [f"k{n},{KEY.hex()}\n" for n in range(STEP_ROWS)] + ["a_b,zz\n"] * 150
    report = run("key_id,key\n" + "".join(rows))
    assert report.faults.count == STEP_ROWS + 300
    assert [fault.line for fault in report.faults.by_line()] == list(range(2, 102))


@pytest.mark.parametrize(
    "change", ["overwritten", "overwritten within a tick", "truncated at a line's end", "appended to"]
)
@pytest.mark.parametrize("rows", [10, 20_000])  # all of it is buffered when it changes, or the least
def test_file_that_changes_while_it_is_read_is_refused_whole(run, store, tmp_path, monkeypatch, change, rows):
    content = "key_id,key\n" + "".join(f"k{n:05},{KEY.hex()}\n" for n in range(rows))
    path, stage = tmp_path / "keys.csv", store.stage

    def meanwhile(import_id, staged):
        monkeypatch.setattr(store, "stage", stage)
        before = path.stat()
        with path.open("r+b") as file:
            if change.startswith("overwritten"):
                file.write(content.replace(KEY.hex(), KEY[::-1].hex()).encode())
            elif change == "appended to":
                file.seek(0, 2)
                file.write(f"one-more,{KEY.hex()}\n".encode())
            else:
                file.truncate(len(content) - len(f"k00000,{KEY.hex()}\n"))
        if change == "overwritten within a tick":  # of the clock that the kernel writes down
            os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
        return stage(import_id, staged)

    monkeypatch.setattr(store, "stage", meanwhile)
    report = run(content)
    told = [(fault.line, fault.sentence) for fault in report.faults.by_line()]
    assert told == [(1, "the file changed while it was read; import it again")]
    assert report.import_id is None
    assert not store.live
    assert not store.staged


def test_dry_run_tells_conflicts_and_leaves_nothing_behind(run, store):
    report = run(GOOD, dry_run=True)
    assert (report.keys, report.import_id, report.faults.count) == (2, None, 0)
    assert not store.live
    assert not store.staged
    run(GOOD)
    assert run(GOOD, dry_run=True).faults.count == 2
    assert not store.staged


def test_keys_in_clear_are_refused_unless_asked_for(run, store):
    with pytest.raises(ImportRefused, match="--plaintext"):
        run(GOOD, plaintext=False)
    assert not store.imports


@pytest.mark.parametrize("vendor", ["", " ", " Acme", "Acme ", "Acme/2", "Acme\n", "x" * 65, "é"])
def test_vendor_that_is_no_name_is_refused(run, vendor):
    with pytest.raises(ImportRefused, match="a vendor's name is"):
        run(GOOD, vendor=vendor)


@pytest.mark.parametrize("vendor", ["A", "Acme", "Acme Ltd. No-1_b", "x" * 64])
def test_vendor_has_a_name_of_letters_digits_and_little_else(run, vendor):
    assert run(GOOD, vendor=vendor).import_id == 1


@pytest.mark.parametrize("step", ["begin", "stage"])
def test_error_of_the_store_is_passed_on_and_nothing_stays_staged(run, store, step):
    store.fail_on = step
    with pytest.raises((NotPossible, OSError)) as error:
        run(GOOD)
    assert not store.staged
    assert not store.live
    assert KEY.hex() not in "".join(traceback.format_exception(error.value))


def test_nothing_stays_staged_where_the_process_that_reads_is_killed(run, store, monkeypatch):
    rows = key_file.read_keys

    def killed(*what):
        yield from islice(rows(*what), STEP_ROWS)
        signal.raise_signal(signal.SIGKILL)

    monkeypatch.setattr(key_file, "read_keys", killed)
    with pytest.raises(ChildProcessError, match="was ended by SIGKILL"):
        run("key_id,key\n" + "".join(f"k{n},{KEY.hex()}\n" for n in range(2 * STEP_ROWS)))
    assert store.imports  # it had begun
    assert not store.staged
    assert not store.live


def test_no_key_in_clear_comes_from_the_process_that_reads(tmp_path):
    path = tmp_path / "keys.csv"
    path.write_text(GOOD)
    told = []
    with Lines(path) as lines:
        read_key_file(lines, DataKey.new(), None, {"alarm"}, TIMES[0], told.append)
    assert [type(part) for part in told] == [Position, SomeKeys, WholeFile]
    sent = pickle.dumps(told)
    assert b"k1" in sent
    for clear in (KEY, KEY[::-1], KEY.hex().encode()):
        assert clear not in sent


def test_import_whose_publishing_failed_is_not_discarded_since_it_may_be_live(run, store):
    store.fail_on = "publish"
    with pytest.raises(OSError, match="disk full"):
        run(GOOD)
    assert set(store.staged[1]) == {"k1", "k2"}


def test_faults_are_shown_although_what_was_staged_cannot_be_deleted(run, store, caplog):
    run(GOOD)
    store.fail_on = "discard"
    assert [fault.line for fault in run(GOOD).faults.by_line()] == [2, 3]
    assert "what was staged stays, and goes with the next import: disk full" in caplog.text


def test_dry_run_says_that_nothing_is_wrong_although_what_was_staged_cannot_be_deleted(run, store, caplog):
    store.fail_on = "discard"
    assert run(GOOD, dry_run=True).faults.count == 0
    assert "what was staged stays, and goes with the next import: disk full" in caplog.text


def test_import_that_could_not_be_staged_says_what_of_it_stays(run, store, caplog, monkeypatch):
    monkeypatch.setattr(store, "discard", lambda _: (_ for _ in ()).throw(StoreUnavailable("no room")))
    store.fail_on = "stage"
    with pytest.raises(OSError, match="disk full"):
        run(GOOD)
    assert "what was staged stays, and goes with the next import: no room" in caplog.text


def test_interrupt_after_the_commit_does_not_hide_that_the_keys_are_live(run, store):
    store.fail_on = "interrupt"
    assert run(GOOD).import_id == 1


@pytest.mark.parametrize("committed", [False, True])
def test_interrupt_of_publishing_tells_whether_the_keys_are_live(tmp_path, public_and_master, monkeypatch, committed):
    path = tmp_path / "keys.csv"
    path.write_text(GOOD)
    migrate(tmp_path / "kmp.db")
    with open_store(tmp_path / "kmp.db") as store:
        publish = store.imports.publish

        def interrupted(*what):
            if committed:
                publish(*what)
            raise KeyboardInterrupt

        monkeypatch.setattr(store.imports, "publish", interrupted)
        arguments = (store.imports, path, "Acme", public_and_master[0])
        if committed:
            assert import_keys(*arguments, clock=iter(TIMES).__next__, plaintext=True, served=()).import_id == 1
        else:
            with pytest.raises(KeyboardInterrupt):
                import_keys(*arguments, clock=iter(TIMES).__next__, plaintext=True, served=())
        assert bool(store.keys.get("k1")) == committed
        assert len(store.imports.listing(limit=9)) == committed


def test_pipe_and_directory_are_refused_at_once(store, tmp_path, public_and_master):
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", "."):
        with pytest.raises(ImportRefused, match="not a regular file"):
            import_keys(store, tmp_path / name, "Acme", public_and_master[0], clock=int, plaintext=True, served=())


def test_missing_file_is_an_os_error_that_names_it(store, tmp_path, public_and_master):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        import_keys(store, tmp_path / "nowhere", "Acme", public_and_master[0], clock=int, plaintext=True, served=())


def test_progress_is_told_to_the_end(run):
    told = []
    run(GOOD, progress=lambda *step: told.append(step))
    assert told == [(len(GOOD), len(GOOD))]


def test_200000_keys_are_imported_in_constant_memory(tmp_path):
    """In a process of its own: its peak and its child's are measured. All rows at once would take 100 MiB and more."""
    path = tmp_path / "keys.csv"
    with open(path, "w") as file:
        file.write("key_id,key,serial\n")
        file.writelines(f"acme-{n * 7919 % 200_000:06d},{n:032x},{n // 2}\n" for n in range(200_000))
    run = subprocess.run(
        [sys.executable, "-c", _IMPORT_AND_MEASURE, path], capture_output=True, text=True, check=True, timeout=60
    )
    keys, grown_octets = map(int, run.stdout.split())
    assert keys == 200_000
    assert grown_octets < 48 << 20


_IMPORT_AND_MEASURE = f"""
import pathlib, resource, sys
sys.path[:0] = {[path for path in sys.path if path]!r}
from kmp_smsd.importing.import_keys import import_keys
from kmp_smsd.vault.key_files import create_master_key

class Sink:
    def begin(self, **row): return 1
    def stage(self, import_id, rows): return []
    def publish(self, import_id, digest, now): pass

path = pathlib.Path(sys.argv[1])
public = create_master_key(path.with_name("key"), path.with_name("key.pub"))
peak = lambda: 1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
before = peak()
print(import_keys(Sink(), path, "Acme", public, clock=int, plaintext=True, served=()).keys, peak() - before)
"""
