from __future__ import annotations

import re
from pathlib import Path

import pytest

from kmp_smsd.diagnosis.meanings import MEANINGS, meaning
from kmp_smsd.domain.outcome import Outcome

RULES = Path(__file__).parents[2] / "docs" / "rules.rst"


def rows_of_the_page() -> dict[str, set[str]]:
    """outcome -> the numbers of its rows in the table of docs/rules.rst; none for the row that has no number."""
    found: dict[str, set[str]] = {}
    number = ""
    table = RULES.read_text(encoding="utf-8").partition("The rows\n")[2].partition("Remarks to single rows")[0]
    for line in table.splitlines():
        begins = re.match(r"(\d+|\.\.) ", line)
        number = begins[1].strip(".") if begins else number
        for name in re.findall(r"``(\w+)``", line[5:29]):
            found.setdefault(name, set()).add(number)
    return found


def test_every_outcome_means_something() -> None:
    assert set(MEANINGS) == set(Outcome)


@pytest.mark.parametrize("outcome", Outcome)
def test_rows_are_those_of_the_page(outcome: Outcome) -> None:
    told = {meaning(outcome, why).row for why in ("", "the key is bound elsewhere")}
    assert told == rows_of_the_page()[outcome.value]


@pytest.mark.parametrize(
    ("why", "row"),
    [
        ("superseded here not long ago", "11"),
        ("older than the binding that stands; refused before by a person", "11"),
        ("the key is bound elsewhere; another key is bound here", "12"),
        ("another key is bound here; refused before by a person", "12"),
    ],
)
def test_row_of_a_refusal_is_read_off_its_reason(why: str, row: str) -> None:
    assert meaning(Outcome.HELD, why).row == meaning(Outcome.REFUSED, why).row == row
