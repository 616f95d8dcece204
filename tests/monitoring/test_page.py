"""The status page as text."""

from __future__ import annotations

import re
from collections.abc import Callable
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.monitoring.markup import Markup, element, text
from kmp_smsd.monitoring.page import CONTENT_SECURITY_POLICY, page
from kmp_smsd.monitoring.tones import Tone, of_link, of_platform
from kmp_smsd.service.status import PlatformWord
from tests.monitoring.snapshots import MINUTE, NOW, dispatch, intake

VOID = {"meta"}
both_roles = pytest.mark.parametrize("role", [intake, dispatch], ids=["intake", "dispatch"])


class Read(HTMLParser):
    """The page as a browser's parser takes it: rows as (class, texts of the cells), and whether all tags are closed."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: set[str] = set()
        self.rows: list[tuple[str | None, list[str]]] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(html)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in VOID:
            self._open.append(tag)
        if tag == "tr":
            self.rows.append((dict(attrs).get("class"), []))
        if tag in ("td", "th"):
            self.rows[-1][1].append("")

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        if "style" not in self._open:
            self.text += data
        if "td" in self._open or "th" in self._open:
            self.rows[-1][1][-1] += data.replace("\N{NO-BREAK SPACE}", " ").replace("\N{NARROW NO-BREAK SPACE}", " ")


def test_each_link_has_a_row_in_the_colour_of_its_state() -> None:
    head, *rows = Read(page(intake(), NOW)).rows
    assert head[1][:2] == ["Link", "Peer"]
    assert [(tone, cells[0]) for tone, cells in rows] == [
        ("good", "north-abound as transceiverfor 3 d"),
        ("warning", "north-bbound as receiverfor 7 min"),
        ("busy", "westbindingfor 3 s"),
        ("paused", "labstoppedfor 5 h"),
        ("bad", "southwaiting to reconnectfor 41 min"),
    ]
    shown = dict(zip(head[1], rows[1][1], strict=True))
    assert shown["In work"] == "7 412of 10 000"
    assert shown["Messages"] == "1 048 21341.2 · 38.7 · 40.1 /sRX_T_APPN 9 312RX_R_APPN 41"
    assert shown["Throttled"] == "9 312"
    assert shown["Round trip"] == "12.3 ms"
    assert shown["Last error"] == "the SMSC closed the connection8 min ago"


def test_each_platform_has_a_row_in_the_colour_of_its_state() -> None:
    head, *rows = Read(page(dispatch(), NOW)).rows
    assert [(tone, cells[0]) for tone, cells in rows] == [
        ("good", "meteringdeliveringfor 20 min"),
        ("good", "paymentidlefor 20 min"),
        ("bad", "trackingwaitingfor 20 min"),
        ("bad", "vendingheld back after rejectionsfor 20 min"),
        ("paused", "parkingpausedfor 20 min"),
        ("busy", "old-vendordrainingfor 20 min"),
    ]
    shown = dict(zip(head[1], rows[2][1], strict=True))
    assert shown["Due"] == "100 000+oldest 1 d 2 h"
    assert shown["Last success"] == "1 d 2 h ago"
    assert shown["Next try"] == "in 1 min"
    assert shown["Mean push"] == "39.8 ms"
    assert Read(page(dispatch(), NOW)).rows[-1][1][8] == "-"  # nothing was pushed, nothing is divided by it


def test_more_rejected_than_was_counted_is_told_to_be_more() -> None:
    few, many = ({**dispatch()["platforms"][0], "rejected": 100_000, "rejected_more": more} for more in (False, True))
    for platforms, plus in (([few, few], ""), ([few, many], "+")):
        read = Read(page(dispatch(platforms=platforms), NOW))
        head, *rows = read.rows
        assert dict(zip(head[1], rows[-1][1], strict=True))["Rejected now"] == f"100 000{plus}"
        assert f"200\N{NARROW NO-BREAK SPACE}000{plus}rejected" in read.text


def test_row_has_no_more_room_for_statuses_than_for_the_most_frequent() -> None:
    refused = {f"0x{0x400 + number:08X}": 20 - number for number in range(9)}
    link = {**intake()["links"][0], "bind_failures": refused}
    head, (_, cells) = Read(page(intake(links=[link]), NOW)).rows
    binds = dict(zip(head[1], cells, strict=True))["Binds"]
    assert binds == "10 reconnects0x00000400 200x00000401 190x00000402 180x00000403 170x00000404 16..."


@pytest.mark.parametrize(("reconnects", "told"), [(0, "0 reconnects"), (1, "1 reconnect"), (2, "2 reconnects")])
def test_one_reconnect_is_told_as_one(reconnects: int, told: str) -> None:
    link = {**intake()["links"][0], "reconnects": reconnects, "bind_failures": {}}
    head, (_, cells) = Read(page(intake(links=[link]), NOW)).rows
    assert dict(zip(head[1], cells, strict=True))["Binds"] == f"{link['binds']}{told}"


def test_links_on_their_way_are_not_red_and_a_short_failure_of_a_platform_is_not() -> None:
    link, platform = intake()["links"][0], dispatch()["platforms"][2]
    assert {of_link({**link, "bound": False, "word": word}) for word in ("connecting", "binding", "unbinding")} == {
        Tone.BUSY
    }
    assert of_link({**link, "bound": False, "word": "stopped"}) is Tone.BAD
    assert of_platform({**platform, "last_success_at": platform["last_error_at"] - 9 * MINUTE}) is Tone.WARNING
    assert of_platform({**platform, "last_success_at": platform["last_error_at"] - 11 * MINUTE}) is Tone.BAD
    assert of_platform({**platform, "last_success_at": None}) is Tone.BAD
    assert of_platform({**platform, "last_success_at": None, "last_error_at": None}) is Tone.WARNING
    assert of_platform({**dispatch()["platforms"][0], "rejected": 1}) is Tone.WARNING


@pytest.mark.parametrize("word", [PlatformWord.DRAINING, PlatformWord.DRAINED])
def test_platform_that_a_drain_keeps_from_its_work_is_not_green(word: PlatformWord) -> None:
    assert of_platform({**dispatch()["platforms"][0], "word": word.value}) is Tone.BUSY


def test_platform_without_a_file_is_red() -> None:
    assert of_platform({**dispatch()["platforms"][0], "word": PlatformWord.UNSERVED.value}) is Tone.BAD


def test_reasons_stand_at_the_top() -> None:
    well = page(intake(), NOW)
    assert "<title>kmp-smsd intake: ready</title>" in well
    assert 'role="alert"' not in well
    unready = page(intake(), NOW, not_ready=("no link is <bound>",))
    assert "<title>kmp-smsd intake: not ready</title>" in unready
    assert "<li>no link is &lt;bound&gt;</li>" in unready
    assert "<title>kmp-smsd intake: not alive</title>" in page(intake(), NOW, ("the store is stuck",), ("x",))


@pytest.mark.parametrize("state", ["running", "draining", "stopping"])
def test_role_that_does_not_run_on_says_so(state: str) -> None:
    assert (f'<span class="badge busy">{state}</span>' in page(intake(state=state), NOW)) is (state != "running")


def test_configuration_that_was_refused_or_differs_is_told() -> None:
    told = Read(page(intake(), NOW)).text
    assert "refused" not in told
    configuration = {
        **intake()["configuration"],
        "differs": True,
        "differences": ["[sync] mdn_burst"],
        "last_reload_ok": False,
        "last_reload_error": "a.toml:3: <no>",
        "needs_restart": ["[storage] path"],
    }
    told = Read(page(intake(configuration=configuration), NOW)).text
    for words in ("differs from what runs", "refused", "a.toml:3: <no>", "[storage] path", "[sync] mdn_burst"):
        assert words in told


def test_store_that_does_not_answer_is_told() -> None:
    def told(**changes: Any) -> str:
        html = page(intake(store={**intake()["store"], "last_write_at": None, **changes}), NOW)
        return Read(html).text.replace("\N{NO-BREAK SPACE}", " ")

    assert "has not answered for 42 s" in told(stuck_s=42.0)
    assert "has not answered" not in told(stuck_s=2.0)  # a long transaction
    assert "disk I/O error" in told(error="disk I/O error")


def test_role_without_links_or_platforms_says_so() -> None:
    assert "none is configured" in Read(page(intake(links=[], outcomes={}), NOW)).text
    assert "none is configured" in Read(page(dispatch(platforms=[]), NOW)).text


@both_roles
def test_page_runs_nothing_and_fetches_nothing(role: Callable[[], dict[str, Any]]) -> None:
    html = page(role(), NOW)
    assert not Read(html).tags & {"script", "link", "img", "iframe", "form", "object", "base"}
    assert not re.search(r"""\b(?:src|action|on\w+|style)=|\burl\(|@import|https?:""", html)
    assert set(re.findall(r'href="([^"]*)"', html)) == {"metrics", "status.json", "healthz", "readyz"}
    assert CONTENT_SECURITY_POLICY.startswith("default-src 'none'; ")
    assert "unsafe" not in CONTENT_SECURITY_POLICY


def _with_text(value: Any, hostile: str, name: str = "") -> Any:
    """`value` with every text in it replaced."""
    if isinstance(value, dict):
        return {(hostile if name == "outcomes" else key): _with_text(one, hostile, key) for key, one in value.items()}
    if isinstance(value, list):
        return [_with_text(one, hostile, name) for one in value]
    return hostile if isinstance(value, str) and name not in ("role",) else value


@pytest.mark.parametrize("role", [intake, dispatch], ids=["intake", "dispatch"])
def test_no_text_of_a_peer_becomes_markup(role: Callable[[], dict[str, Any]]) -> None:
    honest = Read(page(role(), NOW))
    hostile = Read(page(_with_text(role(), """"'><script>alert(1)</script><b onload='x'>&amp;"""), NOW))
    assert hostile.tags == honest.tags
    assert "<script>alert(1)</script>" in hostile.text


@given(st.text())
def test_what_is_no_markup_is_text(value: str) -> None:
    html = element("p", value, title=value)
    read = Read(html)
    assert read.tags == {"p"}
    assert text(Markup("<b>"), "<b>", None, 7) == "<b>&lt;b&gt;7"
