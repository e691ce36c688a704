"""What goes where: stdout is for data, stderr for talk, and escape codes for terminals only."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from refseg_cli.console import SECONDS_BETWEEN_LINES, Console, Lines
from refseg_cli.errors import CLOSED_PIPE, RefsegError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def console(monkeypatch: pytest.MonkeyPatch) -> Console:
    for name in ("NO_COLOR", "FORCE_COLOR", "TTY_COMPATIBLE", "GITHUB_ACTIONS", "RANK"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    return Console()


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_data_on_stdout_and_talk_on_stderr(console: Console, capsys: Capture) -> None:
    console.result("answer")
    console.json({"a": 1})
    console.table("t", ["x"], [[1]])
    console.info("by the way")
    console.warn("careful")
    console.error(RefsegError("no such thing", hint="try\nanother"))
    streams = capsys.readouterr()
    assert streams.out == 'answer\n{"a": 1}\nt\nx\n1\n'
    assert streams.err == "by the way\nrefseg: warning: careful\nrefseg: no such thing (try another)\n"


def test_a_line_is_written_whole(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two threads that talk at once must not share a line."""
    written: list[str] = []
    stream = Terminal()
    monkeypatch.setattr(stream, "write", written.append)
    monkeypatch.setattr("sys.stderr", stream)
    console.color = "never"
    console.warn("careful")
    console.error("broken")
    console.block("one\ntwo\n")
    assert written == ["refseg: warning: careful\n", "refseg: broken\n", "one\ntwo\n"]


def test_quiet_leaves_errors_and_data_asked_for(console: Console, capsys: Capture) -> None:
    console.quiet = console.verbose = True
    console.result("answer")
    console.table("t", ["x"], [[1]])
    console.info("i")
    console.detail("d")
    console.warn("w")
    with console.progress() as progress:
        progress("stage", 5, 5)
    assert capsys.readouterr() == ("", "")
    console.json([1])
    console.error("broken")
    assert capsys.readouterr() == ("[1]\n", "refseg: broken\n")


def test_details_only_when_verbose(console: Console, capsys: Capture) -> None:
    console.detail("hidden")
    console.verbose = True
    console.detail("shown")
    assert capsys.readouterr().err == "shown\n"


def test_only_the_first_process_talks_but_all_may_fail(
    console: Console, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    console.result("answer")
    console.json({})
    console.warn("w")
    console.error("broken")
    assert capsys.readouterr() == ("", "refseg: broken\n")


def test_plain_table_aligns_and_puts_numbers_right(console: Console, capsys: Capture) -> None:
    console.table("Counts", ["split", "images", "share"], [["val", 1500, 7.125], ["testA", 7, None]])
    assert capsys.readouterr().out == "Counts\nsplit  images  share\nval      1500   7.12\ntestA       7      -\n"


def test_what_others_have_named_breaks_no_line_and_steers_no_terminal(console: Console, capsys: Capture) -> None:
    name = "a\nb\x1b[31m\x9b2J Größe 犬\u200d"
    shown = r"a\nb\x1b[31m\x9b2J Größe 犬" + "\u200d"
    console.table("", ["name", "n"], [(name, 1)])
    for say in (console.info, console.warn):
        say(name)
    console.error(RefsegError("no " + name))
    out, err = capsys.readouterr()
    assert out.splitlines()[1].startswith(shown)
    assert err.split("\n") == [shown, f"refseg: warning: {shown}", rf"refseg: no {shown}".replace(r"\n", " "), ""]


def test_table_on_a_terminal_keeps_every_word(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    console.table(
        "[bold]T",
        ["a[red]"],
        [
            [
                "[x]",
            ]
        ],
    )
    assert all(text in terminal.getvalue() for text in ("[bold]T", "a[red]", "[x]"))


@pytest.mark.parametrize(("longest", "looks"), [(31, "framed"), (50, "bare"), (60, "blocks"), (100, "blocks")])
def test_names_are_never_cut_on_a_terminal(
    console: Console, monkeypatch: pytest.MonkeyPatch, longest: int, looks: str
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", "80")
    names = ["a", "n" * longest]
    rows = [[name, "some words that may be broken between them", "Transformer; " * 9, 12.5] for name in names]
    console.table("T", ["name", "text", "more", "number"], rows, whole=["name"])
    lines = re.sub(r"\x1b\[\d+m", "", terminal.getvalue()).splitlines()
    assert any("n" * longest in line for line in lines)
    assert "…" not in terminal.getvalue()
    assert longest > 80 or max(len(line) for line in lines if "Transformer" not in line) <= 80
    assert ("┏" in terminal.getvalue()) == (looks == "framed")
    assert ("name    a" in lines) == (looks == "blocks")
    words = " ".join(terminal.getvalue().split())
    assert looks == "blocks" or all(word in words for word in ("12.50", "number", "Transfor"))
    if looks == "blocks":
        assert lines[:6] == ["T", "", "name    a", f"text    {rows[0][1]}", f"more    {rows[0][2]}", "number  12.50"]
        assert lines[6:8] == ["", f"name    {names[1]}"]


@pytest.mark.parametrize("columns", [30, 40, 41, 44, 47, 60, 80])
def test_a_table_of_any_width_keeps_every_letter(
    console: Console, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setenv("COLUMNS", str(columns))
    console.table("", ["protocol", "overall IoU", "how"], [["refseg", "3.05 cIoU", "original size, masks as given"]])
    lines = re.sub(r"\x1b\[[\d;]*m", "", terminal.getvalue()).splitlines()
    assert max(map(len, lines)) <= columns or columns < len("how  original size, masks as given") + 12
    assert sorted(re.sub(r"[^\w,.]", "", "".join(lines))) == sorted(
        "protocoloverallIoUhowrefseg3.05cIoUoriginalsize,masksasgiven"
    )


def test_text_that_the_stream_cannot_hold_is_escaped(console: Console, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file name of bytes that are no UTF-8 reaches us with surrogates; in JSON their escapes are the right ones."""
    for encoding, shown in (("utf-8", "Tür"), ("ascii", "T\\xfcr")):
        raw = io.BytesIO()
        monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(raw, encoding))
        console.result("Tür-\udce9.png")
        console.json({"image": "\udce9.png"})
        plain, line = raw.getvalue().decode(encoding).splitlines()
        assert plain == f"{shown}-\\udce9.png"
        assert json.loads(line) == {"image": "\udce9.png"}


@pytest.mark.parametrize("say", ["result", "json", "table", "binary"])
def test_data_for_a_closed_stdout_is_an_error(console: Console, monkeypatch: pytest.MonkeyPatch, say: str) -> None:
    monkeypatch.setattr(sys, "stdout", None)  # as Python finds it after `>&-`
    given = {"result": ("text",), "json": (1,), "table": ("T", ["x"], [[1]]), "binary": (b"x",)}[say]
    with pytest.raises(RefsegError, match="standard output is closed"):
        getattr(console, say)(*given)
    assert not console.on_terminal()


def test_talk_to_a_closed_stderr_is_not_heard(
    console: Console, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stderr", None)
    console.warn("odd")
    console.error("broken")
    with console.progress() as progress:
        progress("train", 1, 1)
    monkeypatch.undo()
    assert capsys.readouterr() == ("", "")  # least of all on stdout


@pytest.mark.parametrize("broken", [errno.EPIPE, errno.ENOSPC])
def test_talk_to_a_stderr_that_breaks_costs_nothing(
    console: Console, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, broken: int
) -> None:
    class Broken(io.StringIO):
        def flush(self) -> None:
            raise OSError(broken, os.strerror(broken))

        def fileno(self) -> int:
            return file.fileno()

    with (tmp_path / "stderr").open("w") as file:
        monkeypatch.setattr(sys, "stderr", Broken())
        console.info("found")
        console.error("broken")
        monkeypatch.undo()
        assert os.fstat(file.fileno()).st_rdev == os.stat(os.devnull).st_rdev  # where later lines go  # noqa: PTH116


@dataclass
class Report:
    path: Path
    score: float


def test_json_is_one_line_of_what_json_can_hold(console: Console, capsys: Capture) -> None:
    console.json({"r": Report(Path("a/b"), 0.5), "n": np.float32(2), "i": np.int64(3), "u": "Tür\n"})
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert json.loads(text) == {"r": {"path": "a/b", "score": 0.5}, "n": 2.0, "i": 3, "u": "Tür\n"}
    with pytest.raises(ValueError, match="JSON"):
        console.json({"x": float("nan")})


@pytest.mark.parametrize(
    ("color", "environment", "terminal", "colored"),
    [
        ("auto", {}, True, True),
        ("auto", {}, False, False),
        ("auto", {"NO_COLOR": "1"}, True, False),
        ("auto", {"TERM": "dumb"}, True, False),
        ("auto", {"FORCE_COLOR": "1", "GITHUB_ACTIONS": "true", "TTY_COMPATIBLE": "1"}, False, False),
        ("always", {"NO_COLOR": "1"}, False, True),
        ("never", {}, True, False),
    ],
)
def test_when_it_colours(
    console: Console,
    monkeypatch: pytest.MonkeyPatch,
    color: str,
    environment: dict[str, str],
    terminal: bool,
    colored: bool,
) -> None:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    console.color = color  # type: ignore[assignment]
    console.warn("careful")
    assert ("\033[" in stream.getvalue()) is colored


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_every_ten_seconds_and_at_the_end_of_a_stage() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    for step in range(0, 41):
        clock.now = step * 0.5
        lines("train", step, 40, epoch=3, loss=0.41234)
    assert said == [
        "train step=20/40 epoch=3 loss=0.4123 rate=2/s eta=0:00:10",
        "train step=40/40 epoch=3 loss=0.4123 rate=2/s",
    ]
    assert clock.now == 2 * SECONDS_BETWEEN_LINES


def test_a_line_takes_the_engines_own_rate_and_does_without_a_total() -> None:
    said: list[str] = []
    clock = Clock()
    lines = Lines(said.append, clock)
    lines("read", 0, 0)
    clock.now = 3700.0
    lines("read", 37, 0, **{"img/s": 52.1})
    lines("write", 1000, 4000)  # resumed at 1000: the rate counts from there
    clock.now += 100
    lines("write", 1001, 4000)
    assert said == ["read step=37 img/s=52.1", "write step=1001/4000 rate=0.01/s eta=83:18:20"]


def test_a_stage_that_stops_early_says_where() -> None:
    said: list[str] = []
    lines = Lines(said.append, Clock())
    lines("train", 1, 9)
    lines("train", 2, 9, loss="inf")
    lines("val", 1, 1)
    lines("train", 3, 9)
    lines.close()
    assert [line.split()[:2] for line in said] == [["train", "step=2/9"], ["val", "step=1/1"], ["train", "step=3/9"]]


def test_progress_off_a_terminal_is_plain_text(console: Console, capsys: Capture) -> None:
    with console.progress() as progress:
        progress("export", 1, 1)
    assert capsys.readouterr() == ("", "export step=1/1\n")
    console.progress_style = "never"
    with console.progress() as progress:
        progress("export", 1, 1)
    assert capsys.readouterr() == ("", "")


def test_progress_on_a_terminal_draws_there_and_nowhere_else(
    console: Console, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with console.progress() as progress:
        for epoch in (1, 2):
            progress("train", 3 * epoch, 6, loss=0.25)
            progress("val", 0, 2)
            progress("val", 2, 2)
            console.warn("above the bars")
            console.result("data")
    drawn = terminal.getvalue()
    assert "loss=0.25" in drawn
    assert "6/6" in drawn
    assert "refseg: warning: above the bars" in drawn
    assert capsys.readouterr().out == "data\ndata\n"
    last = drawn.rpartition("\033[2K")[2]
    assert "val" in last, "one bar for each stage, however often it comes"


def test_a_closed_pipe_ends_with_141_and_no_word() -> None:
    script = (
        "from refseg_cli.console import console\nfor i in range(100000): console.result('x' * 100)\nraise SystemExit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == CLOSED_PIPE


def test_a_picture_goes_down_the_pipe_as_it_is(console: Console, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    console.binary(b"\x89PNG\r\n\x00")
    assert capfdbinary.readouterr().out == b"\x89PNG\r\n\x00"


def test_a_job_of_a_batch_system_talks(console: Console, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    """It has a RANK, but nobody to talk in its place."""
    monkeypatch.setenv("RANK", "3")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    console.result("found")
    assert capsys.readouterr().out == "found\n"
