"""The one sink: results go to stdout; progress, warnings and errors go to stderr.

    from refseg_cli.console import console

stdout carries data only, so that a pipe sees nothing else. With `--quiet` only errors appear, and the data that
was asked for by name (`--json`, `-o -`). Of several processes of one training run only the first one speaks.
`rich` is imported where something is drawn on a terminal, never at start-up.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from refseg_cli.errors import CLOSED_PIPE, RefsegError
from refseg_cli.progress import Progress, silent

if TYPE_CHECKING:
    import rich.console
    import rich.progress

Color = Literal["auto", "always", "never"]
ProgressStyle = Literal["auto", "lines", "never"]

SECONDS_BETWEEN_LINES = 10.0  # of progress, where no terminal can redraw one
NARROWEST = 8  # letters that a column on a terminal has in any case
RED, YELLOW, DIM = "31", "33", "2"  # ANSI SGR codes
_CONTROLS = re.compile(r"[\0-\x1f\x7f-\x9f]")


class Console:
    """What every command prints through.

    Streams are looked up at each call, so that redirection (and pytest's capture) sees everything.
    """

    quiet: bool
    verbose: bool
    color: Color
    progress_style: ProgressStyle

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the options of an earlier command line in the same process."""
        self.quiet, self.verbose = False, False
        self.color, self.progress_style = "auto", "auto"

    # Data, on stdout

    def result(self, text: str) -> None:
        """One line (or block) of the answer in plain words; not printed with --quiet."""
        if not self.quiet:
            self._write_out(text + "\n")

    def json(self, value: object) -> None:
        """`value` as one line of JSON, see `json_line`."""
        self.text(json_line(value, self.encoding) + "\n")

    def text(self, text: str) -> None:
        """Data that is text, as it is; printed with --quiet, too."""
        self._write_out(text)

    @property
    def encoding(self) -> str:
        """What text on stdout is written in."""
        return _encoding(_stdout())

    def binary(self, data: bytes) -> None:
        """Bytes as they are, for a picture that goes down a pipe."""
        if _speaks():
            out = _stdout()
            with _closed_pipe_ends_quietly():
                out.buffer.write(data)
                out.buffer.flush()

    def table(
        self, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], *, whole: Sequence[str] = ()
    ) -> None:
        """A table: aligned plain text in a pipe, drawn by rich on a terminal; not printed with --quiet.

        A float is shown with two decimals and None as "-"; hand over strings for anything else.

        whole: columns that a narrow terminal must not break, as it breaks no numbers: names and paths, which people
            copy. A terminal that is too narrow for them gets each row as a block of lines.
        """
        if self.quiet:
            return
        cells = [[cell(value) for value in row] for row in rows]
        numeric = [all(is_number(row[i]) for row in rows) for i in range(len(columns))]
        if self.on_terminal():
            self._write_out(_drawn_table(title, columns, cells, numeric, self._rich(_stdout()), whole))
        else:
            self._write_out(_plain_table(title, columns, cells, numeric))

    # Talk, on stderr

    def info(self, text: str) -> None:
        """What a person may like to know; not printed with --quiet."""
        if not self.quiet:
            self._say(text)

    def detail(self, text: str) -> None:
        """What only a curious person likes to know; printed with --verbose."""
        if self.verbose and not self.quiet:
            self._say(text, DIM)

    def warn(self, text: str) -> None:
        """Something is probably not as the user thinks; not printed with --quiet."""
        if not self.quiet:
            self._say(f"refseg: warning: {text}", YELLOW)

    def error(self, error: RefsegError | str) -> None:
        """Why the command stops; always printed, by every process."""
        self._write_err(visible(" ".join(f"refseg: {error}".split())), RED)

    def block(self, text: str) -> None:
        """Several lines that a person asked for (a traceback, the help of a bare command); always printed."""
        self._write_err(text.rstrip("\n"))

    @contextmanager
    def progress(self) -> Iterator[Progress]:
        """A `Progress` to hand to the engine: bars on a terminal, a plain line now and then elsewhere."""
        if self.quiet or self.progress_style == "never" or not _speaks() or sys.stderr is None:
            yield silent
        elif self.progress_style == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb":
            with _bars(self._rich(sys.stderr)) as bars:
                yield bars
        else:
            lines = Lines(self._say)
            try:
                yield lines
            finally:
                lines.close()

    # Streams

    def on_terminal(self) -> bool:
        """Whether a person, not a pipe or a file, gets what goes to stdout."""
        return sys.stdout is not None and sys.stdout.isatty()

    def colored(self, stream: TextIO) -> bool:
        """Whether escape codes may go to `stream`: --color, then NO_COLOR (no-color.org), then what the stream is."""
        if self.color != "auto":
            return self.color == "always"
        return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"

    def _rich(self, stream: TextIO) -> rich.console.Console:
        """A rich console that follows our decision on colour alone, whatever FORCE_COLOR and the like say."""
        from rich.console import Console as RichConsole

        return RichConsole(file=stream, force_terminal=stream.isatty(), no_color=not self.colored(stream))

    def _say(self, text: str, code: str = "") -> None:
        if _speaks():
            self._write_err(visible(text), code)

    def _write_err(self, text: str, code: str = "") -> None:
        if sys.stderr is None:  # closed; `print` would take stdout in its place
            return
        if code and self.colored(sys.stderr):
            text = f"\033[{code}m{text}\033[0m"
        # While bars are drawn, rich stands in for sys.stderr and puts the line above them.
        # One write a line: `print` writes the end of the line apart, and another thread may get in between.
        try:
            sys.stderr.write(text + "\n")
            sys.stderr.flush()
        except OSError:  # a closed pipe or a full disk: what nobody hears must cost no answer and change no status
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stderr.fileno())

    def _write_out(self, text: str) -> None:
        if _speaks():
            out = _stdout()
            encoding = _encoding(out)  # a file name of other bytes, say, is shown with escapes
            with _closed_pipe_ends_quietly():
                out.write(text.encode(encoding, "backslashreplace").decode(encoding))
                out.flush()


class Lines:
    """Progress as text: a line every ten seconds and one at the end of each stage.

    Args:
        say: prints one line.
        clock: seconds, monotonic.
    """

    def __init__(self, say: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._say = say
        self._clock = clock
        self._stage: str | None = None
        self._pending = ""  # the stage's newest line, if it was not printed

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        now = self._clock()
        if stage != self._stage:
            self.close()
            self._stage, self._began, self._first, self._printed = stage, now, done, now
        line = _progress_line(stage, done, total, figures, done - self._first, now - self._began)
        if now - self._printed >= SECONDS_BETWEEN_LINES or 0 < total == done:
            self._printed, self._pending = now, ""
            self._say(line)
        else:
            self._pending = line

    def close(self) -> None:
        """Print where the running stage stopped, if that was not said yet."""
        if self._pending:
            self._say(self._pending)
        self._stage, self._pending = None, ""


class Bars:
    """Progress as rich draws it: one bar for each stage, with count, rate, time left and the engine's figures."""

    def __init__(self, drawing: rich.progress.Progress) -> None:
        self._drawing = drawing
        self._stage: str | None = None
        self._tasks: dict[str, rich.progress.TaskID] = {}

    def __call__(self, stage: str, done: int, total: int, **figures: float | str) -> None:
        now = time.monotonic()
        if stage != self._stage:
            self._stage, self._began, self._first = stage, now, done
            if stage not in self._tasks:
                self._tasks[stage] = self._drawing.add_task(stage, figures="", count="")
            elif done <= 1:  # a stage that comes again from its beginning, such as validation after each epoch
                self._drawing.reset(self._tasks[stage])
        self._drawing.update(
            self._tasks[stage],
            completed=done,
            total=total or None,
            count=f"{done}/{total}" if total else str(done),
            figures=_figures(figures, done - self._first, now - self._began),
        )


@contextmanager
def _bars(terminal: rich.console.Console) -> Iterator[Bars]:
    from rich.progress import BarColumn, TextColumn, TimeRemainingColumn
    from rich.progress import Progress as RichProgress

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[count]}", markup=False),
        TextColumn("{task.fields[figures]}", markup=False),
        TimeRemainingColumn(),
    )
    # stdout is never redirected: rich would send the data of a pipe to the terminal.
    with RichProgress(*columns, console=terminal, redirect_stdout=False) as drawing:
        yield Bars(drawing)


def _progress_line(
    stage: str, done: int, total: int, figures: Mapping[str, float | str], advanced: int, seconds: float
) -> str:
    """E.g. ``train step=1200/4000 loss=0.41 img/s=52.1 eta=0:03:10``; advanced: units done in `seconds`."""
    parts = [stage, f"step={done}/{total}" if total else f"step={done}", _figures(figures, advanced, seconds)]
    if 0 < done < total and advanced > 0:
        parts.append(f"eta={_clock_time((total - done) * seconds / advanced)}")
    return " ".join(part for part in parts if part)


def _figures(figures: Mapping[str, float | str], advanced: int, seconds: float) -> str:
    """``loss=0.41 rate=52.1/s``; the rate is ours only where the engine gives none of its own (a key with "/s")."""
    parts = [
        f"{name}={value:.4g}" if isinstance(value, float) else f"{name}={value}" for name, value in figures.items()
    ]
    if advanced > 0 and seconds > 0 and not any(key.endswith("/s") for key in figures):
        parts.append(f"rate={advanced / seconds:.3g}/s")
    return " ".join(parts)


def _clock_time(seconds: float) -> str:
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02}:{second:02}"


def _plain_table(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]], numeric: Sequence[bool]) -> str:
    """Two spaces between columns, numbers to the right, no trailing blanks."""
    lines = [list(columns), *cells]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(line, widths, numeric, strict=True)
        ).rstrip()
        for line in lines
    ]
    return "\n".join([title, *text] if title else text) + "\n"


def _drawn_table(
    title: str,
    columns: Sequence[str],
    cells: Sequence[Sequence[str]],
    numeric: Sequence[bool],
    terminal: rich.console.Console,
    whole: Sequence[str],
) -> str:
    """In a frame if there is room, else without, else a block of lines for each row."""
    from rich.table import Table
    from rich.text import Text

    widths = [
        _least_width(name, [row[i] for row in cells], whole=numeric[i] or name in whole)
        for i, name in enumerate(columns)
    ]
    bare = sum(widths) + len("  ") * (len(columns) - 1)
    if bare > terminal.width:
        return _blocks(title, columns, cells)
    framed = bare + len("| ") + len(columns) - 1 + len(" |") <= terminal.width
    frame: dict[str, Any] = {} if framed else {"box": None, "padding": (0, 1), "pad_edge": False}
    table = Table(title=Text(title) if title else None, title_justify="left", **frame)
    room = terminal.width - bare - (len(columns) + len("| ") + 1 if framed else 0)
    wanted = [max(len(name), *(len(row[i]) for row in cells), 0) for i, name in enumerate(columns)]
    for name, width, right in zip(columns, _widened(widths, wanted, room), numeric, strict=True):
        table.add_column(Text(name), justify="right" if right else "left", width=width, overflow="fold")
    for row in cells:
        table.add_row(*(Text(cell) for cell in row))
    with terminal.capture() as captured:
        terminal.print(table)
    return captured.get()


def _least_width(name: str, cells: Sequence[str], *, whole: bool) -> int:
    """Letters that a column needs: for the longest cell if it is to stay whole, for some words of it otherwise."""
    longest = max((len(cell) for cell in cells), default=0)
    return max(longest if whole else min(longest, NARROWEST), *map(len, name.split() or [""]))


def _widened(widths: Sequence[int], wanted: Sequence[int], room: int) -> list[int]:
    """What is left of the terminal's width, letter by letter to the column that lacks most."""
    given = list(widths)
    for _ in range(room):
        lacks = [want - width for want, width in zip(wanted, given, strict=True)]
        if max(lacks, default=0) <= 0:
            break
        given[lacks.index(max(lacks))] += 1
    return given


def _blocks(title: str, columns: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """NAME  VALUE lines, with a blank one between rows; the terminal breaks what is still too long."""
    width = max(map(len, columns), default=0)
    rows = ("\n".join(f"{name:{width}}  {cell}" for name, cell in zip(columns, row, strict=True)) for row in cells)
    return "\n".join([*([title, ""] if title else []), "\n\n".join(rows)]) + "\n"


def cell(value: object) -> str:
    """How a table shows a value: a float with two decimals, None as "-", text on one line."""
    if value is None:
        return "-"
    return f"{value:.2f}" if isinstance(value, float) else visible(str(value))


def visible(text: str) -> str:
    """Names and phrases of others as they can be shown: what would break the line or steer the terminal is escaped."""
    return _CONTROLS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def is_number(value: object) -> bool:
    """Numbers, and strings that begin like one ("12.3 ms", "+0.5"), stand on the right; so does a missing one."""
    return value is None or isinstance(value, int | float) or str(value).lstrip("+-")[:1].isdigit()


def json_line(value: object, encoding: str = "utf-8") -> str:
    """JSON without a line break; dataclasses, paths and numpy scalars included.

    Where `encoding` has no bytes for a letter, a file name's that is no UTF-8, say, all but ASCII is escaped.

    Raises:
        ValueError: NaN or infinity, which JSON has no word for.
    """
    line = json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain)
    try:
        line.encode(encoding)
    except UnicodeEncodeError:
        return json.dumps(value, allow_nan=False, default=_plain)
    return line


def _plain(value: Any) -> Any:
    """What `json` cannot write by itself."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return dataclasses.asdict(value)
    if isinstance(value, Path):
        return str(value)
    if hasattr(value, "tolist"):  # numpy scalars and arrays
        return value.tolist()
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _stdout() -> TextIO:
    """Where data goes.

    Raises:
        RefsegError: nowhere, as after `>&-`.
    """
    if sys.stdout is None:
        raise RefsegError("standard output is closed", hint="send it to a file, or to /dev/null")
    return sys.stdout


def _encoding(stream: TextIO) -> str:
    return getattr(stream, "encoding", None) or "utf-8"


def _speaks() -> bool:
    """Whether this process is the one of a distributed run that talks.

    Batch systems set RANK for jobs that know nothing of each other, too; those have no place to meet.
    """
    return os.environ.get("RANK", "0") == "0" or "MASTER_ADDR" not in os.environ


@contextmanager
def _closed_pipe_ends_quietly() -> Iterator[None]:
    """`refseg ... | head` ends with 141 as other programs do, not with a traceback or with status 1 ("no target")."""
    try:
        yield
    except BrokenPipeError:
        # The interpreter flushes stdout once more at exit: give it a place where that succeeds.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise SystemExit(CLOSED_PIPE) from None


console = Console()
