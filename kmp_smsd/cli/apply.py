"""``kmp-smsd registrations apply``: what the carrier's business system asks for, and what became of it."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator
from io import FileIO
from typing import TYPE_CHECKING

import click

from kmp_smsd.cli.failures import TEMPORARY, Failed
from kmp_smsd.cli.output import count
from kmp_smsd.cli.settings import Settings, now_ms

if TYPE_CHECKING:
    from kmp_smsd.storage import Store
    from kmp_smsd.storage.requests import Request

STDIN = 0
READ_OCTETS = 1 << 16
BATCH_LINES = 2_000

Numbered = tuple[int, "Request"]


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.pass_obj
def apply(settings: Settings, file: str) -> None:
    """Do the requests of a business system: JSON lines in FILE, or - for standard input; one result line each.

    A result is printed once it is on disk. A request that comes again gets its result again, and nothing is done, for
    30 days. Exits 1 where a line was not a request that can be done or refused, and 75 where not all lines had a
    result: send the others again.
    """
    canonical = settings.config.numbering.parse
    errors = lines = 0
    with _opened(file) as source, settings.store() as store:
        os.set_blocking(source.fileno(), True)  # another program may share standard input; "nothing yet" is no end
        for batch in _batches(source, canonical):
            lines += len(batch)
            errors += _apply(store, batch)
    if errors:
        raise Failed(f"{count(errors, 'error')} in {count(lines, 'line')}: correct them and send them again")


def _opened(file: str) -> FileIO:
    return FileIO(STDIN, closefd=False) if file == "-" else FileIO(file)


def _batches(source: FileIO, canonical: Callable[[str], str]) -> Iterator[list[Numbered]]:
    """The requests of each piece that arrives, without waiting for the next."""
    from kmp_smsd.importing.arriving_lines import ArrivingLines
    from kmp_smsd.importing.request_lines import read_request

    arriving = ArrivingLines()
    while True:
        data = source.read(READ_OCTETS)  # what is there, not what there may be
        lines = arriving.receive(data) if data else arriving.end()
        requests = [(number, read_request(line, canonical)) for number, line in lines if line is None or line.strip()]
        for start in range(0, len(requests), BATCH_LINES):
            yield requests[start : start + BATCH_LINES]
        if not data:
            return


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
            told.append(json.dumps({**({"line": line} if failed else {}), "id": request.id, **result}) + "\n")
        batch = batch[len(results) :]
        try:
            sys.stdout.write("".join(told))
            sys.stdout.flush()
        except BrokenPipeError as error:
            raise Failed("nobody reads the results: send the lines that had none again", TEMPORARY) from error
    return errors
