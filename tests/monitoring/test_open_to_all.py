"""Numbers in the sentences of peers, which every user of the machine could read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.monitoring.open_to_all import open_to_all
from tests.monitoring.snapshots import dispatch, intake


@pytest.mark.parametrize(
    ("said", "shown"),
    [
        ("no subscriber 8613912345678", "no subscriber ***********78"),
        ("no +86 139-1234 5678!", "no +**************78!"),
        ("port 2775, ESME_RINVPASWD (0x0E), 10.0.0.17:2775", "port 2775, ESME_RINVPASWD (0x0E), 10.0.0.17:2775"),
        ("after 100000 tries", "after 100000 tries"),
        ("", ""),
        (None, None),
    ],
)
def test_what_may_be_an_mdn_in_a_sentence_is_masked(said: str | None, shown: str | None) -> None:
    platform = {**dispatch()["platforms"][0], "last_error": said}
    assert open_to_all(dispatch(platforms=[platform]))["platforms"][0]["last_error"] == shown


@pytest.mark.parametrize("name", ["not_ready", "degraded"])
def test_what_may_be_an_mdn_in_a_judgement_is_masked(name: str) -> None:
    shown = open_to_all({**dispatch(), name: ("platform fleet fails: no subscriber 8613912345678",)})
    assert shown[name] == ["platform fleet fails: no subscriber ***********78"]


@given(st.from_regex(r"\A[0-9]{7,15}\Z"), st.text(st.characters(exclude_categories=["N"])))
def test_no_number_as_long_as_an_mdn_is_left(mdn: str, around: str) -> None:
    platform = {**dispatch()["platforms"][0], "last_error": around + mdn + around}
    assert mdn not in open_to_all(dispatch(platforms=[platform]))["platforms"][0]["last_error"]


def test_our_own_figures_stay_as_they_are() -> None:
    assert open_to_all(intake()) == intake()
