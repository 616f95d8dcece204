"""What Tab does in bash, zsh and fish: each shell reads its script and asks the program that is installed."""

from __future__ import annotations

import os
import resource
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from kmp_smsd.cli.completing import SCRIPTS, script
from kmp_smsd.cli.program import COMMANDS
from tests.cli.site import HOST_KEY, PLATFORM

CPU_S = 0.3

BASH = """
source {script}
COMP_WORDS=({words})
COMP_CWORD={last}
_kmp_smsd_completion kmp-smsd
printf '%s\\n' "${{COMPREPLY[@]}}"
"""
# What zsh's own system of completion would be asked to offer.
ZSH = """
compdef() {{ :; }}
_path_files() {{ print -l file; }}
compadd() {{ shift $(( ${{@[(i)-a]}} )); print -l -- "${{(@P)1}}"; }}
_describe() {{ print -l -- "${{(@P)3}}"; }}
source {script}
words=({words})
CURRENT={one_more}
_kmp_smsd_completion
"""
FISH = "source {script}; complete -C {line}"

PROGRAM = Path(sys.executable).with_name("kmp-smsd")


@pytest.fixture
def installation(site):
    """A configuration with a link, a gateway and two platforms, and a file that is no platform."""
    site.link(1)
    with site.config.open("a") as config:
        config.write("[gateway.data]\n")
    for name in ("metering", "meters-2"):
        site.write(f"platforms.d/{name}.toml", PLATFORM.format(host="192.0.2.1", host_key=HOST_KEY))
    site.write("platforms.d/metering.toml~", "")
    site.write("platforms.d/.hidden.toml", "")
    return site


def environment(**more: str) -> dict[str, str]:
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    return {**os.environ, "PATH": path, **more}


def shell(name: str) -> str:
    found = shutil.which(name)
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"CI must have {name}: scripts/install-peers")
        pytest.skip(f"{name} is not installed")
    return found


def completed(name: str, directory: Path, *words: str, **env: str) -> list[str]:
    """What `name`, a shell, offers for the last of `words`."""
    path = directory / "script"
    path.write_text(script(name), encoding="utf-8")
    said = {"bash": BASH, "zsh": ZSH, "fish": FISH}[name].format(
        script=shlex.quote(str(path)),
        words=" ".join(map(shlex.quote, words)),
        line=shlex.quote(" ".join(words)),
        last=len(words) - 1,
        one_more=len(words),
    )
    plain = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[name]
    env = environment(HOME=str(directory), **env)
    done = subprocess.run([shell(name), *plain, "-c", said], env=env, capture_output=True, text=True, check=False)
    assert done.stderr == ""
    return [line.split("\t")[0].split(":")[0] for line in done.stdout.splitlines() if line]


every_shell = pytest.mark.parametrize("name", SCRIPTS)


@every_shell
def test_commands_are_completed(name, tmp_path):
    assert sorted(completed(name, tmp_path, "kmp-smsd", "re")) == sorted(
        one for one in COMMANDS if one.startswith("re")
    )
    assert completed(name, tmp_path, "kmp-smsd", "platforms", "t") == ["test", "trust"]


@every_shell
def test_options_and_their_values_are_completed(name, tmp_path):
    assert completed(name, tmp_path, "kmp-smsd", "intake", "--log-f") == ["--log-format"]
    assert completed(name, tmp_path, "kmp-smsd", "intake", "--log-level", "w") == ["warning"]


@every_shell
def test_names_of_platforms_are_completed_from_the_files(name, tmp_path, installation):
    config = str(installation.config)
    words = ("kmp-smsd", "--config", config, "platforms", "test", "me")
    assert completed(name, tmp_path, *words) == ["metering", "meters-2"]
    words = ("kmp-smsd", "outbox", "list", "--platform", "meteri")
    assert completed(name, tmp_path, *words, KMP_SMSD_CONFIG=config) == ["metering"]


def test_names_of_links_are_completed_from_the_configuration(tmp_path, installation):
    words = ("kmp-smsd", "--config", str(installation.config))
    assert completed("bash", tmp_path, *words, "trace", "l") == ["lab"]
    assert completed("bash", tmp_path, *words, "pause", "smsc", "") == ["lab"]
    assert completed("bash", tmp_path, *words, "pause", "platform", "meters") == ["meters-2"]


def test_names_of_gateways_are_completed_from_the_configuration(tmp_path, installation):
    words = ("kmp-smsd", "--config", str(installation.config), "sync", "submit", "--gateway", "")
    assert completed("bash", tmp_path, *words) == ["data"]


@pytest.mark.parametrize("text", [None, "[gateway", "gateway = 7", "\udcff"])
def test_a_configuration_that_cannot_be_read_has_no_names_and_makes_no_noise(tmp_path, text):
    config = tmp_path / "kmp-smsd.toml"
    if text is not None:
        config.write_bytes(text.encode("utf-8", "surrogateescape"))
    for words in (("sync", "submit", "--gateway", ""), ("platforms", "test", "")):
        assert completed("bash", tmp_path, "kmp-smsd", "--config", str(config), *words) == []


IMPORTED = """
import atexit, sys
slow = {"twisted", "paramiko", "pydantic", "cryptography", "pysqlite3", "sqlite_utils"}
atexit.register(lambda: print("imported:", *sorted({name.split(".")[0] for name in sys.modules} & slow)))
"""


@pytest.mark.parametrize("words", [[""], *([name, "-"] for name in COMMANDS), ["platforms", "test", ""]])
def test_nothing_slow_is_imported_to_complete_a_word(site, words):
    env = environment(**site.customized(IMPORTED))
    env |= {"_KMP_SMSD_COMPLETE": "bash_complete", "COMP_CWORD": str(len(words))}
    env["COMP_WORDS"] = "\n".join(["kmp-smsd", *words])
    done = subprocess.run([PROGRAM], env=env, capture_output=True, text=True, check=True)
    *offered, imported = done.stdout.splitlines()
    assert imported == "imported:"
    assert any(line.startswith("plain,") for line in offered) or words[-1] == ""


def test_a_word_is_completed_at_once(installation):
    env = environment(_KMP_SMSD_COMPLETE="bash_complete", COMP_CWORD="3", KMP_SMSD_CONFIG=str(installation.config))
    env["COMP_WORDS"] = "kmp-smsd\nplatforms\ntest\n"

    def took_s() -> float:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        done = subprocess.run([PROGRAM], env=env, capture_output=True, text=True, check=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        assert done.stdout == "plain,metering\nplain,meters-2\n"
        return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    assert min(took_s() for _ in range(5)) < CPU_S  # the least: others use this machine as well


@every_shell
def test_the_script_is_what_the_shell_can_read(name, tmp_path):
    subprocess.run([sys.executable, "-m", "kmp_smsd.cli.completing", tmp_path], check=True)
    path = tmp_path / SCRIPTS[name]
    assert path.read_text(encoding="utf-8") == script(name)
    subprocess.run([shell(name), "--no-execute" if name == "fish" else "-n", path], check=True)
