"""What is measured once, and whole: the road to the platform, a business system, an import, latency beside others."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from statistics import median

from benchmark import machine
from benchmark.generator import Generator
from benchmark.process import Meter, limit
from benchmark.rounds import Rounds
from benchmark.sample import FLOOR, Sample, road, summed_up
from benchmark.stock import APP, Fresh, mdn, message
from kmp_smsd.control.client import NotRunning, ask
from kmp_smsd.simulator.lab import Lab
from kmp_smsd.storage import Store, open_store
from kmp_smsd.storage.connection import connect
from kmp_smsd.storage.migrating import migrate

_WAIT_S = 3_600.0


def to_the_platform(
    lab: Lab, rounds: Rounds, generator: Generator, subjects: Sequence[int]
) -> Iterator[dict[str, object]]:
    """Both roles over OpenSSH: what was due first, then from the first message of `subjects` to the last receipt."""
    with open_store(lab.database) as store:
        earlier = sum(row["due"] for row in store.platforms.listing(at_most=sys.maxsize))
        began = time.perf_counter()
        dispatch = lab.start_role("dispatch")
        _all_confirmed(lab, store)
        if earlier:
            yield road("dispatch alone over SSH", earlier, time.perf_counter() - began)
        with rounds.intake(1) as intake:
            meters = [Meter(pid) for pid in (intake, dispatch.process.pid)]
            began = time.perf_counter()
            run = generator.closed_loop([message(number) for number in subjects], 100)
            rounds.wait_until_settled()
            _all_confirmed(lab, store)
            took_s = time.perf_counter() - began
            used_s = [used for meter in meters for used in meter.used_s]
            peaks = [round(meter.peak_octets / 1e6) for meter in meters]
            yield road(
                "message to receipt over SSH", len(subjects), took_s, links=1, window=100,
                **{"CPU us": round(1e6 * sum(used_s) / len(subjects), 1), "peak MB": max(peaks)},
                limit=limit(took_s, run.busy * run.took_s / took_s, used_s),
            )  # fmt: skip
        dispatch.stop()


def at_a_rate(
    lab: Lab, rounds: Rounds, generator: Generator, fresh: Fresh, rate: float, seconds: float
) -> Iterator[dict[str, object]]:
    """Answer times at a fixed rate, of the floor and of new bindings: alone, beside a backup, and beside dispatch."""
    count = int(rate * seconds)
    samples: list[Sample] = []

    def sample(what: str, pid: int) -> None:
        meter = Meter(pid)
        run = generator.open_loop([message(number) for number in fresh.take(count)], rate)
        used_s, peak = meter.used_s, meter.peak_octets
        held_back = limit(run.took_s, run.busy, used_s)
        if not run.undisturbed:
            held_back += "; the generator had no real-time priority"
        samples.append(Sample(f"{what}, {rate:,.0f}/s", 1, 0, run, sum(used_s), peak, held_back))

    yield machine.steadiness(seconds)
    with rounds.floor(1) as pid:
        sample(FLOOR, pid)
    with rounds.intake(1) as pid:
        sample("new bindings", pid)
        backup = subprocess.Popen(
            lab.words("db", "backup", str(lab.directory / "backup.db")), stdout=subprocess.DEVNULL
        )
        sample("new bindings beside a backup", pid)
        backup.wait()
        dispatch = lab.start_role("dispatch")
        lab.wait_for(lambda: _receipts(lab) > 0, "dispatch to be at work")
        before, began = _receipts(lab), time.perf_counter()
        sample("new bindings beside dispatch", pid)
        meanwhile = road("  receipts meanwhile", _receipts(lab) - before, time.perf_counter() - began)
        dispatch.stop()
    yield from summed_up(samples)
    yield meanwhile


def business_system(lab: Lab, rounds: Rounds, generator: Generator, count: int) -> Iterator[dict[str, object]]:
    """A business system's requests while intake takes repeats of those who are bound, and what these are left."""
    bound = rounds.bound
    load = [message(number) for number in bound[:2_000]]
    subjects, news = range(500_000_000, 500_000_000 + count), range(600_000_000, 600_000_000 + count)
    works = {
        "add": [{"op": "add", "mdn": mdn(one), "apps": [APP]} for one in subjects],
        "add again": [{"op": "add", "mdn": mdn(one), "apps": [APP]} for one in subjects],
        "renumber": [_renumbering(old, new) for old, new in zip(subjects, news, strict=True)],
        "remove": [{"op": "remove", "mdn": mdn(one), "all": True} for one in news],
        "renumber with a key": [_renumbering(one, 700_000_000 + one) for one in bound],
    }
    with rounds.intake(1):
        generator.closed_loop(load[:1], 1)
        for name, requests in works.items():
            file = lab.directory / "requests"
            lines = [{"id": f"{name.removesuffix(' again')}-{number}", **one} for number, one in enumerate(requests)]
            file.write_text("".join(json.dumps(line) + "\n" for line in lines))
            beside: list[float] = []
            began = time.perf_counter()
            with open(lab.directory / "results", "wb") as results:
                applying = subprocess.Popen(lab.words("registrations", "apply", str(file)), stdout=results)
                while applying.poll() is None:
                    beside.append(generator.closed_loop(load, 100).per_second)
            took_s = time.perf_counter() - began
            if applying.returncode:
                raise SystemExit(f"bench: {name}: exit {applying.returncode}")
            yield road(f"requests: {name}, beside intake", len(requests), took_s)
            yield {"what": "  repeats meanwhile", "links": 1, "window": 100, "per second": round(median(beside)),
                   "lowest": round(min(beside)), "highest": round(max(beside))}  # fmt: skip


def importing(lab: Lab, count: int) -> Iterator[dict[str, object]]:
    """An import of encrypted keys, and the same rows written in clear with one `executemany`.

    Into the store's own table with the store's own settings, and into a table of nothing but them.
    """
    rows = [(f"I{number:08d}", number.to_bytes(16, "big").hex(), f"I{number}") for number in range(count)]
    lean_s = _in_clear(
        lab.directory / "lean.db",
        "INSERT INTO lean_keys (key_id, key, serial) VALUES (?, ?, ?)",
        rows,
        """CREATE TABLE lean_keys (id INTEGER PRIMARY KEY, key_id TEXT UNIQUE, key TEXT, serial TEXT);
           CREATE INDEX terminals ON lean_keys (serial)""",
    )
    yield road("rows in clear, a table of three columns", count, lean_s)
    clear_s = _in_clear(
        lab.directory / "clear.db",
        """INSERT INTO keys
             (import, key_id, serial, app, algorithm, kcv, nonce, ciphertext, valid_from, valid_until)
           VALUES (1, ?, ?, NULL, 'aes', ?, NULL, ?, NULL, NULL)""",
        [(key_id, serial, key[:6], bytes.fromhex(key)) for key_id, key, serial in rows],
        """INSERT INTO data_keys (id, sealed, created_at) VALUES ('', x'', 0);
           INSERT INTO imports (id, vendor, file_name, digest, data_key, started_at)
           VALUES (1, 'Bench import', '', '', '', 0)""",
    )
    yield road("the same rows in clear, executemany", count, clear_s)
    file = lab.directory / "keys.csv"
    with file.open("w", newline="") as lines:
        writer = csv.writer(lines)
        writer.writerow(("key_id", "key", "serial"))
        writer.writerows(rows)
    began = time.perf_counter()
    lab.command("keys", "import", str(file), "--vendor", "Bench import", "--plaintext")
    took_s = time.perf_counter() - began
    yield road("import of keys", count, took_s, **{"ratio to floor": round(clear_s / took_s, 3)})


def _in_clear(path: Path, statement: str, rows: Sequence[tuple[object, ...]], first: str) -> float:
    """The seconds that `rows` take into a new database, in which `first` was executed."""
    migrate(path)
    with closing(connect(path)) as database:
        database.executescript(first)
        began = time.perf_counter()
        database.execute("BEGIN")
        database.executemany(statement, rows)
        database.execute("COMMIT")
        return time.perf_counter() - began


def _all_confirmed(lab: Lab, store: Store) -> None:
    names = [*lab.platforms, ""]

    def confirmed() -> bool:
        now = int(time.time() * 1000)
        return all(store.outbox.next_try(name, now) is None for name in names)

    lab.wait_for(confirmed, "every receipt", within_s=_WAIT_S)


def _receipts(lab: Lab) -> int:
    """How many deliveries platforms have confirmed since dispatch began."""
    try:
        status = ask(lab.control / "dispatch.sock", "status")
    except NotRunning:  # it does not listen yet
        return 0
    return sum(one["confirmed"] for one in status["platforms"])


def _renumbering(old: int, new: int) -> dict[str, str]:
    return {"op": "renumber", "mdn": mdn(old), "to": mdn(new)}
