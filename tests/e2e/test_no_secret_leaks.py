"""After a whole run no key and no password is anywhere that it must not be, in any spelling."""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from kmp_smsd.channels.hiding import REPEATS_A_KEY
from kmp_smsd.simulator.lab import SMPP_PASSWORD
from kmp_smsd.smpp.constants import CommandStatus
from tests.channels.spellings import SPELLINGS
from tests.e2e.carrier import Carrier

ECHO = Path(__file__).with_name("echo.py")  # a platform that says whatever it hears, on both of its streams
WHERE_THEY_BELONG = {"smsc-password", "ssh-identity", "master.key"}


def spellings(secret: bytes) -> Iterator[bytes]:
    """The secret in clear, hex and base64, also where it begins in the middle of a base64 group."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    for shift in range(3):
        inner = base64.b64encode(b"\0" * shift + secret)[4 if shift else 0 :]
        stable = inner.rstrip(b"=")[:-2]
        yield stable
        yield stable.translate(bytes.maketrans(b"+/", b"-_"))
    for spell in SPELLINGS.values() if len(secret) == 16 else ():  # a key
        spelled = spell(secret).rstrip("=")
        for text in (spelled, json.dumps(spelled)[1:-1], spelled[len(spelled) // 2 :]):
            yield text.encode("utf-8", "replace")


def test_no_secret_is_in_any_file_or_log(tmp_path, monkeypatch):
    temporary = tmp_path / "tmp"
    temporary.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    with Carrier(tmp_path / "carrier") as carrier:
        said = []
        carrier.start_role_unbound("dispatch", "--log-level", "debug")
        carrier.start_role("intake", "--log-level", "debug", "--log-format", "json")
        carrier.command("trace", "lab", "on")
        terminals = [carrier.terminal("meter") for _ in range(4)]
        for mdn, key in terminals:
            assert carrier.say(mdn, f"K1:{key}") == CommandStatus.ESME_ROK
        carrier.say(terminals[0][0], f"K1:{terminals[1][1]}")  # held
        carrier.settled()
        faulty = carrier.directory / "faulty.csv"
        leaked = carrier.keys[terminals[0][1]]
        faulty.write_text(
            f"key_id,key,kcv\nX1,{leaked.hex()},000000\n{leaked.hex()},{leaked.hex()},\nX2,{leaked.hex()}0\n"
        )
        refused = carrier.command("keys", "import", str(faulty), "--vendor", "Acme", "--plaintext", check=False)
        assert refused.returncode != 0
        said.append(refused.stdout + refused.stderr)
        faulty.unlink()
        server = carrier.platforms["metering"].server
        starts = tmp_path / "starts"
        server.command(f"{sys.executable} {ECHO} {starts}")
        server.kill_sessions()
        mdn, key = carrier.terminal("meter")
        carrier.say(mdn, f"K1:{key}")
        carrier.wait_for(
            lambda: starts.exists() and int(starts.read_text() or 0) >= 8, "the echo to be told in each spelling", 120
        )

        def is_quoted() -> bool:  # between its end and its next answer
            errors = [row["last_error"] or "" for row in carrier.listing("platforms", "list")]
            return any("you said" in error or REPEATS_A_KEY in error for error in errors)

        carrier.wait_for(is_quoted, "what the echo said last to be shown", 60)
        carrier.command("keys", "revoke", terminals[3][1], "--yes")
        for words in (
            ("keys", "list"),
            ("platforms", "list"),
            ("bindings", "list"),
            ("holds", "list"),
            ("outbox", "list", "--all"),
            ("journal", "list"),
        ):
            said += [carrier.command(*words).stdout, carrier.command(*words, "--json").stdout]
        for words in (
            ("doctor", "--bind"),
            ("explain", mdn),
            ("explain", terminals[0][0], "--json"),
            ("simulate", mdn, f"K1:{key}"),
        ):
            done = carrier.command(*words, check=False)
            assert done.stdout
            said.append(done.stdout + done.stderr)
        for role in carrier.roles:
            assert role.stop() == 0
        logs = ["".join(role.said) for role in carrier.roles]
        said += logs
        secrets = {f"key {key_id}": key for key_id, key in carrier.keys.items()}
        secrets["SMPP password"] = SMPP_PASSWORD.encode()
        secrets["SSH identity"] = (carrier.directory / "ssh-identity").read_bytes().splitlines()[2]
        secrets["master key"] = (carrier.directory / "master.key").read_bytes().split()[2][10:60]
        platforms = [str(platform.store) for platform in carrier.platforms.values()]
    assert '"pdu_traced"' in logs[1]
    for log in logs:  # listings show numbers, logs mask them
        assert re.findall(r"8613\d{9}", log) == []
        assert "K1:" not in log
        in_hex = log.replace(" ", "")
        assert [mdn for mdn, _ in terminals if mdn.encode().hex() in in_hex] == []
        assert b"K1:".hex() not in in_hex
        assert log.count("86130*****0") >= len(terminals)
    texts = {f"log {number}": text.encode() for number, text in enumerate(said)}
    for path in [*tmp_path.rglob("*")]:
        belongs = path.name in WHERE_THEY_BELONG or any(str(path).startswith(store) for store in platforms)
        if path.is_file() and not belongs and ".sshd" not in str(path):
            texts[str(path)] = path.read_bytes()
    assert len(texts) > 15
    found = [
        (name, where)
        for name, secret in secrets.items()
        for spelling in spellings(secret)
        for where, text in texts.items()
        if spelling in text
    ]
    assert found == []


def test_the_search_itself_finds_a_secret():
    secret = bytes(range(16))
    for text in (
        secret,
        secret.hex().encode(),
        base64.b64encode(b"a" + secret),
        base64.urlsafe_b64encode(b"ab" + secret),
    ):
        assert any(spelling in text for spelling in spellings(secret))


def test_the_platforms_hold_what_the_search_leaves_out(tmp_path):
    """Keys are where they belong: the search above would find them there."""
    with Carrier(tmp_path) as carrier:
        carrier.start_role("run")
        mdn, key = carrier.terminal("meter")
        carrier.say(mdn, f"K1:{key}")
        carrier.settled()
        store = Path(carrier.platforms["metering"].store)
        octets = b"".join(path.read_bytes() for path in store.parent.glob(store.name + "*"))
        assert any(spelling in octets for spelling in spellings(carrier.keys[key]))
