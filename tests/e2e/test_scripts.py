"""The scripts beside scripts/test and scripts/demo, each run for a moment: what nobody runs rots."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPTS = Path(__file__).parents[2] / "scripts"


def test_benchmark_measures_every_road() -> None:
    words = [
        "--keys", "3000", "--messages", "300", "--rounds", "1", "--windows", "10",
        "--end-to-end", "300", "--requests", "0", "--json",
    ]  # fmt: skip
    done = subprocess.run(
        [sys.executable, SCRIPTS / "bench", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout)
    assert {"floor", "new bindings", "repeats", "message to receipt over SSH"} <= {row["what"] for row in rows}
    assert all(row["per second"] > 0 for row in rows)
