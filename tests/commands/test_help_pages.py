"""The help of every command on narrow and wide terminals."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable

import pytest

from refseg_cli import app
from refseg_cli.app import main
from refseg_cli.commands import _help
from refseg_cli.commands._spec import read_app
from refseg_cli.errors import FOUND

Capture = pytest.CaptureFixture[str]
Page = Callable[[tuple[str, ...], int], str]

COMMANDS = [command.words[1:] for command in read_app(app.app, "refseg").walk()]


@pytest.fixture
def page(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> Page:
    """The help of a command on a terminal of so many columns."""

    def show(words: tuple[str, ...], columns: int) -> str:
        monkeypatch.setenv("COLUMNS", str(columns))
        assert main([*words, "--help"]) == FOUND
        return capsys.readouterr().out

    return show


@pytest.mark.parametrize("words", COMMANDS, ids=" ".join)
def test_no_line_is_too_wide_and_no_word_is_broken_or_left_out(
    page: Page, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...]
) -> None:
    narrow = {columns: page(words, columns) for columns in (40, 80, 120)}
    monkeypatch.setattr(_help, "WIDEST", 10_000)
    whole = pieces(page(words, 10_000))
    for columns, text in narrow.items():
        assert max(map(len, text.splitlines())) < columns
        assert pieces(re.sub(r" \\\n", "\n", text)) == whole


def pieces(text: str) -> list[str]:
    """Words, and what is between the bars and commas of a list."""
    return re.findall(r"[^\s|,]+[|,]?|[|,]", text)


def test_a_broken_example_is_the_same_command(page: Page) -> None:
    text = page(("predict",), 40)
    example = next(iter(re.findall(r"^ +refseg predict photos/(?:.*\\\n)+.*$", text, re.MULTILINE)))
    assert example.count("\\\n") > 1
    assert shlex.split(example.replace("\\\n", "")) == [
        *("refseg", "predict", "photos/", "-p", "a dog", "-p", "a cat", "-o", "masks/{stem}-{phrase}.png", "--resume")
    ]


def test_what_an_option_does_stands_beside_it_where_there_is_room(page: Page) -> None:
    assert re.search(r"^  --force {20,}Replace existing files\.$", page(("predict",), 80), re.MULTILINE)
    assert "\n  --force\n      Replace existing files.\n" in page(("predict",), 40)
    assert "\n    2  An error; one line on standard\n       error says which.\n" in page(("predict",), 40)


def test_choices_are_broken_after_a_bar(page: Page) -> None:
    assert re.search(r"-f, --format <png\|.*\|\n      \w", page(("predict",), 80))
