"""The status page as a person sees it: on a phone, 390 pixels wide, and at a desk, 1280."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

from kmp_smsd.monitoring.page import STYLE, page
from tests.monitoring.chromium import chromium
from tests.monitoring.snapshots import NOW, dispatch, intake

PHONE, DESK = 390, 1280
FRAME = """<!DOCTYPE html><body style="margin:0"><iframe srcdoc="{page}" style="border:0;width:{width}px;height:844px">
</iframe><script>
onload = () => {{
  const page = document.querySelector("iframe").contentDocument, root = page.documentElement;
  const inside = one => {{ const at = one.getBoundingClientRect(); return at.left >= 0 && at.right <= {width}; }};
  const rows = [...page.querySelectorAll("tbody tr")].map(row => [
    row.querySelector("b").textContent, row.getBoundingClientRect().height, [...row.cells].every(inside)]);
  document.body.dataset.seen = JSON.stringify({{
    viewport: root.clientWidth, width: root.scrollWidth, rows: rows,
    outside: [...page.querySelectorAll("body *:not(thead, thead *)")].filter(one => !inside(one))
      .map(one => one.outerHTML),
    cut: [...page.querySelectorAll("div, section, table, tr, td")].filter(one => one.scrollWidth > one.clientWidth + 1)
      .filter(one => one.clientWidth > 0).map(one => one.outerHTML)}});
}};
</script>"""

both_roles = pytest.mark.parametrize("role", [intake, dispatch], ids=["intake", "dispatch"])


def seen(directory: Path, html: str, width: int) -> dict[str, Any]:
    """The page in a frame of this width, since a window of Chromium's is never narrower than 500 pixels."""
    (directory / "frame.html").write_text(FRAME.format(page=escape(html), width=width), encoding="utf-8")
    dump, _ = chromium(directory, (directory / "frame.html").as_uri(), f"--window-size={DESK + 200},900", "--dump-dom")
    match = re.search(r'data-seen="([^"]*)"', dump)
    assert match, dump
    found: dict[str, Any] = json.loads(unescape(match[1]))
    assert found["viewport"] == width
    return found


def crowded(role: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """Names and errors as long as they may be, without a space where a line could end."""
    snapshot = role()
    for row in (*snapshot.get("links", ()), *snapshot.get("platforms", ())):
        row["last_error"], row["last_error_at"] = "x" * 300, NOW
        row["peer"] = row["name"] = "n" * 32
        row["apps"] = ["a" * 32] * 40
    snapshot["configuration"]["path"] = "/" + "p" * 300
    return snapshot


@both_roles
@pytest.mark.parametrize("width", [PHONE, DESK])
def test_everything_is_within_the_width(tmp_path: Path, role: Callable[[], dict[str, Any]], width: int) -> None:
    snapshot = role()
    found = seen(tmp_path, page(snapshot, NOW, not_ready=("no link is bound",)), width)
    assert found["width"] == width
    assert [name for name, _, _ in found["rows"]] == [
        row["name"] for row in snapshot.get("links", snapshot.get("platforms"))
    ]
    assert all(height > 20 and inside for _, height, inside in found["rows"])
    assert (found["outside"], found["cut"]) == ([], [])


@both_roles
def test_the_longest_texts_widen_no_phone(tmp_path: Path, role: Callable[[], dict[str, Any]]) -> None:
    found = seen(tmp_path, page(crowded(role), NOW), PHONE)
    assert (found["width"], found["outside"]) == (PHONE, [])


def test_a_page_that_is_too_wide_would_be_noticed(tmp_path: Path) -> None:
    found = seen(tmp_path, page(intake(), NOW).replace(STYLE, "table { width: 1000px }"), PHONE)
    assert found["width"] > PHONE
    assert found["outside"]


@pytest.fixture
def served() -> Iterator[str]:
    """The address of an intake that is shown over HTTP."""
    command = [sys.executable, "-m", "tests.monitoring.serve", "intake"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield process.stdout.readline().strip()
        process.stdin.close()
        assert process.wait(30) == 0


def test_policy_of_the_page_lets_its_own_style_pass(tmp_path: Path, served: str) -> None:
    """What is served with its headers looks like the page alone, and unlike one whose style is refused."""

    def picture(name: str, address: str) -> bytes:
        shot = tmp_path / f"{name}.png"
        _, said = chromium(tmp_path, address, f"--window-size={DESK},1000", f"--screenshot={shot}")
        assert "Content Security Policy" not in said
        return shot.read_bytes()

    (tmp_path / "alone.html").write_text(page(intake(), NOW), encoding="utf-8")
    (tmp_path / "bare.html").write_text(page(intake(), NOW).replace(STYLE, ""), encoding="utf-8")
    shown = picture("served", served)
    assert shown == picture("alone", (tmp_path / "alone.html").as_uri())
    assert shown != picture("bare", (tmp_path / "bare.html").as_uri())
