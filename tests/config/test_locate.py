from __future__ import annotations

import json
import tomllib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kmp_smsd.config.locate import locate

EVERYTHING = '''# a comment [not.a.table]
title = "a # b = [c]"
"quoted.key" = 'C:\\path'
'it-s' = 1
a.b.c = 1.5
a."d.e" = """
one = 1
[two]
"""""
[plain]   # comment
text = \'\'\'
x = 1\'\'\'
date = 1979-05-27 07:32:00Z
list = [
  "one",   # = 1
  [2, 3],

  {x = 1, y.z = [{}, {q = 2}]},
]
[[many]]
name = 1
[[many]]
name = 2
[many.inner]
deep = {}
[[many.inner.more]]
x = 0
[[many]]
[ spaced . "out" ]
k = []
'''


def keys(value, path=()):
    found = {path} if path else set()
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, member in items:
        found |= keys(member, (*path, key))
    return found


def test_each_key_is_found_on_its_line():
    lines = locate(EVERYTHING)
    assert set(lines) == keys(tomllib.loads(EVERYTHING))
    assert lines["title",] == 2
    assert lines["quoted.key",] == 3
    assert lines["a", "b", "c"] == 5
    assert lines["a", "d.e"] == 6
    assert lines["plain",] == 10
    assert lines["plain", "date"] == 13
    assert lines["plain", "list", 0] == 15
    assert lines["plain", "list", 1, 1] == 16
    assert lines["plain", "list", 2, "y", "z", 1, "q"] == 18
    assert lines["many",] == 20
    assert lines["many", 1, "name"] == 23
    assert lines["many", 1, "inner"] == 24
    assert lines["many", 1, "inner", "more", 0, "x"] == 27
    assert lines["many", 2] == 28
    assert lines["spaced", "out", "k"] == 30


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\n\n",
        "a=1",
        "a=[[1],[2]]",
        "a=[[],[[]]]",
        "a={b={c={}}}",
        'a=""\nb=1',
        'a=""""""\nb=1',
        "a=''''''\nb=1",
        'a="""a""\\""""\nb=1',
        'a="""""a"""""\nb=1',
        "a='''''a'''''\nb=1",
        'a="\\\\"\nb="\\""',
        'a=["""a"""", 1, "b", 2]',
        "a=['''a'''', 1, 'b', 2]",
        "1.2=3\n-_=4",
        "a=[1,]\n[b]\n[b.c]",
        "[a.b]\n[a]\nc=1",
        "[[a]]\nb=[]\n[[a]]\nb=[{c=1},{c=2}]",
        "a = 1\r\nb = '''x\r\ny'''\r\nc = 2\r\n",
        '"" = 1\n"\\u00e4" = 2\n\'"\' = 3',
        "a=inf\nb=+1_0.5e-3\nc=07:32:00\nd=true",
    ],
)
def test_keys_found_are_the_keys_of_tomllib(text):
    assert set(locate(text)) == keys(tomllib.loads(text))


def test_deep_nesting_does_not_exhaust_the_stack():
    depth = 5_000
    assert len(locate("a=" + "[" * depth + "]" * depth)) == depth


# Files of every shape, written by a generator that remembers on which line it wrote what.
names = st.sampled_from(["a", "b", "c-1", "3", "x y", "d.e", 'q"', "#", "[t]", "", "=", "ä"])
strings = st.text(st.sampled_from("ab=[]{}#\"'.,\\ \n"), max_size=12)
spaces = st.sampled_from(["", " ", "\t", "  "])


def write_key(name, data):
    if name and all(c.isascii() and (c.isalnum() or c in "-_") for c in name) and data.draw(st.booleans()):
        return name
    return json.dumps(name, ensure_ascii=False)


@st.composite
def values(draw, depth=2):
    """The text of a value."""
    kind = draw(
        st.sampled_from(["number", "basic", "multi", "literal", "array", "table"] if depth else ["number", "basic"])
    )
    if kind == "number":
        return draw(st.sampled_from(["1", "1.5", "true", "1979-05-27", "0x64", "1979-05-27 07:32:00"]))
    if kind == "basic":
        return json.dumps(draw(strings))
    if kind == "multi":
        return '"""' + draw(strings).replace("\\", "\\\\").replace('"""', '""\\"').rstrip('"') + '"""'
    if kind == "literal":
        return "'''" + draw(strings).replace("'", "") + "'''"
    if kind == "array":
        gap = st.sampled_from(["", " ", "\n", " # ] = [\n"])
        members = draw(st.lists(values(depth=depth - 1), max_size=3))
        return "[" + draw(gap) + ("," + draw(gap)).join(members) + draw(gap) + "]"
    members = draw(st.dictionaries(names, values(depth=depth - 1), max_size=3))
    return "{" + ", ".join(f"{json.dumps(k, ensure_ascii=False)} = {v}" for k, v in members.items()) + "}"


@st.composite
def documents(draw):
    statements = draw(
        st.lists(
            st.one_of(
                st.tuples(st.just("key"), st.lists(names, min_size=1, max_size=3), values()),
                st.tuples(st.just("table"), st.lists(names, min_size=1, max_size=3), st.just("")),
                st.tuples(st.just("array"), st.lists(names, min_size=1, max_size=2), st.just("")),
            ),
            max_size=8,
        )
    )
    data = draw(st.data())
    text = ""
    for kind, path, value in statements:
        dot = data.draw(spaces) + "." + data.draw(spaces)
        name = dot.join(write_key(part, data) for part in path)
        line = {"key": f"{name} = {value}", "table": f"[{name}]", "array": f"[[{name}]]"}[kind]
        candidate = text + data.draw(spaces) + line + data.draw(st.sampled_from(["\n", " # x = 1\n", "\n\n", "\r\n"]))
        try:
            tomllib.loads(candidate)
        except tomllib.TOMLDecodeError:
            continue  # defined twice
        text = candidate
    return text


@given(documents())
def test_keys_found_in_any_document_are_the_keys_of_tomllib(text):
    assert set(locate(text)) == keys(tomllib.loads(text))


@given(documents(), st.integers(0, 5))
def test_lines_put_in_front_move_every_key_by_as_many(text, count):
    moved = locate("# = [\n" * count + text)
    assert moved == {path: line + count for path, line in locate(text).items()}


@given(
    st.lists(
        st.tuples(st.sampled_from(["1", '"x"', "[\n1,\n]", '"""\n\n"""', "{a = 1}"]), st.integers(0, 2)), max_size=8
    )
)
def test_line_of_a_key_is_the_line_it_was_written_on(entries):
    text, written = "", {}
    for number, (value, blank) in enumerate(entries):
        text += "\n" * blank
        written[f"k{number}",] = text.count("\n") + 1
        text += f"k{number} = {value}\n"
    assert {path: line for path, line in locate(text).items() if len(path) == 1} == written
