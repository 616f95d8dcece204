"""The documents: they parse, their links lead somewhere, and what they name exists."""

from __future__ import annotations

import dataclasses
import io
import re
import shlex
from functools import cache
from pathlib import Path
from urllib.parse import unquote

import click
import docutils.core
import docutils.nodes
import pytest
from pydantic import BaseModel

from kmp_smsd.cli.program import program
from kmp_smsd.config.models import MainFile
from kmp_smsd.config.options import models_in
from kmp_smsd.config.page import page
from kmp_smsd.config.platform import Platform
from kmp_smsd.domain.numbering import NumberingPlan, NumberRange
from kmp_smsd.domain.outcome import NEVER_AGAIN, Outcome
from kmp_smsd.domain.payload import MAX_PAYLOAD_OCTETS, parse_payload
from kmp_smsd.importing.csv_keys import COLUMNS as KEY_COLUMNS
from kmp_smsd.monitoring.metrics import metrics
from kmp_smsd.service.status import ConfigurationStatus, LinkStatus, PlatformStatus, Snapshot, StoreStatus
from kmp_smsd.smpp.constants import CommandId, Tag
from kmp_smsd.smpp.pdu import Message
from kmp_smsd.smpp.submit import SubmitSm
from kmp_smsd.smpp.text import read_user_data
from tests.monitoring.snapshots import dispatch, intake

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.rst", ROOT / "CHANGELOG.rst", *sorted((ROOT / "docs").glob("*.rst"))]
MIGRATION = ROOT / "kmp_smsd" / "storage" / "migrations" / "0001_first.sql"
HAVE_TESTS_OF_THEIR_OWN = ("platform-protocol.rst", "logs.rst", "json.rst")  # for the names in them
INFO = 1

every_page = pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)


@cache
def parsed(path: Path) -> tuple[docutils.nodes.document, str]:
    """The document, and what docutils has to say about it."""
    said = io.StringIO()
    settings = {"report_level": INFO, "halt_level": 6, "warning_stream": said, "file_insertion_enabled": False}
    document = docutils.core.publish_doctree(
        path.read_text(encoding="utf-8"), source_path=str(path), settings_overrides=settings
    )
    return document, said.getvalue()


def literals(path: Path) -> list[str]:
    """What the page sets in ``literals``, in one line each."""
    document, _ = parsed(path)
    return [" ".join(node.astext().split()) for node in document.findall(docutils.nodes.literal)]


def blocks(path: Path) -> list[str]:
    """The lines of the literal blocks of the page, continued lines joined."""
    document, _ = parsed(path)
    text = "\n".join(node.astext() for node in document.findall(docutils.nodes.literal_block))
    return text.replace("\\\n", "").splitlines()


def commands(path: Path) -> list[str]:
    """Every `kmp-smsd` command line that the page shows."""
    shown = [line.removeprefix("$ ").strip() for line in blocks(path) if line.startswith("$ kmp-smsd")]
    return shown + [text for text in literals(path) if re.match(r"kmp-smsd [-a-z]", text)]


def lead(words: list[str]) -> str | None:
    """Why these words are no command with options that it has; None where they are one."""
    context = click.Context(program, info_name="kmp-smsd")
    command: click.Command = program
    while True:
        known = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
        known |= set(command.get_help_option_names(context))
        if not isinstance(command, click.Group):
            named = [word for word in words if word.startswith("-") and word != "-"]  # which is standard input
            unknown = [word for word in named if word.split("=")[0] not in known]
            return f"{command.name} has no {unknown[0]}" if unknown else None
        while words and words[0].startswith("-"):
            option = words.pop(0)
            if option not in known:
                return f"{command.name} has no {option}"
            parameter = next((one for one in command.params if option in one.opts), None)
            if words and isinstance(parameter, click.Option) and not parameter.is_flag:
                words.pop(0)
        if not words:
            return None
        name = words.pop(0)
        below = command.get_command(context, name)
        if below is None:
            return f"{command.name} has no {name}"
        command = below


def command_names(command: click.Command, path: str = "kmp-smsd") -> set[str]:
    if not isinstance(command, click.Group):
        return {path}
    context = click.Context(command)
    found = {name: command.get_command(context, name) for name in command.list_commands(context)}
    return {name for part, below in found.items() if below for name in command_names(below, f"{path} {part}")}


def options(model: type[BaseModel]) -> set[str]:
    """The names of all options of a file, whatever section they are in."""
    names = set(model.model_fields)
    for field in model.model_fields.values():
        for below in models_in(field.annotation):
            names |= options(below)
    return names


@every_page
def test_page_parses_without_a_remark(path: Path) -> None:
    _, said = parsed(path)
    assert said == ""


@every_page
def test_links_of_a_page_lead_to_files_of_the_repository(path: Path) -> None:
    document, _ = parsed(path)
    for node in document.findall(docutils.nodes.reference):
        address = node.get("refuri", "")
        if address and not re.match(r"[a-z]+:", address):
            target, _, fragment = address.partition("#")
            assert (path.parent / unquote(target)).is_file(), f"{path.name} links to {address}"
            if fragment:
                assert fragment in parsed(path.parent / target)[0].ids


@every_page
def test_commands_of_a_page_exist_with_their_options(path: Path) -> None:
    for line in commands(path):
        fault = lead(shlex.split(line)[1:])
        assert fault is None, f"{path.name}: {line}: {fault}"


def test_faults_of_a_shown_command_are_noticed() -> None:
    assert lead(["keys", "bury", "K"]) == "keys has no bury"
    assert lead(["keys", "import", "F", "--plain"]) == "import has no --plain"
    assert lead(["--config", "F", "keys", "list", "--json"]) is None


def test_every_command_stands_in_the_page_on_the_command_line() -> None:
    listed = {text for text in literals(ROOT / "docs" / "cli.rst") if text.startswith("kmp-smsd ")}
    assert listed == command_names(program)


@every_page
def test_options_of_commands_exist_where_a_page_names_them_alone(path: Path) -> None:
    programs = {"platform-protocol.rst": "kmp-receive", "performance.rst": "bench"}  # whose options they name
    if path.name in programs:
        known = set(re.findall(r"--[a-z-]+", (ROOT / "scripts" / programs[path.name]).read_text(encoding="utf-8")))
    else:
        known = {"--help", "--version"} | all_options(program)
    named = {text.split()[0] for text in literals(path) if text.startswith("--")}
    assert named <= known


def all_options(command: click.Command) -> set[str]:
    found = {option for parameter in command.params for option in parameter.opts}
    if isinstance(command, click.Group):
        context = click.Context(command)
        for name in command.list_commands(context):
            below = command.get_command(context, name)
            assert below is not None
            found |= all_options(below)
    return found


@every_page
def test_files_of_the_repository_that_a_page_names_exist(path: Path) -> None:
    named = re.findall(
        r"(?<![\w./-])(?:conf|docs|scripts|kmp_smsd|tests|systemd)/[\w./*-]*[\w*]", path.read_text(encoding="utf-8")
    )
    for name in named:
        assert list(ROOT.glob(name)), f"{path.name} names {name}"


@pytest.mark.parametrize(
    "path",
    [path for path in PAGES if path.name not in HAVE_TESTS_OF_THEIR_OWN],
    ids=lambda path: path.name,
)
def test_names_in_a_page_are_those_of_options_outcomes_fields_or_columns(path: Path) -> None:
    known = options(MainFile) | options(Platform) | {outcome.value for outcome in Outcome} | set(KEY_COLUMNS)
    known |= {
        "command_status",
        "secure_delete",
        "tls_metering",  # the credential of an example
        *Message.__struct_fields__,
        *SubmitSm.__slots__,
        *(one.name.lower() for one in (*Tag, *CommandId)),
        *metrics_of_the_page(),
    }
    statuses = (Snapshot, ConfigurationStatus, StoreStatus, LinkStatus, PlatformStatus)
    known |= {"not_ready", *(one.name for status in statuses for one in dataclasses.fields(status))}
    known |= set(re.findall(r"^  (\w+) ", MIGRATION.read_text(encoding="utf-8"), re.MULTILINE))
    named = {text for text in literals(path) if re.fullmatch(r"[a-z]+(?:_[a-z]+)+", text)}
    assert named <= known


def metrics_of_the_page() -> dict[str, tuple[str, str]]:
    """The metrics of the tables of docs/monitoring.rst, with labels and meaning."""
    document, _ = parsed(ROOT / "docs" / "monitoring.rst")
    rows = [
        [" ".join(entry.astext().split()) for entry in row.findall(docutils.nodes.entry)]
        for row in document.findall(docutils.nodes.row)
    ]
    return {row[0]: (row[1], row[2]) for row in rows if row[0].startswith("kmp_smsd_")}


def test_page_on_monitoring_tells_every_metric_with_its_labels_as_it_is_exposed() -> None:
    families = [family for snapshot in (intake(), dispatch()) for family in metrics(snapshot)]
    exposed = {
        family.name + {"counter": "_total", "info": "_info"}.get(family.type, ""): (
            ", ".join(sorted({label for sample in family.samples for label in sample.labels})),
            family.documentation,
        )
        for family in families
    }
    assert metrics_of_the_page() == exposed


def test_page_on_monitoring_tells_the_cure_of_every_alarm() -> None:
    rules = (ROOT / "conf" / "prometheus" / "kmp-smsd.rules.yml").read_text(encoding="utf-8")
    alarms = re.findall(r"- alert: (\w+)\n.*?severity: (\w+)", rules, re.DOTALL)
    text = (ROOT / "docs" / "monitoring.rst").read_text(encoding="utf-8")
    assert re.findall(r"^   \* - ``(KmpSmsd\w+)`` \((\w+)\)$", text, re.MULTILINE) == alarms


def test_commands_that_alarms_name_exist() -> None:
    rules = (ROOT / "conf" / "prometheus" / "kmp-smsd.rules.yml").read_text(encoding="utf-8")
    steps = [step.strip() for text in re.findall(r'runbook: "(.*)"', rules) for step in re.split("[;:]", text)]
    named = [step for step in steps if step.startswith("kmp-smsd ")]
    assert len(named) > 10
    for line in named:
        fault = lead(re.sub(r"\{\{.*?\}\}", "NAME", line).split()[1:])
        assert fault is None, f"{line}: {fault}"


@every_page
def test_sections_that_a_page_names_have_the_option_named_with_them(path: Path) -> None:
    sections: dict[str, type[BaseModel]] = {
        name: next(models_in(field.annotation))
        for model in (MainFile, Platform)
        for name, field in model.model_fields.items()
        if next(models_in(field.annotation), None)
    }
    for text in literals(path):
        match = re.fullmatch(r"\[(\w+)(?:\.NAME)?\](?: (\w+))?", text)
        if match:
            assert match[1] in sections, text
            assert match[2] is None or match[2] in sections[match[1]].model_fields, text


def test_page_of_options_is_what_the_models_say() -> None:
    remedy = "run: python -m kmp_smsd.config.page docs/options.rst"
    assert (ROOT / "docs" / "options.rst").read_text(encoding="utf-8") == page(), remedy


@pytest.mark.parametrize("name", ["rules.rst", "payload.rst"])
def test_pages_name_every_outcome_and_no_other(name: str) -> None:
    document, _ = parsed(ROOT / "docs" / name)
    heading = "outcome"
    for table in document.findall(docutils.nodes.tgroup):
        head, body = (next(iter(table.findall(kind))) for kind in (docutils.nodes.thead, docutils.nodes.tbody))
        titles = [entry.astext() for entry in head.findall(docutils.nodes.entry)]
        if heading in titles:
            column = titles.index(heading)
            cells = [list(row.findall(docutils.nodes.entry))[column] for row in body.findall(docutils.nodes.row)]
            named = {node.astext() for cell in cells for node in cell.findall(docutils.nodes.literal)}
            assert named == {outcome.value for outcome in Outcome}
            return
    pytest.fail(f"{name} has no table with a column {heading}")


def test_rules_tell_the_smsc_never_where_the_code_does() -> None:
    text = (ROOT / "docs" / "rules.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^(?:\d+|\.\.) +``(\w+)``.* (never|ROK)\b", text, re.MULTILINE)
    assert {name for name, answer in rows if answer == "never"} == {outcome.value for outcome in NEVER_AGAIN}
    assert {int(row) for row in re.findall(r"^(\d+)  ", text, re.MULTILINE)} == set(range(14))


def test_examples_of_the_payload_are_read_as_the_page_says() -> None:
    text = (ROOT / "docs" / "payload.rst").read_text(encoding="utf-8")
    rows = re.findall(r"^``([0-9a-f]+)`` +(\d+) +(yes|no) +(.+)$", text, re.MULTILINE)
    assert len(rows) == 10
    for octets, data_coding, header, reading in rows:
        message = Message(
            CommandId.DELIVER_SM, 1, 1, 1, "8613912345678", 0, 1, "10690001",
            0x40 if header == "yes" else 0, int(data_coding), bytes.fromhex(octets),
        )  # fmt: skip
        user_data = read_user_data(message)
        payload = parse_payload(user_data.octets)
        if payload is None:
            assert reading.startswith("malformed")
            continue
        said = [f"key ``{payload.key_id}``"]
        said += [f"app ``{payload.app_id}``"] if payload.app_id else []
        said += [f"counter ``{payload.proof.counter}``"] if payload.proof else []
        said += [f"port ``{user_data.destination_port}``"] if user_data.destination_port else []
        assert reading.strip() == ", ".join(said)
    assert f"has {MAX_PAYLOAD_OCTETS} octets" in text


def test_numbers_of_the_rules_are_read_as_the_page_says() -> None:
    plan = NumberingPlan("86", (NumberRange("8613", 13, "mobile"),))
    text = (ROOT / "docs" / "rules.rst").read_text(encoding="utf-8")
    assert "``+86 139 1234 5678``" in text
    assert plan.parse("+86 139 1234 5678") == plan.parse("0086-139-1234-5678") == plan.parse("139 1234 5678")


def test_a_page_names_no_file_that_users_do_not_have() -> None:
    for path in PAGES:
        text = path.read_text(encoding="utf-8")
        assert not re.search(r"/work\b|/root\b|\.\./shared|[A-Z]{4,}\.md\b", text), path.name


def test_pages_that_the_code_refers_to_exist() -> None:
    sources = [path for part in ("kmp_smsd", "scripts", "conf", "tests") for path in (ROOT / part).rglob("*")]
    named = {
        name
        for path in sources
        if path.is_file() and path.suffix in ("", ".py", ".sql", ".toml", ".conf")
        for name in re.findall(r"\bdocs/[\w-]+\.rst\b", path.read_text(encoding="utf-8"))
    }
    assert "docs/rules.rst" in named
    assert [name for name in named if not (ROOT / name).is_file()] == []
