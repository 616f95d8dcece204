"""From the text of a file to its data, with a sentence for what is no TOML. tomllib decides, up to the first fault.

The commonest fault, text without quotes, leaves no doubt about what was meant, so reading goes on behind it, and one
look at the file shows all the others too.
"""

from __future__ import annotations

import json
import re
import tomllib
from dataclasses import dataclass, field
from typing import Any

from kmp_smsd.config.faults import SECRET_REMEDY, may_be_secret
from kmp_smsd.config.locate import KeyPath, locate

_REPAIRS_MAX = 100  # each one reads the file again

_POSITION = re.compile(r" \(at (?:line (?P<line>\d+), column (?P<column>\d+)|end of document)\)$")
_SECTION = re.compile(r"\s*\[\[?\s*(?P<name>[^\[\]#]+?)\s*\]")
_BARE_VALUE = re.compile(r"""(?P<key>\s*[A-Za-z0-9_.\s"'-]+?)\s*=\s*(?P<value>[^"'\[{#\s][^#]*?|)\s*(?:\#.*)?""")
_TYPOGRAPHIC_QUOTES = "“”„‘’«»"  # of word processors and web pages

_SENTENCES = {
    "Cannot overwrite a value": "this option is given twice",
    "Invalid statement": "this is neither [SECTION] nor NAME = VALUE",
    "Expected '=' after a key in a key/value pair": "this is neither [SECTION] nor NAME = VALUE",
    "Unterminated string": "the closing quote is missing",
    "Illegal character '\\n'": "the closing quote is missing on this line",
    "Unescaped '\\' in a string": "write \\\\ for \\ in quotes, or put the text in 'single quotes'",
    "Unclosed array": "the closing ] is missing",
    "Expected newline or end of document after a statement": "something follows the value: one option per line",
}


@dataclass(slots=True)
class Syntax:
    """What was read: `data` is None where the rest of the file could not be understood."""

    data: dict[str, Any] | None = None
    lines: dict[KeyPath, int] = field(default_factory=dict)
    faults: list[tuple[int, str, str, str]] = field(default_factory=list)  # line, section, option, sentence
    repaired: set[int] = field(default_factory=set)  # lines whose values are not those of the file


def read_toml(text: str) -> Syntax:
    """Read `text`; every fault is in the result, none is raised."""
    syntax = Syntax()
    rows = text.replace("\r\n", "\n").split("\n")
    while True:
        try:
            text = "\n".join(rows)
            syntax.data = tomllib.loads(text)
        except RecursionError:
            syntax.faults.append((0, "", "", "lists or tables are nested too deeply"))
            return syntax
        except tomllib.TOMLDecodeError as error:
            message, line, column = _parts(error, len(rows))
            bare = _BARE_VALUE.fullmatch(rows[line - 1])
            if bare is None or line in syntax.repaired or not _about_a_value(message):
                # A section that is given twice is named by the line itself, not by the one before it.
                last = line + 1 if message.startswith("Cannot declare") else line
                syntax.faults.append((line, _section(rows, last), "", _sentence(message, rows[line - 1], column)))
                return syntax
            key = bare["key"].strip()
            syntax.faults.append((line, _section(rows, line), key, _bare(key, bare["value"])))
            syntax.repaired.add(line)
            rows[line - 1] = f'{bare["key"]} = ""'
            if len(syntax.repaired) == _REPAIRS_MAX:
                return syntax
        except ValueError:  # from int(), which has a limit
            syntax.faults.append((0, "", "", "a number has thousands of digits"))
            return syntax
        else:
            syntax.lines = locate(text)
            return syntax


def _parts(error: tomllib.TOMLDecodeError, rows: int) -> tuple[str, int, int]:
    text = str(error)
    match = _POSITION.search(text)
    message = text[: match.start()] if match else text
    if match is None or match["line"] is None:
        return message, rows, 1
    return message, int(match["line"]), int(match["column"])


def _about_a_value(message: str) -> bool:
    return message in ("Invalid value", "Expected newline or end of document after a statement")


def _section(rows: list[str], line: int) -> str:
    for row in reversed(rows[: line - 1]):
        if match := _SECTION.match(row):
            return match["name"]
    return ""


def _bare(key: str, value: str) -> str:
    if not value:
        return "the value is missing"
    if value.lower() in ("true", "yes", "on", "false", "no", "off"):
        return "write true or false, in lower case"
    if may_be_secret((key,)):
        return SECRET_REMEDY
    if re.fullmatch(r"[0-9]+(\.[0-9]+)?\s*[A-Za-z%]+", value):
        return "a number stands without its unit, which is in the option's name; text needs quotes"
    if '"' in value or "'" in value:
        return "text needs quotes at both ends"
    text = value.strip(_TYPOGRAPHIC_QUOTES)
    what = "quotes" if text == value else "straight quotes"
    return f"text needs {what}: {json.dumps(text[:80], ensure_ascii=not text.isprintable())}"


def _sentence(message: str, row: str, column: int) -> str:
    if message.startswith("Cannot declare"):
        return "this section is given twice"
    if message == "Invalid value" and not row[column - 1 :].strip():
        return "a value or a closing bracket is missing before this line ends"
    if message == "Invalid value":
        return f"no value stands at column {column}: text needs quotes"
    if message == "Unclosed array" and row[: column - 1].strip() and row[column - 1 :].strip():
        return f"a comma, quotes or the closing ] is missing at column {column}"
    if re.fullmatch(r"""Expected [\\"']+""", message):
        return _SENTENCES["Unterminated string"]
    # tomllib's other sentences name a character or a key at most, never a value.
    return _SENTENCES.get(message, f"{message[:1].lower()}{message[1:]}, at column {column}")
