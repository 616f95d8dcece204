"""The schema as numbered SQL files; forward only."""

from __future__ import annotations

from collections.abc import Callable
from importlib import resources
from typing import Any

from pysqlite3 import dbapi2 as sqlite3
from sqlite_utils import Migrations

MIGRATIONS = Migrations("kmp-smsd")


def known() -> list[str]:
    """The names of all migrations that this program knows, in order."""
    return [one.name for one in MIGRATIONS._migrations]  # sqlite-utils tells them of a database alone


def _script(text: str) -> Callable[[Any], None]:
    def run(database: Any) -> None:
        statement = ""
        for line in text.splitlines(keepends=True):  # executescript would commit the migration's transaction
            statement += line
            if sqlite3.complete_statement(statement):
                database.execute(statement)
                statement = ""

    return run


for _file in sorted(resources.files("kmp_smsd.storage").joinpath("migrations").iterdir(), key=lambda file: file.name):
    if _file.name.endswith(".sql"):
        MIGRATIONS(name=_file.name.removesuffix(".sql"))(_script(_file.read_text(encoding="utf-8")))
