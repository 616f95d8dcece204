"""The check of the database, for `db check` and `doctor`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kmp_smsd.cli.failures import CONFIGURATION
from kmp_smsd.cli.progress import progress
from kmp_smsd.diagnosis.finding import Report
from kmp_smsd.diagnosis.integrity import judge_all

if TYPE_CHECKING:
    from kmp_smsd.storage import Store
    from kmp_smsd.storage.checking import Checked


def check_integrity(store: Store) -> Report:
    """Check all of the database; how far it is is shown where somebody watches."""
    steps = store.checking.steps()
    results: list[Checked] = []
    with progress("Checking the database") as told:
        for checked in store.checking.check():
            results.append(checked)
            if told is not None:
                told(len(results), steps)
    return Report("integrity", tuple(judge_all(results)), CONFIGURATION)
