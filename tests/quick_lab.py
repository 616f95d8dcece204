"""A Lab that is looked into without a process for each look, which takes fifty times as long as what it does."""

from __future__ import annotations

import json
from typing import Any

from click.testing import CliRunner

from kmp_smsd.cli.program import program
from kmp_smsd.control.client import ask
from kmp_smsd.control.protocol import Refused
from kmp_smsd.simulator.lab import Lab


class QuickLab(Lab):
    """A Lab whose `command` is a process all the same, for tests that are about it."""

    def here(self, *words: str) -> str:
        """Run one `kmp-smsd` command in this process; what it prints."""
        done = CliRunner().invoke(program, ["--config", str(self.config), *words])
        if done.exit_code != 0:
            raise RuntimeError(f"kmp-smsd {' '.join(words)}: exit {done.exit_code}\n{done.output}") from done.exception
        return done.stdout

    def prepare(self) -> None:
        self.here("master-key", "create", "--private", str(self.directory / "master.key"))
        self.here("db", "migrate")

    def listing(self, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.here(*words, "--json").splitlines()]

    def all_settled(self) -> bool:
        try:
            return not ask(self.control / "intake.sock", "status")["unsettled"]
        except Refused:  # it does not run
            return True
