"""The scripts beside scripts/test and scripts/demo, each run for a moment: what nobody runs rots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_benchmark_measures_every_road(tmp_path: Path) -> None:
    history = tmp_path / "history.jsonl"
    words = [
        "--keys", "3000", "--messages", "300", "--rounds", "1", "--windows", "10", "--links", "2", "--requests", "50",
        "--rate", "200", "--seconds", "1", "--end-to-end", "300", "--import", "100", "--scale", "600",
        "--history", str(history), "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench", *words], capture_output=True, text=True, timeout=240, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = {row["what"]: row for row in json.loads(done.stdout)}
    assert {"floor", "new bindings", "repeats", "refusals", "mix", "message to receipt over SSH"} <= rows.keys()
    assert {"the machine alone", "floor, 200/s", "new bindings, 200/s"} <= rows.keys()
    assert {"new bindings beside a backup, 200/s", "import of keys", "new bindings, 600 keys stored"} <= rows.keys()
    assert all(row["per second"] > 0 for row in rows.values())
    assert {row["not ROK"] for row in rows.values() if "not ROK" in row} == {0}
    assert rows["new bindings"]["p99 ms"] >= rows["new bindings"]["p50 ms"] > 0
    ratio = rows["new bindings"]["per second"] / rows["floor"]["per second"]
    assert rows["new bindings"]["ratio to floor"] == pytest.approx(ratio, rel=0.05, abs=0.001)
    (kept,) = map(json.loads, history.read_text().splitlines())
    assert {row["what"] for row in kept["rows"]} == rows.keys()
