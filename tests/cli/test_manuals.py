"""The manual pages: they say what the programs know, mandoc has nothing to say about them, and they have no clock."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kmp_smsd.cli import roff
from kmp_smsd.cli.manuals import PAGES
from kmp_smsd.cli.program import program
from kmp_smsd.config.example import options
from kmp_smsd.config.page import FILES, title

ROOT = Path(__file__).resolve().parents[2]


def plain(name: str) -> str:
    """The page without troff's own."""
    return (
        re.sub(r"\\f[BR]", "", PAGES[f"man/man{name[-1]}/{name}"]())
        .replace("\\-", "-")
        .replace("\\(dq", '"')
        .replace("\\&", "")
    )


def leaves(command: click.Command, path: str = "kmp-smsd") -> list[tuple[str, click.Command]]:
    if not isinstance(command, click.Group):
        return [(path, command)]
    context = click.Context(command)
    below = [(name, command.get_command(context, name)) for name in command.list_commands(context)]
    return [leaf for name, one in below if one for leaf in leaves(one, f"{path} {name}")]


def mandoc(*words: str) -> str:
    if shutil.which("mandoc") is None:
        if os.environ.get("CI"):
            pytest.fail("CI must have mandoc: scripts/install-peers")
        pytest.skip("mandoc is not installed")
    return subprocess.run(["mandoc", *words], capture_output=True, text=True, check=False).stdout


def test_each_command_stands_in_the_manual_with_its_options():
    found = re.findall(
        r'^\.SS "(kmp-smsd [^"]*?)(?: [\[A-Z][^"\n]*)?"\n(.*?)(?=^\.S[SH])', plain("kmp-smsd.8"), re.M | re.S
    )
    sections = dict(found)
    assert set(sections) == {path for path, _ in leaves(program)}
    for path, command in leaves(program):
        named = set(re.findall(r"(?<![\w-])--?[a-z][a-z-]*", sections[path]))
        wanted = {option for one in command.params if isinstance(one, click.Option) for option in one.opts}
        assert wanted <= named, path


def test_each_option_of_the_configuration_stands_in_its_manual():
    page = plain("kmp-smsd.toml.5")
    for sections in FILES.values():
        for section, model in sections.items():
            (text,) = re.findall(rf'^\.SS "{re.escape(title(section))}"\n(.*?)(?=^\.S[SH])', page, re.M | re.S)
            assert re.findall(r"^\.TP\n(\w+)\n", text, re.M) == [option.name for option in options(model, section)]


def test_the_manual_of_the_receiver_has_all_of_its_options():
    known = set(re.findall(r'"(--[a-z-]+)"', (ROOT / "scripts" / "kmp-receive").read_text(encoding="utf-8")))
    named = set(re.findall(r"^(--[a-z-]+)", plain("kmp-receive.1"), re.M))
    assert named == known


def test_exit_codes_stand_in_the_manual():
    text = plain("kmp-smsd.8").partition('.SH "EXIT STATUS"')[2]
    assert re.findall(r"^\.TP\n(\d+)$", text, re.M) == ["0", "1", "64", "69", "70", "75", "77", "78"]
    assert ".TP\n78\nconfiguration or database.\n" in text


@pytest.mark.parametrize("name", PAGES)
def test_mandoc_finds_no_fault_but_that_a_page_has_no_date(name, tmp_path):
    page = tmp_path / Path(name).name
    page.write_text(PAGES[name](), encoding="utf-8")
    assert mandoc("-T", "lint", "-W", "error", str(page)) == ""
    remarks = mandoc("-T", "lint", str(page)).splitlines()
    assert [remark for remark in remarks if "missing date" not in remark] == []


def test_a_page_can_be_read(tmp_path):
    (tmp_path / "page").write_text(PAGES["man/man8/kmp-smsd.8"](), encoding="utf-8")
    text = re.sub(".\b", "", mandoc("-T", "ascii", str(tmp_path / "page")))
    assert "kmp-smsd keys import [OPTIONS] FILE" in text
    assert "\\" not in text


def test_pages_of_the_same_version_are_the_same_whoever_makes_them_and_when(tmp_path):
    made = []
    for home, columns in (("/root", "40"), ("/nowhere", "200")):
        directory = tmp_path / columns
        directory.mkdir()
        env = os.environ | {"HOME": home, "COLUMNS": columns, "TZ": "Asia/Shanghai", "SOURCE_DATE_EPOCH": columns}
        subprocess.run([sys.executable, "-m", "kmp_smsd.cli.manuals", directory], env=env, check=True)
        made.append(
            {
                str(path.relative_to(directory)): path.read_text(encoding="utf-8")
                for path in directory.rglob("*")
                if path.is_file()
            }
        )
    assert made[0] == made[1] == {name: page() for name, page in PAGES.items()}


def test_text_that_troff_would_obey_is_only_text():
    assert roff.prose(".so /etc/passwd `-x` \\n") == "\\&.so /etc/passwd \\fB\\-x\\fR \\en\n"
    assert roff.paragraphs("one\n\n    'two\n    a  b\n\nthree") == (
        "one\n.PP\n.RS 4\n.nf\n\\&'two\na  b\n.fi\n.RE\n.PP\nthree\n"
    )
