"""What can be said of the units without starting them."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNITS = sorted(SYSTEMD.glob("*.service"))
EXPOSURE_MAX = 1.2

every_unit = pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)


def settings(unit: Path, name: str) -> list[str]:
    return re.findall(rf"^{name}=(.*)$", unit.read_text(encoding="utf-8"), re.MULTILINE)


@every_unit
def test_unit_is_exposed_as_little_as_the_best_daemons_are(unit: Path) -> None:
    if shutil.which("systemd-analyze") is None:
        assert "CI" not in os.environ
        pytest.skip("systemd is not installed")
    told = subprocess.run(
        ["systemd-analyze", "security", "--offline=yes", "--no-pager", unit], capture_output=True, text=True, check=True
    )
    (exposure,) = re.findall(r"Overall exposure level for \S+: ([0-9.]+)", told.stdout)
    assert float(exposure) <= EXPOSURE_MAX


@every_unit
def test_memory_is_never_writable_and_executable(unit: Path) -> None:
    assert settings(unit, "MemoryDenyWriteExecute") == ["yes"]


def test_intake_is_given_no_secret_of_dispatch_nor_dispatch_one_of_intake() -> None:
    intake, dispatch = (
        {line.partition(":")[0] for line in settings(SYSTEMD / f"kmp-smsd-{role}.service", "LoadCredential")}
        for role in ("intake", "dispatch")
    )
    assert intake == {"smsc"}
    assert dispatch == {"master-key", "ssh-identity", "ssh", "tls"}


def test_the_roles_differ_in_nothing_but_their_work_and_their_secrets() -> None:
    """A hole closed in one sandbox and not in the other would be found by somebody else."""
    told = {"Description", "ExecStart", "ExecReload", "User", "SyslogIdentifier", "LoadCredential", "SetCredential"}
    told |= {"PartOf", "Conflicts", "Before"}
    units = [
        [
            line
            for line in unit.read_text(encoding="utf-8").splitlines()
            if not line.startswith("#") and line.partition("=")[0] not in told
        ]
        for unit in UNITS
    ]
    assert len(units) == 3
    assert units[0] == units[1] == units[2]


@every_unit
def test_units_of_which_only_one_may_run_do_not_begin_before_the_other_has_ended(unit: Path) -> None:
    """Conflicts= alone stops the one while it starts the other."""
    assert set(settings(unit, "Conflicts")) <= set(settings(unit, "Before"))


@every_unit
def test_a_status_that_no_restart_can_cure_ends_the_restarting(unit: Path) -> None:
    (prevented,) = settings(unit, "RestartPreventExitStatus")
    assert {"64", "77", "78"} <= set(prevented.split())
    assert settings(unit, "StartLimitIntervalSec") == ["0"]  # what may pass, as a full disk, is tried for ever
