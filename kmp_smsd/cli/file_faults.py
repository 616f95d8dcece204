"""What is wrong with a file that was to be taken in, told to whoever gave it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.failures import Failed
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.importing.faults import Fault


def tell_faults(file: Path, faults: Sequence[Fault], count: int, warnings: Sequence[Fault], outcome: str) -> None:
    """Print `faults`, which are the first of `count`, and `warnings`.

    Raises Failed with the `outcome`, such as "nothing was imported", where there are faults.
    """
    for fault in faults:
        click.echo(fault, err=True)
    for warning in warnings:
        click.echo(f"{warning} (warning)", err=True)
    if count:
        more = f" ({count - len(faults):,} more not shown)" if count > len(faults) else ""
        raise Failed(f"{counted(count, 'fault')}{more} in {file}: {outcome}")
