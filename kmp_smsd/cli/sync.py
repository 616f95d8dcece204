"""``kmp-smsd sync``: sync requests that do not come by SMS."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from kmp_smsd.cli import completing
from kmp_smsd.cli.arguments import FilePath
from kmp_smsd.cli.failures import CONFIGURATION, TEMPORARY, Failed
from kmp_smsd.cli.json_lines import arriving, tell
from kmp_smsd.cli.settings import Settings, now_ms
from kmp_smsd.domain.counted import counted

if TYPE_CHECKING:
    from kmp_smsd.importing.submission_lines import Submitted
    from kmp_smsd.storage import Store
    from kmp_smsd.storage.submissions import Answer

LOOK_EVERY_S = 0.02


@click.group()
def sync() -> None:
    """Take sync requests that did not come by SMS."""


@sync.command()
@click.argument("file", type=FilePath(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--gateway",
    metavar="NAME",
    required=True,
    shell_complete=completing.gateways,
    help="Who hands them in: a [gateway.NAME] section.",
)
@click.option(
    "--wait",
    "wait_s",
    type=click.IntRange(0, 86_400),
    default=10,
    show_default=True,
    help="Seconds to wait for intake's decision.",
)
@click.pass_obj
def submit(settings: Settings, file: str, gateway: str, wait_s: int) -> None:
    """Hand in requests of a trusted gateway: JSON lines in FILE, or - for standard input; one result line each.

    Intake decides them as it decides messages. One that has no decision after the wait is "accepted": it is on disk,
    and is decided when intake runs. Exits 1 where a line was no request, and 75 where not all lines had a result.
    """
    from kmp_smsd.importing.submission_lines import read_submission

    config = settings.config
    if gateway not in config.gateways:
        known = ", ".join(sorted(config.gateways)) or "none"
        raise Failed(
            f"no gateway '{gateway}' in {config.path} (there: {known}): add a [gateway.{gateway}] section",
            CONFIGURATION,
        )
    errors = lines = 0
    accepted: set[int] = set()  # and not decided by the last look
    with settings.store() as store:
        for batch in arriving(
            file,
            lambda line: read_submission(line, config.numbering.parse, gateway=gateway, received_at=now_ms()),
        ):
            accepted = store.submissions.undecided(list(accepted))
            results, late = _hand_in(store, batch, 0 if accepted else wait_s)  # it decides those before first
            accepted |= late
            tell(results)
            lines += len(results)
            errors += sum(result["result"] == "error" for result in results)
        accepted = store.submissions.undecided(list(accepted))
    if accepted:
        click.echo(
            f"kmp-smsd: {counted(len(accepted), 'request')} on disk and not decided yet: is intake running, and does it"
            f" know [gateway.{gateway}]? It does after 'kmp-smsd reload'",
            err=True,
        )
    if errors:
        raise Failed(f"{counted(errors, 'error')} in {counted(lines, 'line')}: correct them and send them again")


def _hand_in(
    store: Store, batch: Sequence[tuple[int, Submitted]], wait_s: int
) -> tuple[list[dict[str, Any]], set[int]]:
    """Have intake decide a batch; its results in order, and the numbers of those that it has not decided."""
    from kmp_smsd.domain.request import SyncRequest
    from kmp_smsd.storage import StoreUnavailable

    places = [place for place, (_, line) in enumerate(batch) if isinstance(line.asked, SyncRequest)]
    asked = [line.asked for _, line in batch if isinstance(line.asked, SyncRequest)]
    try:
        numbers = store.submissions.submit(asked, now_ms())
        answers = _answers(store, numbers, wait_s)
        store.submissions.forget(list(answers))
    except StoreUnavailable as error:
        raise Failed(f"{error}: send the lines that had no result again", TEMPORARY) from error
    number_of = dict(zip(places, numbers, strict=True))
    results: list[dict[str, Any]] = []
    for place, (number, line) in enumerate(batch):
        told = _told(answers.get(number_of[place])) if place in number_of else _error(str(line.asked))
        results.append({**({"line": number} if told["result"] == "error" else {}), "id": line.id, **told})
    return results, set(numbers) - answers.keys()


def _answers(store: Store, numbers: Sequence[int], wait_s: int) -> dict[int, Answer]:
    """What intake decided within `wait_s` seconds."""
    from kmp_smsd.domain.outcome import Outcome
    from kmp_smsd.storage.submissions import Answer

    deadline = time.monotonic() + wait_s
    while True:
        undecided = store.submissions.undecided(numbers)  # first: what is decided in between has an answer
        if not undecided or time.monotonic() >= deadline:
            erased = Answer(Outcome.NOT_REGISTERED, None, "the number was erased meanwhile")
            return {**dict.fromkeys(set(numbers) - undecided, erased), **store.submissions.answers(numbers)}
        time.sleep(LOOK_EVERY_S)


def _told(answer: Answer | None) -> dict[str, str]:
    if answer is None:
        return {"result": "accepted"}
    if answer.outcome == "error":
        return _error("this request alone makes intake fail: its log says why")
    told = {"result": answer.outcome.value}
    if answer.app_id is not None:
        told["app_id"] = answer.app_id
    if answer.why:
        told["reason"] = answer.why
    return told


def _error(reason: str) -> dict[str, str]:
    return {"result": "error", "reason": reason}
