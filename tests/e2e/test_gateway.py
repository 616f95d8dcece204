"""A request that did not come by SMS, on a running installation: real processes, real SSH."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.carrier import Carrier


@pytest.fixture
def carrier(tmp_path: Path) -> Iterator[Carrier]:
    carrier = Carrier(tmp_path)
    with carrier:
        carrier.config.write_text(carrier.config.read_text() + '\n[gateway.data]\non_sim_change = "moved"\n')
        carrier.start_role("dispatch")
        carrier.start_role("intake")
        yield carrier


def submit(carrier: Carrier, *lines: dict[str, Any]) -> list[dict[str, Any]]:
    done = subprocess.run(
        carrier.words("sync", "submit", "--gateway", "data", "-"),
        input="".join(json.dumps(line) + "\n" for line in lines),
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    assert done.stderr == ""
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_request_over_a_data_session_reaches_the_platform(carrier):
    mdn, key = carrier.terminal("meter")
    asked = {"id": "session-1", "mdn": f"+{mdn}", "payload": f"K1:{key}"}
    assert submit(carrier, asked) == [{"id": "session-1", "result": "bound", "app_id": "meter"}]
    carrier.settled()
    assert {row["mdn"]: row["key_id"] for row in carrier.platforms["metering"].holds()} == {mdn: key}
    (entry,) = carrier.listing("journal", "list", "--mdn", mdn)
    assert (entry["link"], entry["outcome"]) == ("data", "bound")


def test_gateway_moves_a_key_that_a_message_may_not_move(carrier):
    old, key = carrier.terminal("meter")
    new, _ = carrier.terminal("meter")
    carrier.say(old, f"K1:{key}")
    carrier.say(new, f"K1:{key}")
    assert carrier.bindings()[old, "meter"] == key
    (result,) = submit(carrier, {"id": "1", "mdn": new, "payload": f"K1:{key}"})
    assert result["result"] == "moved"
    assert carrier.bindings() == {(new, "meter"): key}
    carrier.settled()


def test_thousands_are_decided_in_their_order(carrier):
    mdn, key = carrier.terminal("meter")
    results = submit(carrier, *({"id": str(number), "mdn": mdn, "payload": f"K1:{key}"} for number in range(3000)))
    assert [result["id"] for result in results] == [str(number) for number in range(3000)]
    assert [result["result"] for result in results] == ["bound"] + ["already_bound"] * 2999
