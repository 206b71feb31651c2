"""The reader of `.env` files."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyferry_cli.dotenv import Assignment, DotenvError, parse


def read(text: str) -> list[tuple[int, str, str]]:
    found = list(parse(text))
    assert not any(each.refused for each in found), found
    return [(each.line, each.name, each.value) for each in found]


def test_a_file_as_people_write_them() -> None:
    text = """\ufeff# keys of the app

export GEMINI=AIza-one
  MAPS = two words   # of the maps team
HASH="a#b"
EMPTY=
QUOTED='as ${it} is # \\n'
ESCAPED="a\\"b\\\\c\\n\\td $ 'f'" # g
PEM="-----BEGIN-----
line = 2
-----END-----"
SINGLE='one
two'
LAST=a=b=="""
    assert read(text) == [
        (3, "GEMINI", "AIza-one"),
        (4, "MAPS", "two words"),
        (5, "HASH", "a#b"),
        (6, "EMPTY", ""),
        (7, "QUOTED", "as ${it} is # \\n"),
        (8, "ESCAPED", "a\"b\\c\n\td $ 'f'"),
        (9, "PEM", "-----BEGIN-----\nline = 2\n-----END-----"),
        (12, "SINGLE", "one\ntwo"),
        (14, "LAST", "a=b=="),
    ]
    assert read(text.replace("\n", "\r\n")) == read(text)


def test_nothing() -> None:
    for text in ("", "\n", "\n\n# A=1\n", " \t"):
        assert read(text) == []


@pytest.mark.parametrize(
    ("text", "line", "reason"),
    [
        ("A=1\nB\n", 2, "not NAME=VALUE"),
        ("=1", 1, "not NAME=VALUE"),
        ("export =1", 1, "not NAME=VALUE"),
        (" \t= 1", 1, "not NAME=VALUE"),
        ("A" * 1_000_000, 1, "not NAME=VALUE"),
        ("A=1\n\nB='open\nC=2\n", 3, "single quote"),
        ('A="open\nB=2\n', 1, "double quote"),
        ('A="open\\"', 1, "double quote"),
        ('A="one" two', 1, "behind the closing quote"),
        ("A='it\\'s'", 1, "behind the closing quote"),
        ('A="one"# no space', 1, "behind the closing quote"),
        ("A='one\ntwo' three\n", 1, "behind the closing quote"),
    ],
)
def test_a_file_that_can_be_read_in_two_ways_is_refused(text: str, line: int, reason: str) -> None:
    with pytest.raises(DotenvError, match=reason) as refused:
        list(parse(text))
    assert refused.value.line == line
    assert "open" not in str(refused.value)


@pytest.mark.parametrize(
    "value",
    [
        "${OTHER}",
        "postgres://${USER}:x@host",
        '"${OTHER}"',
        '"a\n${OTHER}"',
        '"\\${OTHER}"',
        '"\\$"',
        "'a\\'",
        "'a\\\\b'",
        "$(whoami)",
        '"$(whoami)"',
        '"\\d"',
        "`whoami`",
        "\\${OTHER}",
        "1\rC=2",
        "1\0",
        # flutter_dotenv, docker compose and Ruby's dotenv expand these, others do not
        *("pa$word", "$HOME/x", "$2b$10$abc", '"pa$word"', "a$_"),
        *("a#b", "a#", "a#b # c"),
        *('abc"def"', "abc'def'", "abc`def`", "\u201cabc\u201d", "\u2018abc\u2019"),
        *("a\\b", "a\\ b", "\u00a0abc", "abc\u00a0", "abc\u200b", "\ufeffabc", "abc\u3000"),
    ],
)
def test_what_other_readers_would_replace_is_not_taken_for_a_value(value: str) -> None:
    first, second = parse(f"A={value}\nB=1\n")
    assert first.refused
    assert first.value == ""
    assert (second.name, second.value, second.refused) == ("B", "1", "")


def test_a_value_is_not_shown() -> None:
    (found,) = parse("A=secret")
    assert "secret" not in repr(found)


def double_quoted(value: str) -> str:
    for plain, escaped in (("\\", "\\\\"), ('"', '\\"'), ("\r", "\\r")):
        value = value.replace(plain, escaped)
    return f'"{value}"'


NAMES = st.from_regex(r"[A-Za-z_][A-Za-z0-9_.-]{0,20}", fullmatch=True).filter(
    lambda name: name != "export"
)


TEXT = st.text().filter(lambda text: not re.search(r"\$[{(A-Za-z0-9_]", text))


@given(st.lists(st.tuples(NAMES, TEXT)))
def test_what_is_written_is_read(pairs: list[tuple[str, str]]) -> None:
    text = "".join(f"{name}={double_quoted(value)}\n# a comment\n" for name, value in pairs)
    assert [(each.name, each.value) for each in parse(text)] == pairs
    assert not any(each.refused for each in parse(text))


@given(NAMES, st.text(st.characters(exclude_characters="'\r\ufeff")))
def test_single_quotes_leave_everything_as_it_is(name: str, value: str) -> None:
    (found,) = parse(f"{name}='{value}'\n")
    if "\\\\" not in value and not value.endswith("\\"):
        assert found == Assignment(1, name, value)
    else:
        assert found.refused


@given(st.text(alphabet="AB=\"'\\$\n# \t{}e"))
def test_anything_is_read_or_refused(text: str) -> None:
    lines = text.count("\n") + 1
    found: list[Assignment] = []
    try:
        found = list(parse(text))
    except DotenvError as error:
        refused_on = error.line
    else:
        refused_on = 1
    numbers = [each.line for each in found]
    assert numbers == sorted(set(numbers))
    assert all(1 <= number <= lines for number in [*numbers, refused_on])
