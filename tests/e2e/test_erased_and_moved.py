"""An erased number is found nowhere, and platforms' files are renamed, split and merged under load."""

from __future__ import annotations

import threading
from contextlib import closing
from itertools import islice
from typing import Any

import pytest
from pysqlite3 import dbapi2 as sqlite3

from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier

ROK = CommandStatus.ESME_ROK
EACH_STEP = 300  # terminals that power on while files change


@pytest.fixture
def carrier(own_carrier: Carrier) -> Carrier:
    """One for each test, since they rename platforms."""
    return own_carrier


def role(carrier: Carrier, name: str) -> Any:
    return next(one for one in reversed(carrier.roles) if one.name == name and one.process.poll() is None)


def found(carrier: Carrier, number: str) -> bool:
    files = [carrier.database.with_name(carrier.database.name + suffix) for suffix in ("", "-wal", "-shm")]
    return any(number.encode() in file.read_bytes() for file in files)


def at(carrier: Carrier) -> list[str]:
    """The platforms at which keys are wanted."""
    return [row["platform"] for row in carrier.listing("bindings", "list")]


def test_erased_number_is_found_nowhere(carrier):
    mdn, key = carrier.terminal("meter", "tracker")
    other, _ = carrier.terminal("meter")
    carrier.say(mdn, f"K1:{key}:meter")
    carrier.say(other, f"K1:{key}")  # held, with the number as evidence
    carrier.say(mdn, "K1:NOT-YET-IMPORTED:meter")
    carrier.settled()
    assert found(carrier, mdn)
    server = carrier.platforms["metering"].server
    server.stop()
    said = carrier.command("subscribers", "erase", mdn, "--yes").stdout
    assert said == f"{mdn} meter: waits for platform metering\n"
    refused = carrier.command("registrations", "add", mdn, "meter", check=False)
    assert (refused.returncode, "is being erased" in refused.stderr) == (1, True)
    assert carrier.say(mdn, f"K1:{key}:meter") == ROK
    assert carrier.outcomes(mdn)[0] == "not_registered"
    assert found(carrier, mdn)
    server.start()
    carrier.command("outbox", "retry", "--platform", "metering")
    carrier.wait_for(lambda: not found(carrier, mdn), "the number to be gone")
    assert "nothing is known" in carrier.command("subscribers", "erase", mdn).stdout
    carrier.settled()
    assert {row["mdn"] for row in carrier.listing("journal", "list")} >= {None, other}
    carrier.command("registrations", "add", mdn, "meter")  # a new subscriber
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.settled()
    carrier.command("bindings", "withdraw", mdn, "meter")


class Watcher(threading.Thread):
    """Reads the database all the time: each bound key is wanted at one platform, and no other key anywhere."""

    def __init__(self, carrier: Carrier) -> None:
        super().__init__()
        self._path = carrier.database
        self._ended = threading.Event()
        self.snapshots = 0
        self.wrong: list[Any] = []

    def run(self) -> None:
        seen = None
        with closing(sqlite3.connect(f"file:{self._path}?mode=ro", uri=True, isolation_level=None)) as connection:
            while not self._ended.is_set():
                (version,) = connection.execute("PRAGMA data_version").fetchone()
                if version == seen:
                    self._ended.wait(0.001)
                    continue
                seen = version
                self.snapshots += 1
                self.wrong += connection.execute(
                    """SELECT * FROM (SELECT subscriber, app, key FROM bindings WHERE state = 'bound') b
                       FULL JOIN (SELECT subscriber, app, key, count(*) AS times FROM outbox
                                  WHERE key IS NOT NULL GROUP BY subscriber, app, key) o USING (subscriber, app, key)
                       WHERE times IS NOT 1 OR b.key IS NULL LIMIT 1"""
                ).fetchall()

    def end(self) -> None:
        self._ended.set()
        self.join()


def test_platform_file_renamed_under_load(carrier):
    """Renamed, split and merged, while terminals power on; then what is left of old names is forgotten."""
    terminals = [(f"861377{number:07d}", f"LOAD-{number:05d}") for number in range(4 * EACH_STEP)]
    apps = ["tracker", "alarm"]
    carrier.import_keys([(key, "") for _, key in terminals])
    file = carrier.directory / "load.csv"
    file.write_text("mdn,app_id\n" + "".join(f"{mdn},{apps[n % 2]}\n" for n, (mdn, _) in enumerate(terminals)))
    carrier.command("registrations", "import", str(file))
    watcher = Watcher(carrier)
    watcher.start()
    answers = []
    waiting = iter(terminals)

    def load(most: int) -> None:
        for mdn, key in islice(waiting, most):
            answers.append(carrier.smsc.send(mdn, f"K1:{key}"))

    def change(**platforms: tuple[str, ...]) -> None:
        """Write the files as they are from now on, under load, and start dispatch with them, while it is watched."""
        before = watcher.snapshots
        load(EACH_STEP // 2)
        for stale in (carrier.directory / "platforms.d").glob("*.toml"):
            stale.unlink()
        for name, served in platforms.items():
            carrier.platforms[name].apps = served
        carrier.write_config()
        role(carrier, "dispatch").stop()
        load(EACH_STEP // 2)
        carrier.start_role("dispatch")
        carrier.wait_for(lambda: watcher.snapshots > before, "the watcher to see what is written meanwhile")

    try:
        load(EACH_STEP)
        fleet = carrier.platforms.pop("fleet")
        fleet.name = "vehicles"
        carrier.platforms["vehicles"] = fleet
        change(vehicles=("tracker", "alarm"))  # renamed: one receiver
        change(vehicles=("tracker",), metering=("meter", "alarm"))  # split
        change(vehicles=(), metering=("meter", "alarm", "tracker"))  # merged; the old one gives up what it holds
        load(len(terminals))
        assert {answer.result(60) for answer in answers} == {ROK}
        assert len(answers) == len(terminals)
        assert carrier.command("platforms", "forget", "vehicles", "--yes", check=False).returncode == 1  # has a file
        assert carrier.command("platforms", "forget", "fleet", "--yes").stdout == "fleet is forgotten\n"
        carrier.wait_for(lambda: set(at(carrier)) == {"metering"}, "all keys to be wanted at the one that is left")
        carrier.settled()
    finally:
        watcher.end()
    assert watcher.wrong == []
    held = {row["mdn"]: row["key_id"] for row in carrier.platforms["metering"].holds()}
    assert dict(terminals).items() <= held.items()
    assert carrier.platforms["vehicles"].holds() == []
    assert "fleet" not in {row["platform"] for row in carrier.listing("platforms", "list")}


def test_keys_of_a_forgotten_platform_wait_for_another(carrier):
    mdn, key = carrier.terminal("meter")
    gone = carrier.platforms.pop("metering")
    (carrier.directory / "platforms.d" / "metering.toml").unlink()
    carrier.write_config()
    carrier.say(mdn, f"K1:{key}")
    late = carrier.command("platforms", "forget", "metering", "--yes", "--wait", "1", check=False)
    assert (late.returncode, "'kmp-smsd reload'" in late.stderr) == (69, True)  # dispatch knows the file
    carrier.command("reload", "--role", "dispatch")
    carrier.wait_for(lambda: at(carrier) == [""], "the key to wait")
    gone.name = "again"
    carrier.platforms["again"] = gone
    carrier.write_config()
    role(carrier, "dispatch").stop()
    carrier.start_role("dispatch")
    carrier.wait_for(lambda: at(carrier) == ["again"], "the key to follow")
    carrier.settled()
    assert {row["mdn"]: row["key_id"] for row in gone.holds()}[mdn] == key
