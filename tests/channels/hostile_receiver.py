"""A receiver that misbehaves in the way its first argument names."""

from __future__ import annotations

import base64
import json
import os
import select
import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[2]))
from tests.channels.spellings import SPELLINGS

behaviour = sys.argv[1]


def say(*lines: dict[str, Any] | str) -> None:
    for line in lines:
        print(line if isinstance(line, str) else json.dumps(line))
    sys.stdout.flush()


def read_line() -> bytes:
    # Octet by octet, so that nothing is read ahead of what was asked for.
    line = b""
    while not line.endswith(b"\n"):
        octet = os.read(0, 1)
        if not octet:
            sys.exit(0)
        line += octet
    return line


def hear() -> dict[str, Any]:
    heard: dict[str, Any] = json.loads(read_line())
    return heard


def in_base64(asked: dict[str, Any]) -> str:
    return base64.b64encode(base64.urlsafe_b64decode(asked["key"] + "==")).decode()


def hang() -> None:
    while True:
        read_line()


if behaviour == "silent":
    hang()
hear()
window = 3 if behaviour == "window" else 100
version = 2 if behaviour == "version" else 1
if behaviour == "greeting":
    say("Welcome to Debian GNU/Linux 12!")
max_line = {"narrow": 200, "short": 1024}.get(behaviour, 65536)
name = "hostile"
if behaviour == "quote-later" and (kept := Path(sys.argv[2])).exists():
    name = f"hostile with {kept.read_text()}"
    print("bad key", kept.read_text(), file=sys.stderr, flush=True)
say({"v": version, "type": "hello", "receiver": name, "window": window, "max_line": max_line})
if behaviour == "noise":
    # More than the 2 MiB that SSH lets it send before we read.
    for _ in range(100_000):
        print("a line of standard error", file=sys.stderr)
if behaviour == "exit":
    print("no space left on device", file=sys.stderr)
    sys.exit(3)

match behaviour:
    case "hang":
        hang()
    case "dribble":
        while True:
            hear()
            os.write(1, b" ")
    case "window":
        most, buffer = 0, b""
        while True:
            # Hold every answer until nothing more comes: what is here then is all that the peer dares to send.
            while select.select([0], [], [], 0.05)[0]:
                if not (octets := os.read(0, 65536)):
                    sys.exit()
                buffer += octets
            *lines, buffer = buffer.split(b"\n")
            most = max(most, len(lines))
            say(*({"id": json.loads(line)["id"], "status": "rejected", "reason": f"most {most}"} for line in lines))
    case "backwards":
        asked = [hear() for _ in range(int(sys.argv[2]))]
        say(*({"id": one["id"], "status": "rejected", "reason": one["key_id"]} for one in reversed(asked)))
        hang()
    case "rubbish":
        hear()
        say("\x1b[31mSegmentation fault\x07" + "x" * 500)
        hang()  # else its end may be noticed first, by what is still being sent
    case "endless":
        hear()
        say("[" * 200_000)
        hang()
    case "unended":
        hear()
        os.write(2, b"no space left on device")
        sys.exit(3)
    case "quote-line" | "quote-error" | "quote-octets" | "quote-reason":
        asked = hear()
        quoted = SPELLINGS[sys.argv[2]](base64.urlsafe_b64decode(asked["key"] + "=="))
        octets = f"bad key {quoted}\n".encode("utf-8" if quoted.isascii() else "latin-1")
        match behaviour:
            case "quote-line":
                os.write(1, octets)
            case "quote-error":
                os.write(2, octets)
            case "quote-octets":
                # As C does: standard error is not buffered, and each octet is printed by itself.
                for octet in octets:
                    os.write(2, bytes([octet]))
            case "quote-reason":
                say({"id": asked["id"], "status": "retry", "reason": f"bad key {quoted}"})
                hang()
        sys.exit(1)
    case "quote-late":
        first = asked = hear()
        for _ in range(int(sys.argv[2])):
            say({"id": asked["id"], "status": "retry", "reason": "busy"})
            asked = hear()
        print("bad key", in_base64(first), file=sys.stderr)
        sys.exit(1)
    case "quote-later":
        Path(sys.argv[2]).write_text(in_base64(hear()))
        sys.exit(1)
    case "quote-neighbours":
        asked = [hear() for _ in range(int(sys.argv[2]))]
        quoted = in_base64(asked[-1])
        said = quoted.lower() if "lower" in sys.argv else quoted
        say(*[{"id": one["id"], "status": "rejected", "reason": f"cannot store {said}"} for one in asked])
        hang()
    case "twice":
        asked = hear()
        say(*[{"id": asked["id"], "status": "retry", "reason": "busy"}] * 2)
        hang()
    case "unasked":
        hear()
        say({"id": 4711, "status": "stored", "receipt": "x"})
        hang()
    case "answer":
        # Every question gets the answer of the second argument.
        while True:
            asked = hear()
            say(json.loads(sys.argv[2]) | {"id": asked["id"]})
    case "noise" | "short":
        while True:
            say({"id": hear()["id"], "status": "removed"})
