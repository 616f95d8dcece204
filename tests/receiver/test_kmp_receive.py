from __future__ import annotations

import ast
import base64
import hashlib
import hmac
import json
import os
import resource
import runpy
import shutil
import signal
import socket
import sqlite3
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.receiver_store import RECEIVER, leave_copy, new_store

HELLO = {"v": 1, "type": "hello", "kmp": "test", "window": 100}
BIND: dict[str, Any] = {
    "id": 17,
    "type": "bind",
    "mdn": "8613912345678",
    "app_id": "meter",
    "version": 1732380000000,
    "key_id": "8A3F",
    "alg": "aes",
    "key": "AAECAwQFBgcICQoLDA0ODw",
    "kcv": "BE7ED6",
}
WITHDRAW = {"id": 18, "type": "withdraw", "mdn": "8613912345678", "app_id": "meter", "version": 1732380000001}
KEY = bytes(range(16))
OTHER_KEY = bytes.fromhex("c0ffee00c0ffee11c0ffee22c0ffee33")


def encoded(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


class Receiver:
    """One run of kmp-receive, spoken to over pipes as sshd does."""

    def __init__(self, *arguments: str, limit: Callable[[], None] | None = None) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(RECEIVER), *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            preexec_fn=limit,
        )

    def say(self, *lines: dict[str, Any] | bytes) -> None:
        assert self.process.stdin is not None
        octets = [line if isinstance(line, bytes) else json.dumps(line).encode() + b"\n" for line in lines]
        self.process.stdin.write(b"".join(octets))
        self.process.stdin.flush()

    def hear(self) -> dict[str, Any]:
        assert self.process.stdout is not None
        line: dict[str, Any] = json.loads(self.process.stdout.readline())
        return line

    def ask(self, *lines: dict[str, Any] | bytes) -> list[dict[str, Any]]:
        self.say(*lines)
        return [self.hear() for _ in lines]

    def greet(self) -> Receiver:
        assert self.ask(HELLO)[0]["type"] == "hello"
        return self

    def end(self) -> tuple[int, str]:
        """Close its input; its exit status and what it said on standard error."""
        stdout, stderr = self.process.communicate(timeout=20)
        assert stdout == b""
        return self.process.returncode, stderr.decode()


@pytest.fixture
def store(tmp_path: Path) -> Path:
    new_store(tmp_path / "keys.db")
    return tmp_path / "keys.db"


@pytest.fixture
def run(store: Path) -> Iterator[Callable[..., Receiver]]:
    running: list[Receiver] = []

    def start(*arguments: str, limit: Callable[[], None] | None = None) -> Receiver:
        running.append(Receiver(*(arguments or ("--store", str(store))), limit=limit))
        return running[-1].greet()

    yield start
    for receiver in running:
        receiver.process.kill()
        receiver.process.communicate()


def command(store: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, str(RECEIVER), "--store", str(store), *arguments]
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=20)


Run = Callable[..., Receiver]


def test_file_needs_no_newer_python_than_it_says() -> None:
    tree = ast.parse(RECEIVER.read_text(), feature_version=(3, 8))
    imported = {alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names}
    imported |= {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and node.module}
    assert {name.partition(".")[0] for name in imported} <= set(sys.stdlib_module_names)
    assert os.access(RECEIVER, os.X_OK)


def test_hello_is_answered_with_a_hello(store: Path) -> None:
    receiver = Receiver("--store", str(store), "--window", "50")
    assert receiver.ask(HELLO) == [
        {"v": 1, "type": "hello", "receiver": "kmp-receive 1", "window": 50, "max_line": 65536}
    ]
    assert receiver.end() == (0, "")


def test_receipt_of_the_document_is_given(run: Run) -> None:
    assert run().ask(BIND) == [{"id": 17, "status": "stored", "receipt": "zsK3lg-CzMhj3PeymwM_Gg"}]


def test_receipt_is_computed_from_what_is_stored_and_not_from_what_came(run: Run, store: Path) -> None:
    run().ask(BIND)
    # A store that damages what it is given.
    damaged = sqlite3.connect(store)
    with damaged:
        damaged.execute(
            "CREATE TRIGGER damage AFTER INSERT ON held WHEN new.mdn <> '8613912345678' BEGIN "
            "UPDATE held SET key = ? WHERE mdn = new.mdn; END".replace("?", "x'" + OTHER_KEY.hex() + "'")
        )
    damaged.close()
    [answer] = run().ask(BIND | {"mdn": "8613900000000"})
    message = b"kmp-smsd receipt v1\0008613900000000\0meter\x008A3F\x001732380000000"
    assert answer["receipt"] == encoded(hmac.digest(OTHER_KEY, message, hashlib.sha256)[:16])


def test_versions_order_what_is_held(run: Run) -> None:
    newer = BIND | {"version": BIND["version"] + 5, "key_id": "NEW", "key": encoded(OTHER_KEY)}
    receiver = run()
    assert receiver.ask(BIND)[0]["status"] == receiver.ask(BIND)[0]["status"] == "stored"
    assert receiver.ask(newer)[0]["status"] == "stored"
    assert receiver.ask(BIND) == [{"id": 17, "status": "stale", "version": newer["version"]}]
    assert receiver.ask(newer | {"key_id": "NEWER"})[0]["status"] == "rejected"
    assert receiver.ask(WITHDRAW)[0] == {"id": 18, "status": "stale", "version": newer["version"]}
    last = WITHDRAW | {"version": newer["version"] + 1}
    assert receiver.ask(last, last) == [{"id": 18, "status": "removed"}] * 2
    assert receiver.ask(newer)[0] == {"id": 17, "status": "stale", "version": last["version"]}
    assert receiver.ask(newer | {"version": last["version"]})[0]["status"] == "rejected"


def test_withdraw_that_overtakes_its_bind_leaves_a_tombstone(run: Run) -> None:
    receiver = run()
    assert receiver.ask(WITHDRAW) == [{"id": 18, "status": "removed"}]
    assert receiver.ask(BIND) == [{"id": 17, "status": "stale", "version": WITHDRAW["version"]}]


def test_lines_of_one_burst_are_applied_in_their_order(run: Run) -> None:
    answers = run().ask(BIND, WITHDRAW)
    # The bind's row is gone when the group is answered: it may not claim to be stored.
    assert answers[1] == {"id": 18, "status": "removed"}
    assert answers[0]["status"] in ("stored", "stale")


def test_a_place_that_comes_three_times_in_one_burst_is_judged_in_order(run: Run) -> None:
    again, other = BIND | {"id": 18}, BIND | {"id": 19, "kcv": "000000"}
    first, second, third = run().ask(BIND, again, other)
    assert (first["status"], second["status"]) == ("stored", "stored")
    assert first["receipt"] == second["receipt"]
    assert third == {"id": 19, "status": "rejected", "reason": "this version is held with other content"}


def test_what_was_answered_outlives_kill_9(run: Run, store: Path) -> None:
    receiver = run()
    receiver.ask(BIND)
    receiver.process.kill()
    receiver.process.wait()
    listed = command(store, "list", "--json").stdout
    assert json.loads(listed)["version"] == BIND["version"]


def test_replaced_and_withdrawn_keys_are_erased_from_the_disk(run: Run, store: Path) -> None:
    keys = [hashlib.sha256(bytes([number])).digest() for number in range(100)]
    binds = [BIND | {"id": at, "mdn": str(8613900000000 + at), "key": encoded(key)} for at, key in enumerate(keys)]

    def left() -> int:
        octets = b"".join(path.read_bytes() for path in store.parent.glob("keys.db*"))
        return sum(key in octets for key in keys)

    receiver = run()
    receiver.ask(*binds)
    assert left() == 100
    receiver.ask(*(bind | {"version": BIND["version"] + 1, "key": encoded(OTHER_KEY)} for bind in binds[:50]))
    assert left() == 50
    receiver.ask(*(WITHDRAW | {"mdn": bind["mdn"]} for bind in binds[50:]))
    assert left() == 0


@pytest.mark.parametrize("every_s", ["60.0", "0.0"])
def test_copies_of_withdrawn_keys_are_cleared_at_the_end_and_now_and_then(
    run: Run, store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, every_s: str
) -> None:
    script = tmp_path / "kmp-receive"
    text = RECEIVER.read_text()
    assert "SCRUB_EVERY_S = 60.0" in text
    script.write_text(text.replace("SCRUB_EVERY_S = 60.0", f"SCRUB_EVERY_S = {every_s}"))
    monkeypatch.setattr(sys.modules[__name__], "RECEIVER", script)
    receiver = run()
    receiver.ask(BIND)
    receiver.end()
    leave_copy(store, KEY)
    receiver = run()
    receiver.ask(WITHDRAW)
    if every_s == "0.0":
        receiver.ask(WITHDRAW)  # which is read after that
    assert (KEY in store.read_bytes()) == (every_s == "60.0")
    assert receiver.end() == (0, "")
    assert KEY not in store.read_bytes()


def test_no_core_dump_is_left_of_a_receiver_with_keys(store: Path) -> None:
    """sshd's sessions may write them, and some systems keep each."""
    most = resource.getrlimit(resource.RLIMIT_CORE)[1]
    if most == 0:
        pytest.skip("none may be written here anyway")
    receiver = Receiver("--store", str(store), limit=lambda: resource.setrlimit(resource.RLIMIT_CORE, (most, most)))
    receiver.greet()
    allowed = resource.prlimit(receiver.process.pid, resource.RLIMIT_CORE)
    receiver.end()
    assert allowed == (0, 0)


# PR_GET_DUMPABLE
DUMPABLE_AT_THE_END = """
import atexit, ctypes, sys
atexit.register(lambda: print("dumpable", ctypes.CDLL(None).prctl(3, 0, 0, 0, 0), file=sys.stderr))
"""


def test_the_memory_of_a_receiver_with_keys_is_nobody_s_to_read(
    store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A kernel that pipes core dumps to a program does not heed the limit."""
    (tmp_path / "sitecustomize.py").write_text(DUMPABLE_AT_THE_END)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    assert Receiver("--window", "0").end()[1].endswith("\ndumpable 1\n")  # which shows that the kernel is asked
    assert Receiver("--store", str(store)).greet().end() == (0, "dumpable 0\n")


# As an ordinary user, whose files below /proc are root's from there on.
FILE_SYSTEM_OF_THE_ROOT = """
import os, runpy, sys
receive = runpy.run_path(sys.argv[1])
if os.geteuid() == 0:
    os.setuid(65534)
receive["hide_memory"]()
print(receive["file_system"]("/"))
"""


def test_a_receiver_whose_memory_is_hidden_can_tell_file_systems() -> None:
    done = subprocess.run(
        [sys.executable, "-c", FILE_SYSTEM_OF_THE_ROOT, str(RECEIVER)], capture_output=True, text=True, check=True
    )
    known: str = runpy.run_path(str(RECEIVER))["file_system"]("/")
    assert known != ""
    assert done.stdout == f"{known}\n"


def test_store_is_for_its_owner_alone(run: Run, store: Path) -> None:
    run().ask(BIND)
    assert {stat.S_IMODE(path.stat().st_mode) for path in store.parent.glob("keys.db*")} == {0o600}


def test_file_that_is_no_store_is_named(store: Path) -> None:
    store.write_text("no database, but a text that is longer than the header of one would be: it has 100 octets\n" * 9)
    assert command(store, "list").stderr == f"kmp-receive: store: {store}: file is not a database\n"


def test_two_receivers_share_one_store(run: Run) -> None:
    first, second = run(), run()
    first.ask(BIND)
    assert second.ask(WITHDRAW)[0]["status"] == "removed"
    assert first.ask(BIND)[0]["status"] == "stale"


def test_highest_version_wins_between_two_receivers_at_once(run: Run, store: Path) -> None:
    receivers = [run(), run()]
    lines = [BIND | {"id": number, "version": 1000 + number, "key_id": f"K{number}"} for number in range(1000)]
    # Both write at once: neither waits for the other's answers.
    for at, receiver in enumerate(receivers):
        receiver.say(*lines[at::2])
    answers = [receiver.hear() for receiver in receivers for _ in range(500)]
    assert {answer["status"] for answer in answers} <= {"stored", "stale"}
    [held] = command(store, "list", "--json").stdout.splitlines()
    assert json.loads(held)["version"] == 1999


def test_line_in_single_octets_is_the_same_line(run: Run) -> None:
    receiver = run()
    for octet in json.dumps(BIND).encode() + b"\n":
        receiver.say(bytes([octet]))
    assert receiver.hear()["receipt"] == "zsK3lg-CzMhj3PeymwM_Gg"


def test_thousands_of_lines_in_one_write_are_all_answered(run: Run) -> None:
    receiver = run()
    lines = [BIND | {"id": number, "mdn": str(8613900000000 + number)} for number in range(5000)]
    # Written by a thread of its own: the answers fill their pipe long before the last line is read.
    writer = threading.Thread(target=receiver.say, args=lines)
    writer.start()
    answers = [receiver.hear() for _ in lines]
    writer.join()
    assert sorted(answer["id"] for answer in answers) == list(range(5000))


def test_integers_beyond_a_double_come_back_unchanged(run: Run) -> None:
    receiver = run()
    receiver.ask(BIND | {"version": 2**63 - 1})
    assert receiver.ask(BIND | {"id": 2**53 + 1}) == [{"id": 2**53 + 1, "status": "stale", "version": 2**63 - 1}]


def test_receiver_that_finds_the_store_locked_waits_for_it(run: Run, store: Path) -> None:
    receiver = run()
    receiver.ask(BIND)
    other = sqlite3.connect(store, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    receiver.say(WITHDRAW)
    other.execute("COMMIT")
    other.close()
    assert receiver.hear()["status"] == "removed"


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"type": "grab"}, "type"),
        ({"type": None}, "type"),
        ({"mdn": "+8613912345678"}, "mdn"),
        ({"mdn": 8613912345678}, "mdn"),
        ({"mdn": "8613912345678\n"}, "mdn"),
        ({"app_id": "a" * 33}, "app_id"),
        ({"app_id": "a b"}, "app_id"),
        ({"version": "1"}, "version"),
        ({"version": 0}, "version"),
        ({"version": 1.5}, "version"),
        ({"version": True}, "version"),
        ({"version": 2**63}, "version"),
        ({"key_id": ""}, "key_id"),
        ({"alg": "des"}, "alg"),
        ({"alg": ["aes"]}, "alg"),
        ({"key": 7}, "key"),
        ({"key": "AAECAwQFBgcICQoLDA0ODw=="}, "key"),
        ({"key": "AAECAwQFBgcICQoLDA0OD!w"}, "key"),
        ({"key": "AAECAwQFBgcICQoLDA0OD\u00e9"}, "key"),
        ({"key": "AAECAwQFBgcICQoLDA0ODx"}, "key"),
        ({"key": "AAEC"}, "octets"),
        ({"alg": "sm4", "key": encoded(bytes(32))}, "octets"),
        ({"kcv": "be7ed6"}, "kcv"),
        ({"alg": "hmac"}, "KCV"),
    ],
)
def test_delivery_that_cannot_be_is_rejected_and_the_stream_goes_on(
    run: Run, store: Path, change: dict[str, Any], named: str
) -> None:
    receiver = run()
    [answer] = receiver.ask(BIND | change)
    assert (answer["id"], answer["status"]) == (17, "rejected")
    assert named in answer["reason"]
    assert receiver.ask(WITHDRAW)[0]["status"] == "removed"
    assert len(command(store, "list", "--json").stdout.splitlines()) == 1


def test_kcv_of_an_hmac_key_is_checked(run: Run) -> None:
    kcv = hmac.digest(KEY, b"KMP-KCV", hashlib.sha256).hex()[:6].upper()
    assert run().ask(BIND | {"alg": "hmac", "kcv": kcv})[0]["status"] == "stored"


@pytest.mark.parametrize(
    "line", [b"rubbish\n", b"\n", b"[]\n", b"{}\n", b'{"id":"x"}\n', b"\xff\n", b"[" * 70_000 + b"\n", b"x" * 70_000]
)
def test_line_that_is_no_protocol_ends_the_stream_after_what_came_before(run: Run, store: Path, line: bytes) -> None:
    receiver = run()
    receiver.say(BIND, line)
    assert receiver.hear()["status"] == "stored"
    status, said = receiver.end()
    assert status == 65
    assert said.startswith("kmp-receive: a line")
    assert len(said) < 80
    assert len(command(store, "list", "--json").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("once", "twice"),
    [
        ('"mdn": "8613912345678"', '"mdn": "8613900000000", "mdn": "8613912345678"'),
        ('"id": 17', '"id": 17, "id": 17'),
        ('"id": 17', '"id": 17, "later": [{"a": 1, "a": 2}]'),
    ],
)
def test_name_that_stands_twice_is_no_protocol(run: Run, store: Path, once: str, twice: str) -> None:
    line = json.dumps(BIND)
    assert once in line
    receiver = run()
    receiver.say(line.replace(once, twice).encode() + b"\n")
    assert receiver.end() == (65, "kmp-receive: a line has a name twice\n")
    assert command(store, "list", "--json").stdout == ""


@pytest.mark.parametrize("constant", ["NaN", "Infinity", "-Infinity"])
def test_what_only_python_takes_for_json_is_no_protocol(run: Run, constant: str) -> None:
    receiver = run()
    receiver.say(json.dumps(BIND).replace('"id": 17', f'"id": 17, "later": {constant}').encode() + b"\n")
    assert receiver.end() == (65, "kmp-receive: a line is not JSON\n")


def test_stream_that_does_not_begin_with_hello_stores_nothing(store: Path) -> None:
    receiver = Receiver("--store", str(store))
    receiver.say(BIND)
    assert receiver.end() == (65, "kmp-receive: the first line is not a hello\n")
    assert command(store, "list", "--json").stdout == ""


def test_kmp_of_another_version_learns_which_is_spoken_here(store: Path) -> None:
    receiver = Receiver("--store", str(store))
    assert receiver.ask(HELLO | {"v": 2})[0]["v"] == 1
    assert receiver.end()[0] == 65


def test_half_a_line_at_the_end_is_never_applied(run: Run, store: Path) -> None:
    receiver = run()
    receiver.say(json.dumps(BIND).encode())
    assert receiver.end() == (0, "")
    assert command(store, "list", "--json").stdout == ""


def test_socket_that_is_reset_ends_the_stream(store: Path) -> None:
    """As behind a TLS server, which reads no further answers where its own connection was cut."""
    ours, theirs = socket.socketpair()
    with ours:
        with theirs:
            line = [sys.executable, str(RECEIVER), "--store", str(store)]
            process = subprocess.Popen(line, stdin=theirs, stdout=theirs, stderr=subprocess.PIPE)
        ours.sendall(json.dumps(HELLO).encode() + b"\n")
        ours.recv(1)
    assert process.communicate(timeout=20) == (None, b"")
    assert process.returncode == 0


def test_sigterm_ends_the_stream_with_everything_answered(run: Run, store: Path) -> None:
    receiver = run()
    receiver.ask(BIND)
    receiver.process.terminate()
    assert receiver.process.wait(20) == 0
    assert len(command(store, "list", "--json").stdout.splitlines()) == 1


def test_full_disk_asks_for_time_and_loses_nothing_that_was_answered(run: Run, store: Path) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (65_536, 65_536))

    receiver = run("--store", str(store), limit=limit)
    binds = [BIND | {"id": number, "mdn": str(8613900000000 + number)} for number in range(2000)]
    answers = [answer for at in range(0, 2000, 100) for answer in receiver.ask(*binds[at : at + 100])]
    stored = [answer["id"] for answer in answers if answer["status"] == "stored"]
    later = [answer for answer in answers if answer["status"] == "retry"]
    assert 0 < len(stored) < 2000
    assert len(stored) + len(later) == 2000
    assert later[0]["reason"].startswith("store: ")
    assert later[0]["retry_after_s"] > 0
    listed = [json.loads(line)["mdn"] for line in command(store, "list", "--json").stdout.splitlines()]
    assert {str(8613900000000 + number) for number in stored} <= set(listed)
    # With room again, what asked for time is stored.
    assert {answer["status"] for answer in run().ask(*binds[:200], *binds[-200:])} == {"stored"}


def test_store_whose_volume_is_not_mounted_is_not_made_in_its_place(run: Run, tmp_path: Path) -> None:
    for missing in (tmp_path / "other.db", tmp_path / "nowhere" / "keys.db"):
        receiver = run("--store", str(missing))
        [answer] = receiver.ask(BIND)
        assert answer["status"] == "retry"
        assert "is its volume mounted?" in answer["reason"]
        status, said = receiver.end()
        assert (status, said) == (0, f"kmp-receive: {answer['reason']}\n")
        assert not missing.exists()


def test_store_that_is_mounted_meanwhile_is_used(run: Run, tmp_path: Path) -> None:
    receiver = run("--store", str(tmp_path / "other.db"))
    assert receiver.ask(BIND)[0]["status"] == "retry"
    assert command(tmp_path / "other.db", "init").returncode == 0
    assert receiver.ask(BIND)[0]["status"] == "stored"


def test_nothing_is_confirmed_that_is_not_in_the_store_which_took_the_place_of_another(run: Run, store: Path) -> None:
    receiver = run()
    receiver.ask(BIND)
    shutil.copy(store, store.with_name("backup"))
    store.with_name("backup").rename(store)
    newer = BIND | {"version": BIND["version"] + 1}
    assert [receiver.ask(newer)[0]["status"] for _ in range(2)] == ["retry", "stored"]
    assert json.loads(command(store, "get", BIND["mdn"], "meter").stdout)["version"] == newer["version"]


def test_new_store_has_small_pages(store: Path) -> None:
    assert int.from_bytes(store.read_bytes()[16:18]) == 2_048


def test_init_leaves_a_store_as_it_is(run: Run, store: Path) -> None:
    run().ask(BIND)
    again = command(store, "init")
    assert (again.returncode, again.stderr) == (
        75,
        f"kmp-receive: store: {store} exists already: it is left as it is\n",
    )
    assert len(command(store, "list", "--json").stdout.splitlines()) == 1


@pytest.mark.parametrize(
    ("kind", "at", "refused"),
    [
        ("nfs4", "/var/lib/keys", True),
        ("9p", "/var/lib/keys/deeper", True),
        ("fuse.sshfs", "/var/lib/keys", True),
        ("ext4", "/var/lib/keys", False),
        ("nfs4", "/var/lib/keys-too", False),
        ("nfs4", "/var/lib", False),
    ],
)
def test_network_file_system_is_refused(monkeypatch: pytest.MonkeyPatch, kind: str, at: str, refused: bool) -> None:
    receive = runpy.run_path(str(RECEIVER))
    check_place = receive["check_place"]
    lines = [
        "21 1 8:1 / / rw - ext4 /dev/sda1 rw",
        f"29 21 0:40 / /var/lib/keys rw,relatime shared:1 - {kind} far:/keys rw",
    ]
    monkeypatch.setitem(check_place.__globals__, "mounts", lambda: "\n".join(lines))
    monkeypatch.setattr(os.path, "isdir", lambda _: True)
    monkeypatch.setattr(os.path, "realpath", lambda path: path)
    if refused:
        with pytest.raises(OSError, match="network file system"):
            check_place(f"{at}/keys.db")
    else:
        check_place(f"{at}/keys.db")


def test_damaged_store_asks_for_time(run: Run, store: Path) -> None:
    store.write_bytes(b"this is no database, " * 100)
    assert run().ask(BIND)[0]["status"] == "retry"


def test_list_shows_no_key(run: Run, store: Path) -> None:
    run().ask(BIND, WITHDRAW | {"app_id": "tracker"})
    for arguments in (["list"], ["list", "--json"], ["get", "8613912345678", "meter"]):
        shown = command(store, *arguments)
        assert shown.returncode == 0
        assert "BE7ED6" in shown.stdout
        assert KEY.hex() not in shown.stdout
        assert BIND["key"] not in shown.stdout
    assert "(withdrawn)" in command(store, "list").stdout
    assert json.loads(command(store, "list", "--json").stdout.splitlines()[1]) == {
        "mdn": "8613912345678",
        "app_id": "tracker",
        "version": 1732380000001,
        "key_id": None,
        "alg": None,
        "kcv": None,
    }


def test_list_ends_silently_when_its_reader_has_seen_enough(store: Path) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    line = [sys.executable, str(RECEIVER), "--store", str(store), "list"]
    with open(writer, "wb") as closed:
        listed = subprocess.run(line, stdout=closed, stderr=subprocess.PIPE, check=False, timeout=20)
    assert (listed.returncode, listed.stderr) == (-signal.SIGPIPE, b"")


def test_get_reveals_the_key_only_when_told_to(run: Run, store: Path) -> None:
    run().ask(BIND)
    assert json.loads(command(store, "get", "8613912345678", "meter", "--reveal").stdout)["key"] == KEY.hex()
    missing = command(store, "get", "8613912345678", "tracker", "--reveal")
    assert (missing.returncode, missing.stdout) == (1, "")


def test_commands_do_not_create_a_store(tmp_path: Path) -> None:
    listed = command(tmp_path / "keys.db", "list")
    assert listed.returncode == 75
    assert "does not exist" in listed.stderr
    assert list(tmp_path.iterdir()) == []


def test_wrong_usage_is_64(store: Path) -> None:
    assert command(store, "grab").returncode == 64
    assert command(store, "--window", "0").returncode == 64
    for seconds in ("0", "-1", "nan", "inf"):
        assert command(store, "--exec-within", seconds).returncode == 64
    assert command(store, "--help").returncode == 0


# --- a program in place of the store ----------------------------------------------------------------------------------


def program(tmp_path: Path, body: str) -> tuple[str, str]:
    path = tmp_path / "program"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return "--exec", str(path)


def test_program_gets_the_record_and_its_receipt_is_the_answer(run: Run, tmp_path: Path) -> None:
    receiver = run(*program(tmp_path, f"cat > {tmp_path}/record; echo zsK3lg-CzMhj3PeymwM_Gg"))
    assert receiver.ask(BIND) == [{"id": 17, "status": "stored", "receipt": "zsK3lg-CzMhj3PeymwM_Gg"}]
    assert json.loads((tmp_path / "record").read_text()) == BIND


def test_program_may_answer_in_full(run: Run, tmp_path: Path) -> None:
    receiver = run(*program(tmp_path, """echo '{"status":"stale","version":7,"id":99}'"""))
    assert receiver.ask(BIND) == [{"id": 17, "status": "stale", "version": 7}]


@pytest.mark.parametrize(
    ("body", "line", "status", "reason"),
    [
        ("true", WITHDRAW, "removed", None),
        ("true", BIND, "retry", "no receipt"),
        ("echo no such meter >&2; exit 65", BIND, "rejected", "no such meter"),
        ("echo away >&2; exit 1", BIND, "retry", "the program ended with 1: away"),
        ("echo '{'", BIND, "retry", "not JSON"),
        ("""echo '{"status":"stored","status":"stale"}'""", BIND, "retry", "a name twice"),
        ("echo stored", WITHDRAW, "retry", "more than nothing"),
        ("exec sleep 60", BIND, "retry", "longer than 0.2 s"),
    ],
)
def test_exit_status_of_the_program_decides(
    run: Run, tmp_path: Path, body: str, line: dict[str, Any], status: str, reason: str | None
) -> None:
    [answer] = run(*program(tmp_path, body), "--exec-within", "0.2" if "sleep" in body else "20").ask(line)
    assert answer["status"] == status
    assert reason is None or reason in answer["reason"]


def test_missing_program_asks_for_time(run: Run, tmp_path: Path) -> None:
    assert run("--exec", str(tmp_path / "nowhere")).ask(BIND)[0]["status"] == "retry"


def test_each_delivery_is_answered_as_soon_as_its_program_ends(run: Run, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    second_waits = f"""case $(cat) in *'"id": 2,'*) read -r line < {tmp_path}/gate;; esac; echo receipt"""
    with open(os.open(tmp_path / "gate", os.O_RDWR), "wb", buffering=0) as gate:  # O_RDWR: waits for no reader
        receiver = run(*program(tmp_path, second_waits), "--exec-within", "10")
        receiver.say(*(BIND | {"id": number} for number in (1, 2, 3)))
        assert receiver.hear() == {"id": 1, "status": "stored", "receipt": "receipt"}
        gate.write(b"go\n")
        # Had the first answer waited for the others, the second would have been killed by now.
        assert receiver.hear() == {"id": 2, "status": "stored", "receipt": "receipt"}
        assert receiver.hear()["id"] == 3


def test_sigterm_ends_the_stream_although_more_deliveries_wait(run: Run, tmp_path: Path) -> None:
    receiver = run(*program(tmp_path, "kill -TERM $PPID; echo receipt"))
    receiver.say(*(BIND | {"id": number} for number in (1, 2, 3)))
    assert receiver.hear()["id"] == 1
    assert receiver.end() == (0, "")
