"""docs/options.rst, made from the models.

``python -m kmp_smsd.config.page docs/options.rst`` writes it anew.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from kmp_smsd.config.changes import reload_of
from kmp_smsd.config.example import Option, options
from kmp_smsd.config.gateway import Gateway
from kmp_smsd.config.link import Link
from kmp_smsd.config.models import Control, Secrets, Storage
from kmp_smsd.config.monitoring import Monitoring
from kmp_smsd.config.numbering import Numbering
from kmp_smsd.config.platform import Platform
from kmp_smsd.config.section import Reload
from kmp_smsd.config.sync import Sync

_WIDTH = 118

_FILES: tuple[tuple[str, tuple[tuple[str, str, Any], ...]], ...] = (
    (
        "kmp-smsd.toml",
        (
            ("[storage]", "storage", Storage),
            ("[secrets]", "secrets", Secrets),
            ("[numbering]", "numbering", Numbering),
            ("[sync]", "sync", Sync),
            ("[control]", "control", Control),
            ("[monitoring]", "monitoring", Monitoring),
            ("[smsc.NAME]", "smsc.north", Link),
            ("[gateway.NAME]", "gateway.data", Gateway),
        ),
    ),
    (
        "platforms.d/NAME.toml",
        (
            ("outside of sections", "platform", Platform),
            ("[channel]", "channel", Platform.model_fields["channel"].annotation),
        ),
    ),
)


def page() -> str:
    """docs/options.rst."""
    text = _heading("Every option", "=", overline=True)
    text += ".. Made from kmp_smsd/config/models.py: python -m kmp_smsd.config.page docs/options.rst\n\n"
    text += _wrapped(
        "`Configuration <configuration.rst>`__ tells how the files are read, `Operations <operations.rst>`__ what a "
        "reload does."
    )
    text += "\n.. contents::\n   :local:\n\n"
    for file, sections in _FILES:
        text += _heading(file, "=")
        for title, section, model in sections:
            text += _heading(title, "-")
            reload = getattr(model, "reload", Platform.reload)
            text += f"*Changed at a reload: {reload}.*\n\n"
            for option in options(model, section):
                text += "".join(_entry(model, option, reload))
    return text.rstrip("\n") + "\n"


def _entry(model: Any, option: Option, of_section: Reload) -> Iterator[str]:
    yield f"``{option.name}``\n"
    about = option.about.replace("`", "``")
    field = model.model_fields[option.name]
    if field.is_required():
        about += " **Required.**"
    elif "Default" not in about:
        about += f" Default: ``{option.value}``."
    if (reload := reload_of(model, option.name)) is not of_section:
        about += f" *Changed at a reload: {reload}.*"
    yield _wrapped(about, "  ") + "\n"


def _wrapped(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"{line}\n" for line in lines)


def _heading(text: str, mark: str, *, overline: bool = False) -> str:
    line = mark * len(text) + "\n"
    return (line if overline else "") + f"{text}\n{line}\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), encoding="utf-8")
