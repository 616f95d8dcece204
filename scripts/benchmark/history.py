"""Earlier results, one JSON object per line, so that a run can be held against the one before it."""

from __future__ import annotations

import json
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

Row = dict[str, object]


def beside_before(rows: Sequence[Row], file: Path) -> list[Row]:
    """`rows`, each with the ratio that the same load had the last time that it was measured."""
    before: dict[object, object] = {}
    if file.exists():
        for line in file.read_text().splitlines():
            before |= {_load(row): row.get("ratio to floor") for row in json.loads(line)["rows"]}
    return [{**row, "ratio before": before.get(_load(row))} for row in rows]


def keep(rows: Sequence[Row], words: Sequence[str], file: Path) -> None:
    """Add this run to `file`."""
    file.parent.mkdir(parents=True, exist_ok=True)
    run = {"at": int(time.time()), "revision": _revision(), "machine": platform.machine(), "words": words, "rows": rows}
    with file.open("a") as lines:
        lines.write(json.dumps(run) + "\n")


def _revision() -> str:
    """The commit that was measured; empty where this is no clone, or git is not there."""
    try:
        said = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False)
    except OSError:
        return ""
    return said.stdout.strip()


def _load(row: Row) -> tuple[object, ...]:
    return row.get("what"), row.get("links"), row.get("window")
