"""JSON lines of other systems: taken as they arrive, and each answered with one."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from io import FileIO
from typing import Any, TypeVar

from kmp_smsd.cli.failures import TEMPORARY, Failed
from kmp_smsd.cli.standard_output import check_heard

STDIN = 0
READ_OCTETS = 1 << 16
BATCH_LINES = 1_000

Asked = TypeVar("Asked")


def arriving(file: str, read: Callable[[bytes | None], Asked]) -> Iterator[list[tuple[int, Asked]]]:
    """What each line of `file` asks for, with its number, as the lines arrive: batches of what is there.

    "-" is standard input. `read` is given None for a line that is too long; empty lines are passed over.
    """
    from kmp_smsd.importing.arriving_lines import ArrivingLines

    lines = ArrivingLines()
    with FileIO(STDIN, closefd=False) if file == "-" else FileIO(file) as source:
        os.set_blocking(source.fileno(), True)  # another program may share standard input; "nothing yet" is no end
        data: bytes | None = b"more"
        while data:
            data = source.read(READ_OCTETS)  # what is there, not what there may be
            ended = lines.receive(data) if data else lines.end()
            asked = [(number, read(line)) for number, line in ended if line is None or line.strip()]
            for start in range(0, len(asked), BATCH_LINES):
                yield asked[start : start + BATCH_LINES]


def tell(results: Sequence[Mapping[str, Any]]) -> None:
    """Print a line for each result, at once. Whoever sent them counts a line without a result as not done."""
    try:
        sys.stdout.write("".join(json.dumps(result) + "\n" for result in results))
        check_heard()
    except OSError as error:
        gone = isinstance(error, BrokenPipeError)
        why = "nobody reads the results" if gone else f"the results cannot be written: {error.strerror or error}"
        raise Failed(f"{why}: send the lines that had none again", TEMPORARY) from error
