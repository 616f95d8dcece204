"""Whether the database is whole, judged by what `db check` found."""

from __future__ import annotations

from collections.abc import Iterable

from kmp_smsd.diagnosis.finding import Finding, failure, ok, warning
from kmp_smsd.storage.checking import Checked

_DAMAGED = (
    "stop both roles, keep a copy of the database's files, and look for the fault of the disk (dmesg)\n"
    "then put the last backup in its place: 'kmp-smsd db restore FILE'"
)
_UNTRUE = (
    "another program wrote into the database, or this is a bug of kmp-smsd: report it with this output\n"
    "keep 'kmp-smsd db backup FILE' for that; 'kmp-smsd db restore' of a backup from before brings back order"
)
_STAGED = "nothing is lost: its keys never existed; 'kmp-smsd keys import' discards them when it is next run"


def judge_all(results: Iterable[Checked]) -> list[Finding]:
    """The results of `Checking.check`; the tables that are whole make one sentence together."""
    results = list(results)
    whole = [one for one in results if one.name.startswith("whole_") and not one.count]
    others = [judge(one) for one in results if one not in whole]
    return [ok(f"{len(whole)} tables and their indexes are whole"), *others] if whole else others


def judge(checked: Checked) -> Finding:
    """One of them."""
    if not checked.count:
        rows = "" if checked.rows is None else f" (rows: {checked.rows:,})"
        return ok(f"{checked.says}{rows}")
    named = "; ".join(checked.faults)
    more = checked.count - len(checked.faults)
    sentence = f"not true that {checked.says}: {named}{f'; and {more:,} more' if more else ''}"
    if checked.name == "staged":
        return warning(f"{named}{f'; and {more:,} more' if more else ''}", _STAGED)
    return failure(sentence, _DAMAGED if checked.name.startswith("whole_") else _UNTRUE)
