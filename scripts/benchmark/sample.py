"""One measurement, and what several of them come to."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from benchmark.generator import Run

FLOOR = "floor"


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of one load. `cpu_s` and `peak_octets` are those of the role (or of the floor) that answered.

    `settled_s`: how long it took until the last message was not only answered, but decided too; None where none is.
    """

    what: str
    links: int
    window: int  # of each link; 0: a load at a fixed rate
    run: Run
    cpu_s: float
    peak_octets: int
    limit: str
    settled_s: float | None = None


def summed_up(samples: Iterable[Sample]) -> list[dict[str, object]]:
    """A row for each load: medians over the rounds, and the ratio to the floor with as many links and windows."""
    loads: dict[tuple[int, int, str], list[Sample]] = {}
    for sample in samples:
        loads.setdefault((sample.links, sample.window, sample.what), []).append(sample)
    rates = {load: median(one.run.per_second for one in rounds) for load, rounds in loads.items()}
    rows: list[dict[str, object]] = []
    for (links, window, what), rounds in loads.items():
        floor = rates.get((links, window, FLOOR))
        per_second = [one.run.per_second for one in rounds]
        rows.append(
            {
                "what": what,
                "links": links,
                "window": window,
                "per second": round(median(per_second)),
                "lowest": round(min(per_second)),
                "highest": round(max(per_second)),
                "ratio to floor": None if floor is None else round(median(per_second) / floor, 3),
                "settled per second": _settled_per_second(rounds),
                "not ROK": sum(one.run.refused for one in rounds),
                **{
                    f"p{part:g} ms": round(1000 * median(one.run.percentile(part / 100) for one in rounds), 2)
                    for part in (50, 99, 99.9)
                },
                "CPU us": round(1e6 * median(one.cpu_s / one.run.messages for one in rounds), 1),
                "peak MB": round(max(one.peak_octets for one in rounds) / 1e6),
                "limit": rounds[-1].limit,
            }
        )
    return rows


def _settled_per_second(rounds: Sequence[Sample]) -> int | None:
    rates = [one.run.messages / one.settled_s for one in rounds if one.settled_s is not None]
    return round(median(rates)) if rates else None


def road(what: str, count: int, took_s: float, **more: object) -> dict[str, object]:
    """A row for something that is measured once, and whole."""
    rate = round(count / took_s)
    return {"what": what, "per second": rate, "lowest": rate, "highest": rate, **more}
