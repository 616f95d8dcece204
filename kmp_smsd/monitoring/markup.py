"""HTML from Python. What is not markup already is text, and is escaped."""

from __future__ import annotations

from html import escape

NOTHING = "-"  # where there is nothing to show


class Markup(str):
    """HTML as it is."""

    __slots__ = ()


Child = Markup | str | int | None  # None: nothing


def text(*children: Child) -> Markup:
    """`children` one after the other."""
    return Markup("".join(one if isinstance(one, Markup) else escape(str(one)) for one in children if one is not None))


def element(name: str, *children: Child, **attributes: str | None) -> Markup:
    """``<name attributes>children</name>``. ``class_`` and ``data_label`` are ``class`` and ``data-label``."""
    written = "".join(
        f' {attribute.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for attribute, value in attributes.items()
        if value is not None
    )
    return Markup(f"<{name}{written}>{text(*children)}</{name}>")
