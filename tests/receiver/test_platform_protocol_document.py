from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

from kmp_smsd.channels.protocol import Bind, Confirmed, Withdraw
from kmp_smsd.channels.wire import encode_delivery, judge, parse_answer, parse_hello
from kmp_smsd.vault.receipt import receipt

ROOT = Path(__file__).resolve().parents[2]
DOCUMENT = (ROOT / "docs" / "platform-protocol.rst").read_text()
BIND = Bind(
    mdn="8613912345678",
    app_id="meter",
    version=1732380000000,
    key_id="8A3F",
    algorithm="aes",
    kcv="BE7ED6",
    key=bytes(range(16)),
)


def test_session_of_the_document_is_what_kmp_receive_does(tmp_path: Path) -> None:
    session = re.findall(r"^   (->|<-) (\{.*\})$", DOCUMENT, re.MULTILINE)
    assert len(session) == 14
    command = [sys.executable, str(ROOT / "scripts" / "kmp-receive"), "--store", str(tmp_path / "keys.db")]
    subprocess.run([*command, "init"], check=True)
    receiver = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    with receiver:
        assert receiver.stdin is not None
        assert receiver.stdout is not None
        for direction, line in session:
            if direction == "->":
                receiver.stdin.write(line.encode() + b"\n")
                receiver.stdin.flush()
            else:
                assert receiver.stdout.readline().decode() == line + "\n"
        receiver.stdin.close()


def test_lines_of_the_document_are_those_that_are_sent() -> None:
    withdraw = Withdraw(mdn=BIND.mdn, app_id=BIND.app_id, version=BIND.version + 1)
    for line in (encode_delivery(17, BIND), encode_delivery(18, withdraw)):
        assert f"   {line.decode()}" in DOCUMENT


def test_answers_of_the_document_are_understood() -> None:
    answers = [line.strip() for line in DOCUMENT.splitlines() if re.match(r'   \{"id":\d+,"status"', line)]
    assert [json.loads(line)["status"] for line in answers] == ["stored", "removed", "stale", "retry", "rejected"]
    assert judge(parse_answer(answers[0].encode(), ()), BIND, 1_732_380_000.0) == Confirmed(BIND)
    [hello] = [line.strip() for line in DOCUMENT.splitlines() if line.startswith('   {"v":1') and "receiver" in line]
    assert parse_hello(hello.encode(), ()).max_line == 65_536


def test_worked_example_of_the_receipt_is_right() -> None:
    assert receipt(BIND.key, BIND.mdn, BIND.app_id, BIND.key_id, BIND.version) in DOCUMENT
    message = b"\0".join([b"kmp-smsd receipt v1", b"8613912345678", b"meter", b"8A3F", b"1732380000000"])
    assert f"   message  {message.hex()}\n            ({len(message)} octets)" in DOCUMENT
