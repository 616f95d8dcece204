"""The rate of new bindings against the rows that are stored, and how long a role takes to be ready."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmark.generator import Generator
from benchmark.process import Meter, limit
from benchmark.rounds import Rounds
from benchmark.sample import Sample, summed_up
from benchmark.stock import Fresh, fill, message
from kmp_smsd.simulator.lab import Lab


def measure(lab: Lab, generator: Generator, sizes: Sequence[int], messages: int) -> Iterator[dict[str, object]]:
    """Fill up to each of `sizes` and bind at window 100. `of first`: what is settled in a second, to the first size."""
    filled, first = 0, 0.0
    for size in sorted(sizes):
        fill(lab.database, lab.directory / "master.pub", range(filled, size))
        os.sync()  # else the disk is busy with what was filled
        fresh = Fresh(range(filled, size))
        filled = size
        rounds = Rounds(lab, generator, fresh)
        began = time.perf_counter()
        with rounds.intake(1) as pid:
            ready_s = time.perf_counter() - began
            generator.closed_loop([message(number) for number in fresh.take(min(messages, size) // 10)], 100)
            rounds.wait_until_settled()  # who decides has begun, and has its pages
            meter, began = Meter(pid), time.perf_counter()
            run = generator.closed_loop([message(number) for number in fresh.take(min(messages, size // 2))], 100)
            rounds.wait_until_settled()
            settled_s = time.perf_counter() - began
            used_s = meter.used_s
            sample = Sample(
                f"new bindings, {size:,} keys stored", 1, 100, run, sum(used_s), meter.peak_octets,
                limit(settled_s, run.busy * run.took_s / settled_s, used_s), settled_s,
            )  # fmt: skip
        (row,) = summed_up([sample])
        rate = run.messages / settled_s
        first = first or rate
        yield {**row, "ratio to floor": None, "stored": size, "of first": round(rate / first, 3),
               "ready s": round(ready_s, 2)}  # fmt: skip


def plot(rows: Sequence[dict[str, object]], file: Path) -> None:
    """Draw what `measure` gave. Needs matplotlib."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.plot([row["stored"] for row in rows], [row["settled per second"] for row in rows], marker="o")
    axes.set(xscale="log", xlabel="keys and registrations stored", ylabel="new bindings per second (window 100)")
    axes.margins(y=0.1)
    axes.set_ylim(bottom=0)
    axes.grid(visible=True, alpha=0.3)
    figure.savefig(file, dpi=120)
