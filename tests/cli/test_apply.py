"""`registrations apply` as the carrier's business system meets it, and `registrations renumber`."""

from __future__ import annotations

import json
import os
import resource
import sqlite3
import subprocess
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.cli import json_lines
from kmp_smsd.cli.settings import now_ms
from kmp_smsd.storage import Store, StoreUnavailable
from kmp_smsd.storage.requests import Requests
from tests.cli.site import FIRST, SECOND, THIRD, Site, until

ADD = {"id": "1", "op": "add", "mdn": FIRST, "apps": ["meter"]}
ADDED = {"id": "1", "result": "done", "added": 1, "unchanged": 0}


def lines(*requests: dict[str, Any] | str) -> str:
    return "".join((one if isinstance(one, str) else json.dumps(one)) + "\n" for one in requests)


def apply(site: Site, *requests: dict[str, Any] | str) -> list[dict[str, Any]]:
    done = site.run("registrations", "apply", str(site.write("requests.jsonl", lines(*requests))))
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_each_line_has_a_result(site):
    site.ready("K1", mdns=())
    results = apply(
        site,
        {"id": "a-1", "op": "add", "mdn": "+86 138 0000 0001", "apps": ["meter", "tracker"]},
        {"id": "a-2", "op": "renumber", "mdn": FIRST, "to": SECOND},
        "",
        {"id": "a-3", "op": "renumber", "mdn": FIRST, "to": THIRD},
        {"id": "a-4", "op": "remove", "mdn": SECOND, "apps": ["tracker"]},
        "rubbish",
        {"id": "a-5", "op": "add", "mdn": "12345", "apps": ["meter"]},
        {"id": "a-6", "op": "remove", "mdn": SECOND, "all": True},
    )
    assert results == [
        {"id": "a-1", "result": "done", "added": 2, "unchanged": 0},
        {"id": "a-2", "result": "done", "registrations": 2, "bindings": 0},
        {
            "id": "a-3",
            "result": "refused",
            "reason": "the old number has no registration: register the new one instead",
        },
        {"id": "a-4", "result": "done", "removed": 1, "unchanged": 0, "bindings": 0},
        {
            "line": 6,
            "id": None,
            "result": "error",
            "reason": "not JSON from character 1 on; write one object in one line",
        },
        {
            "line": 7,
            "id": "a-5",
            "result": "error",
            "reason": '"mdn" is no legal number of the numbering plan; correct it, or add its range to [numbering]',
        },
        {"id": "a-6", "result": "done", "removed": 1, "unchanged": 0, "bindings": 0},
    ]
    assert site.rows("registrations", "list") == []


def test_exit_code_says_whether_a_line_was_an_error(site):
    site.ready(mdns=())
    good, bad = site.write("good", lines(ADD, {"id": "2", "op": "renumber", "mdn": SECOND, "to": FIRST})), "[]\n"
    assert site.run("registrations", "apply", str(good)).exit_code == 0
    done = site.run("registrations", "apply", str(site.write("bad", bad + lines(ADD))))
    assert (done.exit_code, done.stderr) == (
        1,
        "kmp-smsd: 1 error in 2 lines: correct them and send them again\n",
    )
    assert json.loads(done.stdout.splitlines()[1]) == ADDED


def test_nothing_to_do_is_done(site):
    site.ready(mdns=())
    assert site.ok("registrations", "apply", str(site.write("empty", ""))) == ""
    assert site.ok("registrations", "apply", str(site.write("blank", "\n \r\n"))) == ""


def test_one_line_is_answered_before_the_next_is_sent(site):
    site.ready(mdns=())
    with site.process("registrations", "apply", "-", stdin=subprocess.PIPE, text=False) as process:
        os.set_blocking(process.stdin.fileno(), False)  # our end of the pipe: some callers work so
        for number in range(3):
            line = lines({**ADD, "id": str(number)}).encode()
            process.stdin.write(line[:20])
            process.stdin.flush()
            process.stdin.write(line[20:])
            process.stdin.flush()
            assert json.loads(process.stdout.readline())["id"] == str(number)
            assert len(site.rows("registrations", "list")) == 1
        process.stdin.write(lines(ADD).encode().rstrip())  # no line end, then the end
        process.stdin.close()
        assert json.loads(process.stdout.read())["id"] == "1"
        assert process.stderr.read() == b""
    assert process.returncode == 0


def test_standard_input_on_which_nothing_is_there_yet_has_not_ended(site):
    site.ready(mdns=())
    reading, writing = os.pipe()
    os.set_blocking(reading, False)  # whoever shares the pipe with the command set it so
    with site.process("registrations", "apply", "-", stdin=reading) as process:
        os.close(reading)
        until(lambda: os.get_blocking(writing) and "kmp.db" in opened(process.pid))
        os.write(writing, lines(ADD).encode())
        os.close(writing)
        assert json.loads(process.stdout.read()) == ADDED
    assert process.returncode == 0


def opened(pid: int) -> set[str]:
    found = set()
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.add(Path(os.readlink(link)).name)
        except OSError:
            continue
    return found


def test_overlong_line_is_an_error_and_the_next_is_done(site):
    site.ready(mdns=())
    results = apply(site, "x" * 1_000_000, ADD)
    assert [result["result"] for result in results] == ["error", "done"]
    assert results[0]["line"] == 1


def test_store_that_fails_in_the_middle_leaves_what_was_told_on_disk(site, monkeypatch):
    site.ready(mdns=())
    right, calls = Requests.apply, []

    def failing(self: Requests, requests: Any, now: int) -> Any:
        calls.append(1)
        if len(calls) == 3:
            raise StoreUnavailable("kmp.db: database or disk is full")
        return right(self, requests, now)

    monkeypatch.setattr(json_lines, "BATCH_LINES", 2)
    monkeypatch.setattr(Requests, "apply", failing)
    file = site.write("requests", lines(*[{**ADD, "id": str(number)} for number in range(10)]))
    done = site.run("registrations", "apply", str(file))
    assert done.exit_code == 75
    assert done.stderr == "kmp-smsd: kmp.db: database or disk is full: send the lines that had no result again\n"
    told = done.stdout.splitlines()
    assert len(told) == 4
    again = site.run("registrations", "apply", str(file))
    assert again.exit_code == 0
    assert again.stdout.splitlines()[:4] == told
    assert len(again.stdout.splitlines()) == 10


def test_reader_that_goes_away_makes_no_noise(site):
    site.ready(mdns=())
    file = site.write("many", lines(*[{**ADD, "id": str(number)} for number in range(5_000)]))
    with site.process("registrations", "apply", str(file)) as process:
        assert json.loads(process.stdout.readline())["id"] == "0"
        process.stdout.close()
        told = process.stderr.read()
    assert process.returncode == 75
    assert told == "kmp-smsd: nobody reads the results: send the lines that had none again\n"
    assert len(apply(site, *file.read_text().splitlines())) == 5_000


def test_results_for_which_the_disk_has_no_room_are_told(site):
    site.ready(mdns=())
    with open("/dev/full", "w") as full:
        process = site.process("registrations", "apply", str(site.write("one", lines(ADD))), stdout=full)
        _, told = process.communicate()
    assert process.returncode == 75
    assert told == (
        "kmp-smsd: the results cannot be written: No space left on device: send the lines that had none again\n"
    )
    assert apply(site, ADD) == [ADDED]


@pytest.mark.parametrize("words", [("nothing.jsonl",), (".",), ()])
def test_file_that_is_none_is_a_wrong_argument(site, words):
    site.ready(mdns=())
    code, _ = site.refused("registrations", "apply", *words)
    assert code == 64


KILLER = """
import os, signal, sys
from kmp_smsd.cli import apply
from kmp_smsd.storage import requests
requests.BATCH_ROWS = 25
at, where = int(os.environ.get("KILL_AT", "0")), os.environ.get("KILL_WHERE")
done = 0
answer, applying = requests.Requests._answer, requests.Requests.apply

def die():
    os.kill(os.getpid(), signal.SIGKILL)

def answer_or_die(*given):
    global done
    done += 1
    result = answer(*given)
    if done == at and where == "before the commit":
        die()
    return result

def apply_or_die(*given):
    results = applying(*given)
    if at and done >= at and where == "after the commit":
        die()
    return results

requests.Requests._answer, requests.Requests.apply = staticmethod(answer_or_die), apply_or_die
"""


def many_lives() -> str:
    """60 requests in which numbers come, go and change, and every tenth is faulty."""
    requests: list[dict[str, Any] | str] = []
    for number in range(10):
        mdn, other = f"8613900000{number:03}", f"8613911111{number:03}"
        requests += [
            {"id": f"{number}-a", "op": "add", "mdn": mdn, "apps": ["meter", "tracker"]},
            {"id": f"{number}-b", "op": "renumber", "mdn": mdn, "to": other},
            {"id": f"{number}-c", "op": "add", "mdn": mdn, "apps": ["meter"]},
            {"id": f"{number}-d", "op": "renumber", "mdn": mdn, "to": other},
            {"id": f"{number}-e", "op": "remove", "mdn": other, "apps": ["tracker"]},
            "faulty" if number % 2 else {"id": f"{number}-f", "op": "remove", "mdn": mdn, "all": True},
        ]
    return lines(*requests)


def with_bound_terminals(directory: Path) -> Site:
    directory.mkdir()
    site = Site(directory)
    mdns = [f"8613900000{number:03}" for number in range(10)]
    keys = [f"K{number}" for number in range(10)]
    site.ready(*keys, mdns=())
    done = site.run(
        "registrations", "import", str(site.write("r.csv", "mdn,app_id\n" + "".join(f"{m},meter\n" for m in mdns)))
    )
    assert done.exit_code == 0
    for mdn, key in zip(mdns, keys, strict=True):
        assert site.message(mdn, key) == "bound"
        site.message(mdn, f"{key}-to-come")
    return site


def state(site: Site) -> dict[str, Any]:
    """All that stands in the database, without times and versions."""
    moments = ("registered_at", "bound_at", "ended_at", "wanted_at", "try_at", "again_at")

    def rows(*words: str) -> list[dict[str, Any]]:
        return [
            {name: value for name, value in row.items() if name not in moments and not name.endswith("_version")}
            for row in site.rows(*words)
        ]

    with site.store() as store:
        waiting = [(row["mdn"], row["key_id"], row["again_at"] is None) for row in store.waiting.listing(limit=1_000)]
    return {
        "registrations": rows("registrations", "list"),
        "bindings": rows("bindings", "list"),
        "outbox": rows("outbox", "list", "--all"),
        "waiting": waiting,
    }


def remembered(site: Site) -> int:
    with site.store() as store:
        return int(store._database.rows("SELECT count(*) FROM requests")[0][0])


@pytest.mark.parametrize("where", ["before the commit", "after the commit"])
def test_killed_at_every_tenth_line_and_repeated_gives_the_same_results_and_state(tmp_path, where):
    undisturbed, killed = with_bound_terminals(tmp_path / "undisturbed"), with_bound_terminals(tmp_path / "killed")
    for site in (undisturbed, killed):
        site.write("requests", many_lives())
    results = undisturbed.run("registrations", "apply", str(undisturbed.directory / "requests")).stdout
    assert results.count("\n") == 60
    for line in range(10, 61, 10):
        environment = {**killed.customized(KILLER), "KILL_AT": str(line), "KILL_WHERE": where}
        with open(killed.directory / "requests") as requests:
            process = killed.process("registrations", "apply", "-", stdin=requests, env=environment)
            told, said = process.communicate(timeout=60)
        assert (process.returncode, said) == (-9, "")
        assert results.startswith(told)
        faulty = line // 12
        if where == "before the commit":
            assert told.count("\n") <= remembered(killed) + faulty < line
        else:
            assert told.count("\n") < line <= remembered(killed) + faulty + 1
    for _ in range(2):
        assert killed.run("registrations", "apply", str(killed.directory / "requests")).stdout == results
        assert state(killed) == state(undisturbed)


def test_numbers_are_neither_in_results_nor_in_what_is_remembered(site):
    site.ready("K1")
    site.message(FIRST, "K1")
    bad = [
        {**ADD, "id": "2", "mdn": int(FIRST)},
        {**ADD, "id": f"x{FIRST}"},
        {**ADD, "id": "3", "mdn": FIRST + "0"},
        {**ADD, "id": "4", FIRST: 1},
        FIRST,
    ]
    requests = [ADD, {"id": "5", "op": "renumber", "mdn": FIRST, "to": SECOND}, ADD | {"apps": ["x"]}, *bad]
    results = apply(site, *requests, {"id": "6", "op": "renumber", "mdn": FIRST, "to": SECOND})
    assert [result["result"] for result in results] == ["done", "done", *["error"] * 6, "refused"]
    assert "38000000" not in json.dumps(results)
    with site.store() as store:
        rows = store._database.rows("SELECT * FROM requests")
    assert len(rows) == 3
    assert "38000000" not in repr(rows)


def test_renumber_gives_a_number_s_keys_to_another(site):
    site.ready("K1", apps=("meter", "alarm"))
    site.message(FIRST, "K1", app_id="meter")
    code, told = site.refused("registrations", "renumber", FIRST, SECOND)
    assert code == 64
    assert told.startswith(f"{FIRST} will lose 2 registrations and 1 key, and {SECOND} will have them. Say --yes")
    said = f"{SECOND} alarm: registered\n{SECOND} meter: registered, key K1 is bound\n"
    dry = site.ok("registrations", "renumber", FIRST, SECOND, "--dry-run")
    would = f"{SECOND} alarm: would be registered\n{SECOND} meter: would be registered, key K1 would be bound\n"
    assert dry == f"{would}kmp-smsd: a dry run, nothing was changed\n"
    assert {row["mdn"] for row in site.rows("registrations", "list")} == {FIRST}
    assert site.ok("registrations", "renumber", FIRST, SECOND, "--yes") == said
    assert [(row["mdn"], row["key_id"]) for row in site.rows("bindings", "list")] == [(SECOND, "K1")]
    for words in ((FIRST, SECOND), (SECOND, SECOND)):
        assert site.refused("registrations", "renumber", *words)[0] == 1


def test_renumber_says_beforehand_which_holds_it_closes(site):
    site.ready("K1", mdns=(FIRST, SECOND))
    site.message(FIRST, "K1")
    site.message(SECOND, "K1")
    told = site.refused("registrations", "renumber", SECOND, THIRD)[1]
    assert told.startswith(f"{SECOND} will lose 1 registration and 0 keys, and {THIRD} will have them; 1 hold of")


def test_renumber_gives_nothing_to_a_number_that_is_not_legal(site):
    site.ready("K1")
    foreign = "4915112345678"
    for words in (("--yes",), ("--dry-run",)):
        code, told = site.refused("registrations", "renumber", FIRST, foreign, *words)
        assert code == 64
        assert "is in no range of the numbering plan" in told
    assert FIRST in {row["mdn"] for row in site.rows("registrations", "list")}


def test_many_lines_cost_little_of_a_processor(site):
    """So many times what it costs to read each as JSON and to write it into a table, in one transaction."""
    site.ready(mdns=())
    count = 20_000
    file = site.write(
        "many", lines(*[{**ADD, "id": str(number), "mdn": f"8613{number:09}"} for number in range(count)])
    )
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    process = site.process("registrations", "apply", str(file))
    told, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    assert told.count("\n") == count
    now = resource.getrusage(resource.RUSAGE_CHILDREN)
    cost_s = now.ru_utime + now.ru_stime - used.ru_utime - used.ru_stime
    began = time.process_time()
    with closing(sqlite3.connect(site.directory / "plain.db")) as plain, file.open() as asked, plain:
        plain.execute("CREATE TABLE requests (id TEXT PRIMARY KEY, mdn TEXT UNIQUE, apps TEXT)")
        for line in asked:
            one = json.loads(line)
            plain.execute("INSERT INTO requests VALUES (?, ?, ?)", (one["id"], one["mdn"], json.dumps(one["apps"])))
    plain_s = time.process_time() - began
    print(f"{cost_s / count * 1e6:.0f} us a line, {cost_s / plain_s:.1f} times a plain table's")
    assert cost_s < 25 * plain_s  # 11 on an idle machine; one commit a line did not end in time


def test_remembered_requests_are_forgotten_by_the_age_that_is_asked_for(site):
    site.ready(mdns=())
    apply(site, ADD)
    with site.store() as store:
        assert isinstance(store, Store)
        assert store.requests.expire(now_ms() - 60_000) == 0
        assert store.requests.expire(now_ms() + 1) == 1
    assert apply(site, ADD | {"apps": ["tracker"]})[0]["result"] == "done"
