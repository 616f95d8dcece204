"""A forced command that stands before kmp-receive and, where a file in its directory says so, misbehaves.

`reject-MDN`: a bind for that MDN is rejected and never reaches the receiver. `hold`: a FIFO; answers wait until
somebody has opened and closed it, the first of them is shown in `held`.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

DIRECTORY, RECEIVER = Path(sys.argv[1]), sys.argv[2:]
WRITING = threading.Lock()


def say(line: bytes) -> None:
    with WRITING:
        sys.stdout.buffer.write(line)
        sys.stdout.buffer.flush()


def answers(source: IO[bytes]) -> None:
    for line in source:
        gate = DIRECTORY / "hold"
        if gate.exists() and b'"id"' in line:
            (DIRECTORY / "held").write_bytes(line)
            with open(gate, "rb") as fifo:
                fifo.read()
        say(line)


with subprocess.Popen(RECEIVER, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as receiver:
    assert receiver.stdin is not None
    assert receiver.stdout is not None
    reader = threading.Thread(target=answers, args=(receiver.stdout,))
    reader.start()
    for line in sys.stdin.buffer:
        question = json.loads(line)
        if question.get("type") == "bind" and (DIRECTORY / f"reject-{question['mdn']}").exists():
            answer = {"id": question["id"], "status": "rejected", "reason": "the gate is closed"}
            say(json.dumps(answer).encode() + b"\n")
            continue
        receiver.stdin.write(line)
        receiver.stdin.flush()
    receiver.stdin.close()
    reader.join()
