"""What is wrong with a file that was to be taken in, told to whoever gave it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.failures import Failed
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.importing.faults import Faults


def tell_faults(file: Path, faults: Faults, warnings: Faults, outcome: str) -> None:
    """Print what is kept of both, and how many more there are.

    Raises Failed with the `outcome`, such as "nothing was imported", where there are faults.
    """
    for fault in faults.by_line():
        click.echo(fault, err=True)
    for warning in warnings.by_line():
        click.echo(f"{warning} (warning)", err=True)
    if unseen := warnings.count - len(warnings.kept):
        click.echo(f"kmp-smsd: {counted(unseen, 'more warning')} of {file} not shown", err=True)
    if faults:
        unseen = faults.count - len(faults.kept)
        more = f" ({unseen:,} more not shown)" if unseen else ""
        raise Failed(f"{counted(faults.count, 'fault')}{more} in {file}: {outcome}")
