"""Manual pages as troff reads them, by the macros of man(7). Pure."""

from __future__ import annotations

import re
import textwrap


def title(name: str, section: int, source: str) -> str:
    """The first line of a page. It has no date: what is made twice from the same version is the same."""
    return f'.TH {name.upper()} {section} "" "{escaped(source)}"\n'


def heading(text: str, *, below: bool = False) -> str:
    return f'.{"SS" if below else "SH"} "{escaped(text)}"\n'


def paragraphs(text: str) -> str:
    """Paragraphs of prose, between empty lines; of indented ones each line stays as it is."""
    return ".PP\n".join(map(_paragraph, re.split(r"\n\s*\n", text.strip("\n"))))


def _paragraph(text: str) -> str:
    if text.startswith("    "):
        return f".RS 4\n.nf\n{_lines(re.sub('^    ', '', text, flags=re.MULTILINE))}.fi\n.RE\n"
    return prose(text)


def prose(text: str) -> str:
    """One paragraph. What stands between backticks or two asterisks is bold, between single ones in italics."""
    pieces = re.split(r"(`+.+?`+|\*+\w.+?\*+)", " ".join(text.split()))
    return _wrapped("".join(_marked(piece) if odd % 2 else escaped(piece) for odd, piece in enumerate(pieces)))


def _marked(piece: str) -> str:
    if piece.startswith("*") and not piece.startswith("**"):
        return f"\\fI{escaped(piece[1:-1])}\\fR"
    return bold(piece.strip("`*"))


def item(term: str, about: str) -> str:
    """A term, in bold, and what is said about it."""
    return f".TP\n{_safe(bold(term))}{prose(about)}"


def bold(text: str) -> str:
    return f"\\fB{escaped(text)}\\fR"


def escaped(text: str) -> str:
    """`text` with nothing in it that troff would obey; its hyphens can be copied into a shell."""
    return text.replace("\\", "\\e").replace("-", "\\-").replace('"', "\\(dq")


def _wrapped(text: str) -> str:
    lines = textwrap.wrap(text, 79, break_long_words=False, break_on_hyphens=False)
    return "".join(map(_safe, lines))


def _lines(text: str) -> str:
    return "".join(_safe(escaped(line)) for line in text.split("\n"))


def _safe(line: str) -> str:
    """One line of output; a dot or an apostrophe at its beginning is no request."""
    return ("\\&" if line.startswith((".", "'")) else "") + line + "\n"
