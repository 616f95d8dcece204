"""``kmp-smsd registrations apply``: what the carrier's business system asks for, and what became of it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.arguments import FilePath
from kmp_smsd.cli.failures import TEMPORARY, Failed
from kmp_smsd.cli.json_lines import arriving, tell
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.storage import Store
    from kmp_smsd.storage.requests import Request

Numbered = tuple[int, "Request"]


@click.command()
@click.argument("file", type=FilePath(exists=True, dir_okay=False, allow_dash=True))
@click.pass_obj
def apply(settings: Settings, file: str) -> None:
    """Do the requests of a business system: JSON lines in FILE, or - for standard input; one result line each.

    A result is printed once it is on disk. A request that comes again gets its result again, and nothing is done, for
    30 days. Exits 1 where a line was not a request that can be done or refused, and 75 where not all lines had a
    result: send the others again.
    """
    from kmp_smsd.importing.request_lines import read_request

    plan = settings.config.numbering
    errors = lines = 0
    with settings.store() as store:
        for batch in arriving(file, lambda line: read_request(line, plan)):
            lines += len(batch)
            errors += _apply(store, batch)
    if errors:
        raise Failed(f"{counted(errors, 'error')} in {counted(lines, 'line')}: correct them and send them again")


def _apply(store: Store, batch: list[Numbered]) -> int:
    """Do a batch, print what became of it step by step; how many were errors."""
    from kmp_smsd.storage import StoreUnavailable

    errors = 0
    while batch:
        try:
            results = store.requests.apply([request for _, request in batch], now_ms())
        except StoreUnavailable as error:
            raise Failed(f"{error}: send the lines that had no result again", TEMPORARY) from error
        told = []
        for (line, request), result in zip(batch, results, strict=False):
            failed = result["result"] == "error"
            errors += failed
            told.append({**({"line": line} if failed else {}), "id": request.id, **result})
        batch = batch[len(results) :]
        tell(told)
    return errors
