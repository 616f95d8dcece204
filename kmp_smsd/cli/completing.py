"""Completion in shells: names from the configuration, and the scripts for bash, zsh and fish.

``python -m kmp_smsd.cli.completing SHARE`` writes the scripts to where the shells look for them below SHARE, such as
/usr/share. The shell runs kmp-smsd when a word is to be completed: nothing slow may be imported for that, and nothing
is checked. A configuration that cannot be read has no names.
"""

from __future__ import annotations

import tomllib
from contextlib import suppress
from pathlib import Path
from typing import Any

import click
from click.shell_completion import CompletionItem, ShellComplete, get_completion_class

from kmp_smsd.cli.settings import DEFAULT_CONFIG

#: Shell -> where its script is looked for.
SCRIPTS = {
    "bash": "bash-completion/completions/kmp-smsd",
    "zsh": "zsh/vendor-completions/_kmp-smsd",
    "fish": "fish/vendor_completions.d/kmp-smsd.fish",
}


def platforms(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of platforms: those of their files."""
    files = (_config(context).parent / "platforms.d").glob("*.toml")
    return _beginning(incomplete, (file.stem for file in files if not file.name.startswith(".")))


def links(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of links: those of their sections."""
    return _beginning(incomplete, _sections(context, "smsc"))


def gateways(context: click.Context, _: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of gateways: those of their sections."""
    return _beginning(incomplete, _sections(context, "gateway"))


def links_or_platforms(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[CompletionItem]:
    """Names of what the argument `kind` says."""
    return (links if context.params.get("kind") == "smsc" else platforms)(context, parameter, incomplete)


def script(shell: str) -> str:
    """What `shell` has to read before it can complete our commands."""
    made = get_completion_class(shell)
    assert made is not None
    # Not its own `source`, which may ask the shell that happens to be here for its version.
    return ShellComplete.source(made(click.Command("kmp-smsd"), {}, "kmp-smsd", "_KMP_SMSD_COMPLETE"))


def _config(context: click.Context) -> Path:
    return Path(context.find_root().params.get("path") or DEFAULT_CONFIG)


def _sections(context: click.Context, kind: str) -> dict[str, Any]:
    with suppress(OSError, ValueError):
        sections = tomllib.loads(_config(context).read_text(encoding="utf-8")).get(kind)
        if isinstance(sections, dict):
            return sections
    return {}


def _beginning(incomplete: str, names: Any) -> list[CompletionItem]:
    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]


if __name__ == "__main__":
    from kmp_smsd.config.generating import only_argument

    share = only_argument("python -m kmp_smsd.cli.completing SHARE, such as /usr/share")
    for shell, place in SCRIPTS.items():
        path = share / place
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(script(shell), encoding="utf-8")
