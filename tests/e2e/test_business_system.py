"""The carrier's business system over SSH, as docs/business-system.rst sets it up, while both roles work."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.simulator.openssh import OpensshServer, new_identity
from kmp_smsd.smpp.constants import CommandStatus
from tests.e2e.carrier import Carrier, hold_answers, release_answers
from tests.sshd import require_sshd

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "business-system.rst"
ROK = CommandStatus.ESME_ROK


def documented() -> tuple[str, str]:
    """The options and the command of the line in authorized_keys."""
    (line,) = re.findall(r"^ +(restrict,command=.*)$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    found = re.fullmatch(r'(\w+),command="(kmp-smsd [^"]*)" ssh-ed25519 AAAA\.\.\. .*', line)
    assert found
    return found[1], found[2]


class BusinessSystem:
    """Logs in with Debian's ssh, as a business system on another machine does."""

    def __init__(self, carrier: Carrier, directory: Path) -> None:
        private, public = new_identity()
        self.identity = directory / "identity"
        self.identity.touch(mode=0o600)
        self.identity.write_bytes(private)
        options, command = documented()
        assert options == "restrict"
        ours = shlex.join(carrier.words(*shlex.split(command)[1:]))
        self.server = OpensshServer(directory / "sshd", f"cd {shlex.quote(str(ROOT))} && exec {ours}", public)
        self.server.start()
        self.known = directory / "known_hosts"
        self.known.write_text(f"[127.0.0.1]:{self.server.port} {self.server.host_key}\n")

    def words(self, *command: str) -> list[str]:
        return [
            "ssh", "-F", "none", "-T", "-i", str(self.identity), "-p", str(self.server.port),
            "-o", f"UserKnownHostsFile={self.known}", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes",
            f"{self.server.user}@127.0.0.1", *command,
        ]  # fmt: skip

    def connect(self, *command: str) -> subprocess.Popen[str]:
        pipe = subprocess.PIPE
        return subprocess.Popen(self.words(*command), stdin=pipe, stdout=pipe, stderr=pipe, text=True)

    def ask(self, *requests: dict[str, Any], command: tuple[str, ...] = ()) -> tuple[int, list[dict[str, Any]]]:
        with self.connect(*command) as session:
            told, _ = session.communicate("".join(json.dumps(one) + "\n" for one in requests), timeout=60)
        return session.returncode, [json.loads(line) for line in told.splitlines()]


@pytest.fixture(name="business", scope="module")
def _business(carrier: Carrier, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BusinessSystem]:
    require_sshd()
    system = BusinessSystem(carrier, tmp_path_factory.mktemp("business"))
    yield system
    system.server.stop()


def held_at(carrier: Carrier, platform: str) -> dict[str, str]:
    return {row["mdn"]: row["key_id"] for row in carrier.platforms[platform].holds()}


def test_registration_over_ssh_binds_who_waits_for_it(carrier, business):
    mdn, key = carrier.terminal()
    assert carrier.say(mdn, f"K1:{key}") == ROK
    code, results = business.ask({"id": "wait-1", "op": "add", "mdn": mdn, "apps": ["meter"]})
    assert (code, results) == (0, [{"id": "wait-1", "result": "done", "added": 1, "unchanged": 0}])
    carrier.wait_for(lambda: mdn in held_at(carrier, "metering"), "the key at its platform")
    carrier.settled()


def test_each_line_over_ssh_is_answered_before_the_next(carrier, business):
    mdn, _ = carrier.terminal()
    with business.connect() as session:
        for number in range(5):
            session.stdin.write(json.dumps({"id": f"one-{number}", "op": "add", "mdn": mdn, "apps": ["meter"]}) + "\n")
            session.stdin.flush()
            assert json.loads(session.stdout.readline())["id"] == f"one-{number}"
        session.stdin.close()
        assert session.wait(30) == 0


@pytest.mark.parametrize(
    "command", [("sh", "-c", "'echo mine'"), ("kmp-smsd", "master-key", "create"), ("cat", "/etc/passwd")]
)
def test_account_can_do_nothing_else(business, command):
    code, results = business.ask({"id": "no"}, command=command)
    assert code == 1
    assert [result["result"] for result in results] == ["error"]


def test_account_can_reach_no_other_host(carrier, business):
    listening = carrier.smsc.port
    tunnel = subprocess.run(
        [*business.words()[:1], "-W", f"127.0.0.1:{listening}", *business.words()[1:]],
        stdin=subprocess.DEVNULL, capture_output=True, timeout=30, check=False,
    )  # fmt: skip
    assert tunnel.returncode != 0
    assert b"administratively prohibited" in tunnel.stderr


def test_connection_that_breaks_is_made_again_and_all_is_sent_again(carrier, business):
    mdns = [f"861366{number:07d}" for number in range(3_000)]
    requests = [{"id": f"cut-{mdn[-4:]}", "op": "add", "mdn": mdn, "apps": ["meter"]} for mdn in mdns]
    text = "".join(json.dumps(one) + "\n" for one in requests)
    with business.connect() as session:
        threading.Thread(target=write, args=(session, text), daemon=True).start()
        told = [session.stdout.readline() for _ in range(50)]
        business.server.kill_sessions()
        session.wait(30)
    assert session.returncode != 0
    code, results = business.ask(*requests)
    assert code == 0
    assert [json.loads(line) for line in told] == results[:50]
    assert results == [{"id": one["id"], "result": "done", "added": 1, "unchanged": 0} for one in requests]
    standing = {row["mdn"] for row in carrier.listing("registrations", "list", "--app", "meter")}
    assert set(mdns) <= standing


def write(session: subprocess.Popen[str], text: str) -> None:
    assert session.stdin is not None
    try:
        session.stdin.write(text)
        session.stdin.flush()
    except (OSError, ValueError):
        return  # the connection broke


def test_number_changed_while_a_delivery_is_under_way(carrier, business):
    mdn, key = carrier.terminal("meter")
    new = f"8613555{mdn[-6:]}"
    gate = carrier.gate("metering")
    hold_answers(gate)
    assert carrier.say(mdn, f"K1:{key}") == ROK
    carrier.wait_for((gate / "held").exists, "the platform to have stored the key")
    code, results = business.ask({"id": "under-way", "op": "renumber", "mdn": mdn, "to": new})
    assert (code, results[0]["bindings"]) == (0, 1)
    release_answers(gate)
    carrier.settled()
    held = held_at(carrier, "metering")
    assert held[new] == key
    assert mdn not in held
    assert carrier.bindings()[new, "meter"] == key
    assert carrier.say(new, f"K1:{key}") == ROK
    assert carrier.outcomes(new) == ["already_bound"]


def test_thousands_of_requests_while_terminals_report_leave_no_message_with_the_smsc(carrier, business):
    """Thousands of lines a second beside a working intake, over SSH; and every message gets its answer in time."""
    terminals = [(f"861344{number:07d}", f"WHILE-{number:04d}") for number in range(400)]
    carrier.import_keys([(key, "") for _, key in terminals])
    business.ask(*({"id": f"w{mdn[-4:]}", "op": "add", "mdn": mdn, "apps": ["meter"]} for mdn, _ in terminals))
    count = 20_000
    requests = [
        {"id": f"bulk-{number}", "op": "add", "mdn": f"861333{number:07d}", "apps": ["meter"]}
        for number in range(count)
    ]
    put_off = carrier.smsc.counts.put_off
    done: list[tuple[float, int]] = []

    def ask() -> None:
        began = time.monotonic()
        _, results = business.ask(*requests)
        done.append((time.monotonic() - began, len(results)))

    asking = threading.Thread(target=ask)
    asking.start()
    said = 0
    while asking.is_alive() and said < len(terminals):
        mdn, key = terminals[said]
        assert carrier.smsc.send(mdn, f"K1:{key}").result(30) == ROK
        said += 1
    asking.join()
    ((took_s, answered),) = done
    assert answered == count
    assert said > 20
    assert carrier.smsc.counts.put_off == put_off
    print(f"{count / took_s:,.0f} lines a second over SSH, {said} messages meanwhile")
    assert count / took_s > 500  # a commit for each line would be slower; scripts/bench measures the rate
    carrier.settled()
