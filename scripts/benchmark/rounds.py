"""Floor, daemon and peer under the same loads, in turn, so that what the machine does meanwhile meets all of them."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

from benchmark import kannel
from benchmark.generator import Generator
from benchmark.process import Meter, limit, started
from benchmark.sample import FLOOR, Sample
from benchmark.stock import Fresh, message, mixed, stranger
from kmp_smsd.control.client import ask
from kmp_smsd.simulator.lab import Lab
from kmp_smsd.storage.connection import connect

WARM = 500  # messages that nobody measures, before each load's first: nobody is measured while it starts


class Rounds:
    """Measures one installation."""

    def __init__(self, lab: Lab, generator: Generator, fresh: Fresh) -> None:
        self._lab = lab
        self._generator = generator
        self._fresh = fresh
        self.bound: list[int] = []  # the last terminals that were

    def measure(self, links: int, window: int, messages: int, workloads: Sequence[str], peer: str) -> Iterator[Sample]:
        """One round: new bindings first, so that there is something to repeat."""
        generator = self._generator
        subjects = self._fresh.take(messages)
        news = [message(number) for number in subjects]

        def sample(what: str, pid: int, load: Sequence[bytes]) -> Sample:
            meter = Meter(pid)
            run = generator.closed_loop(load, window)
            used_s = meter.used_s
            return Sample(
                what, links, window, run, sum(used_s), meter.peak_octets, limit(run.took_s, run.busy, used_s)
            )  # fmt: skip

        def decided(what: str, pid: int, load: Sequence[bytes]) -> Sample:
            self._move_log()
            meter, began = Meter(pid), time.perf_counter()
            answered = sample(what, pid, load)
            self.wait_until_settled()
            settled_s, used_s, run = time.perf_counter() - began, meter.used_s, answered.run
            held_back = limit(settled_s, run.busy * run.took_s / settled_s, used_s)
            return replace(answered, cpu_s=sum(used_s), settled_s=settled_s, limit=held_back)

        warm = [stranger(number) for number in range(WARM)]
        with self.floor(links) as pid:
            generator.closed_loop(warm, window)
            yield sample(FLOOR, pid, news)
        if peer == "kannel":
            with kannel.started(self._lab.directory / "kannel", generator, links) as pid:
                generator.closed_loop(warm, window)
                yield sample("kannel acknowledges", pid, news)
        with self.intake(links) as pid:
            generator.closed_loop(warm, window)
            self.wait_until_settled()  # the process that decides has begun
            yield decided("new bindings", pid, news)
            if "repeats" in workloads:
                yield decided("repeats", pid, news)
            if "refusals" in workloads:
                yield decided("refusals", pid, [stranger(number) for number in subjects])
            if "mix" in workloads:
                yield decided("mix", pid, mixed(self._fresh.take(2 * messages // 5), subjects))
        self.bound = subjects

    def wait_until_settled(self) -> None:
        """Until intake has decided what it answered."""
        socket = self._lab.control / "intake.sock"
        self._lab.wait_for(lambda: ask(socket, "status")["unsettled"] == 0, "messages to be settled", within_s=600)

    def _move_log(self) -> None:
        """Move the database's log into it: else a load would do that for the one before it."""
        with closing(connect(self._lab.database)) as database:
            database.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextmanager
    def intake(self, links: int) -> Iterator[int]:
        """Run intake with so many links to the generator; its process."""
        self._lab.links = links
        self._lab.write_config()
        role = self._lab.start_role_unbound("intake")
        self._generator.accept(links)
        try:
            yield role.process.pid
        finally:
            self._generator.hang_up()
            role.stop()

    @contextmanager
    def floor(self, links: int) -> Iterator[int]:
        """Run the floor likewise; its process."""
        database = self._lab.directory / "floor.db"
        for file in database.parent.glob("floor.db*"):
            file.unlink()
        program = Path(__file__).with_name("floor.py")
        with started(program, database, self._generator.port, links) as process:
            self._generator.accept(links)
            yield process.pid
            self._generator.hang_up()
