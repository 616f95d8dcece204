from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from pydantic_core import PydanticUndefined

from kmp_smsd.config.example import (
    MAIN_SECTIONS,
    PLATFORM_FILES,
    PLATFORM_SECTIONS,
    main_file,
    options,
    platform_file,
    table,
)
from kmp_smsd.config.load import load
from kmp_smsd.config.models import MainFile
from kmp_smsd.config.page import told
from kmp_smsd.domain.numbering import AddressRules, NumberingPlan, NumberRange

CONF = Path(__file__).parents[2] / "conf"
MODELS = {**MAIN_SECTIONS, **PLATFORM_SECTIONS}


def uncommented(text):
    return re.sub(r"^#(?=[a-z_]+ = |\[)", "", text, flags=re.MULTILINE)


@pytest.fixture
def conf(tmp_path):
    """A copy of conf/ as a package installs it; a checkout may be writable by a group."""
    shutil.copytree(CONF, tmp_path / "conf")
    for path in [tmp_path / "conf", *(tmp_path / "conf").rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    return tmp_path / "conf"


def test_example_files_are_what_the_models_say():
    remedy = "run: python -m kmp_smsd.config.example conf"
    assert (CONF / "kmp-smsd.toml").read_text() == main_file(), remedy
    assert {path.name for path in (CONF / "platforms.d").iterdir()} == set(PLATFORM_FILES)
    for name in PLATFORM_FILES:
        assert (CONF / "platforms.d" / name).read_text() == platform_file(name), remedy


@pytest.mark.parametrize("module", ["config.example", "config.page", "cli.manuals", "cli.completing"])
@pytest.mark.parametrize("words", [[], ["--help"]])
def test_what_writes_files_tells_its_usage_unless_it_is_told_where(module, words, tmp_path):
    command = [sys.executable, "-m", f"kmp_smsd.{module}", *words]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert (run.returncode, run.stdout) == (64, "")
    assert run.stderr.startswith(f"usage: python -m kmp_smsd.{module} ")
    assert list(tmp_path.iterdir()) == []


def test_examples_load(conf):
    config = load(conf / "kmp-smsd.toml")
    assert config.path == conf / "kmp-smsd.toml"
    assert config.secrets.public_key == conf / "master-key.pub"
    assert [str(host) for host in config.smsc["north"].hosts] == ["smsc-a.example:2775", "smsc-b.example:2775"]
    assert config.numbering.parse("139 1234 5678") == "8613912345678"
    assert config.platforms == {}  # its file says enabled = false


@pytest.mark.parametrize("name", PLATFORM_FILES)
def test_examples_load_with_every_comment_removed(conf, name):
    main, platform = conf / "kmp-smsd.toml", conf / "platforms.d" / name
    main.write_text(uncommented(main.read_text()).replace("ranges = [{", "#"))  # cn.toml has that range
    platform.write_text(uncommented(platform.read_text()).replace("enabled = false", "enabled = true"))
    config = load(main)
    assert config.smsc["north"].destination_port == 5000
    assert config.platforms[platform.stem].channel.window == 1_000


def test_every_section_is_in_the_example():
    assert {section.partition(".")[0] for section in MAIN_SECTIONS} == set(MainFile.model_fields)


@pytest.mark.parametrize("section", MODELS)
def test_every_option_is_in_its_example_with_its_default(section):
    model = MODELS[section]
    name = next((name for name, sections in PLATFORM_FILES.items() if section in sections), None)
    written_in = tomllib.loads(uncommented(platform_file(name) if name else main_file()))
    for part in () if section == "platform" else table(section).split("."):
        written_in = written_in[part]
    assert set(model.model_fields) == set(written_in)
    for option in options(model, section):
        default = model.model_fields[option.name].default
        if not option.live and default not in (PydanticUndefined, None, "", (), {}):
            written = written_in[option.name]
            assert (tuple(written) if isinstance(written, list) else written) == (
                str(default) if isinstance(default, Path) else default
            )


@pytest.mark.parametrize("section", MODELS)
def test_the_page_names_the_default_of_the_model_and_not_what_the_example_says(section):
    for option, about in told(MODELS[section], section):
        field = MODELS[section].model_fields[option.name]
        named = re.findall(r"Default: `(.*?)`\.", about)
        if field.is_required():
            assert (named, about.count("**Required.**")) == ([], 1), option.name
        elif field.default in (None, "", (), {}):
            assert (named, about.count("Default: ")) == ([], 1), option.name
        else:
            default = list(field.default) if isinstance(field.default, tuple) else field.default
            expected = str(default) if isinstance(default, Path) else default
            assert [tomllib.loads(f"it = {text}")["it"] for text in named] == [expected], option.name


@pytest.mark.parametrize("model", MODELS.values())
def test_every_option_is_described(model):
    for name, field in model.model_fields.items():
        assert field.description, name
        assert field.description.endswith("."), name


def test_no_example_holds_a_secret():
    for path in CONF.rglob("*.toml"):
        for line in uncommented(path.read_text()).splitlines():
            if match := re.match(r"(password|master_key|ssh_identity|identity) = (.*)", line):
                assert re.fullmatch(r'\{credential = "[a-z_-]+"\}', match[2]), line


def plan(name):
    ranges = tomllib.loads((CONF / "numbering" / name).read_text())["ranges"]
    return NumberingPlan("86" if name == "cn.toml" else "1", tuple(NumberRange(**entry) for entry in ranges))


@pytest.mark.parametrize(
    ("number", "legal"),
    [
        ("8613912345678", True),
        ("8614512345678", True),
        ("8619912345678", True),
        ("8610641234567", False),
        ("861064123456789", True),
        ("861440123456789", True),
        ("8614401234567", False),
        ("861481234567890", True),
        ("861491234567890", False),
        ("8612345678901", False),
        ("861012345678", False),
    ],
)
def test_plan_of_china_knows_mobile_and_iot_numbers(number, legal):
    assert (plan("cn.toml").canonical(number, 1, 1, AddressRules()) == number) is legal


@pytest.mark.parametrize(("number", "legal"), [("12025550123", True), ("11025550123", False), ("1202555012", False)])
def test_plan_of_north_america_knows_its_numbers(number, legal):
    assert (plan("nanp.toml").canonical(number, 1, 1, AddressRules()) == number) is legal
