"""docs/options.rst, made from the models.

``python -m kmp_smsd.config.page docs/options.rst`` writes it anew.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from typing import Any

from kmp_smsd.config.changes import reload_of
from kmp_smsd.config.example import MAIN_SECTIONS, PLATFORM_SECTIONS, Option, options
from kmp_smsd.config.generating import only_argument

_WIDTH = 118

_TITLES = {
    "smsc.north": "[smsc.NAME]",
    "gateway.data": "[gateway.NAME]",
    "platform": "outside of sections",
    "channel.ssh": '[channel], kind = "ssh"',
    "channel.tls": '[channel], kind = "tls"',
}
#: Each file, and its sections as the example has them.
FILES = {"kmp-smsd.toml": MAIN_SECTIONS, "platforms.d/NAME.toml": PLATFORM_SECTIONS}


def page() -> str:
    """docs/options.rst."""
    text = _heading("Every option", "=", overline=True)
    text += ".. Made from kmp_smsd/config/models.py: python -m kmp_smsd.config.page docs/options.rst\n\n"
    text += _wrapped(
        "`Configuration <configuration.rst>`__ tells how the files are read, `Operations <operations.rst>`__ what a "
        "reload does."
    )
    text += "\n.. contents::\n   :local:\n\n"
    for file, sections in FILES.items():
        text += _heading(file, "=")
        for section, model in sections.items():
            text += _heading(title(section), "-")
            text += f"*Changed at a reload: {reload_of(model)}.*\n\n"
            for option, about in told(model, section):
                text += f"``{option.name}``\n" + _wrapped(about.replace("`", "``"), "  ") + "\n"
    return text.rstrip("\n") + "\n"


def title(section: str) -> str:
    """What people call a section of the example."""
    return _TITLES.get(section, f"[{section}]")


def told(model: Any, section: str) -> Iterator[tuple[Option, str]]:
    """Each option of a section with what is said about it, in which `...` is to be read as it stands."""
    for option in options(model, section):
        about = option.about
        if model.model_fields[option.name].is_required():
            about += " **Required.**"
        elif "Default" not in about:
            about += f" Default: `{option.default}`."  # the example may have to say something else
        if (reload := reload_of(model, option.name)) is not reload_of(model):
            about += f" *Changed at a reload: {reload}.*"
        yield option, about


def _wrapped(text: str, indent: str = "") -> str:
    lines = textwrap.wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
    return "".join(f"{line}\n" for line in lines)


def _heading(text: str, mark: str, *, overline: bool = False) -> str:
    line = mark * len(text) + "\n"
    return (line if overline else "") + f"{text}\n{line}\n"


if __name__ == "__main__":
    path = only_argument("python -m kmp_smsd.config.page FILE, such as docs/options.rst")
    path.write_text(page(), encoding="utf-8")
