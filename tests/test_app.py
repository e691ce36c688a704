"""The command line as a shell sees it: exit status, one line on stderr, nothing heavy behind --help."""

from __future__ import annotations

import errno
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer

from refseg_cli import __version__
from refseg_cli import app as shell
from refseg_cli.console import console
from refseg_cli.errors import CLOSED_PIPE, ERROR, FOUND, INTERRUPTED, NO_TARGET, RefsegError

Capture = pytest.CaptureFixture[str]
HEAVY = ("torch", "numpy", "pyarrow", "transformers", "timm", "PIL", "pycocotools", "rich.progress")


def run(
    *args: str, script: str = "import sys; from refseg_cli.app import main; sys.exit(main())"
) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", script, *args], capture_output=True, text=True)


@pytest.fixture
def failing(monkeypatch: pytest.MonkeyPatch) -> Callable[[BaseException | int | None], int]:
    """Run `refseg` with one command that raises, or returns, what is given."""

    def call(outcome: BaseException | int | None) -> int:
        app = typer.Typer(rich_markup_mode=None, pretty_exceptions_enable=False, add_completion=False)
        app.callback()(shell.root)

        @app.command()
        def work() -> int | None:
            if isinstance(outcome, BaseException):
                raise outcome
            return outcome

        monkeypatch.setattr(shell, "app", app)
        return shell.main(["work"])

    return call


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["predict", "--help"], ["prepare", "-h"], ["train", "-h"]])
def test_help_loads_nothing_heavy(arguments: list[str]) -> None:
    script = (
        "import sys\nfrom refseg_cli.app import main\nstatus = main()\n"
        f"print([m for m in {HEAVY!r} if m in sys.modules], file=sys.stderr)\nsys.exit(status)"
    )
    done = run(*arguments, script=script)
    assert (done.returncode, done.stderr) == (FOUND, "[]\n")
    assert done.stdout.startswith("Usage: refseg")
    assert "\033" not in done.stdout


def test_help_takes_under_half_a_second() -> None:
    """Of the processor's time, because other programs may be at work on this machine."""
    before = os.times()
    run("--help")
    after = os.times()
    assert after.children_user + after.children_system - before.children_user - before.children_system < 0.5


def test_help_names_every_verb() -> None:
    text = run("--help").stdout
    verbs = ("train", "eval", "compare", "predict", "export", "bench", "import", "prepare", "recipes")
    assert [verb for verb in verbs if f"\n  {verb} " in text] == list(verbs)


def test_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "refseg_cli", "--version"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (FOUND, f"refseg {__version__}\n", "")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["predikt"], "unknown command 'predikt' (did you mean 'predict'?)"),
        (["Train"], "unknown command 'Train' (did you mean 'train'?)"),
        (["grefcoco"], "unknown command 'grefcoco' (did you mean 'prepare grefcoco'?)"),
        (["prepare", "sceens"], "unknown command 'sceens' (did you mean 'scenes'?)"),
        (["recipes", "xyz"], "unknown command 'xyz' (one of: list, show)"),
        (["train", "--dat", "x"], "unknown option --dat (did you mean --data?)"),
        (["predict", "--treshold=0.5", "a", "b"], "unknown option --treshold (did you mean --threshold?)"),
        (["prepare", "coco", "--fraces", "x"], "unknown option --fraces (did you mean --phrases?)"),
        (["train", "-Z"], "unknown option -Z (see 'refseg train --help')"),
        (["train", "--xyz"], "unknown option --xyz (see 'refseg train --help')"),
        (["export", "-o", "x", "-f", "onx"], "--format: unknown value 'onx' (did you mean 'onnx'?)"),
        (["--color", "blue", "eval"], "--color: unknown value 'blue' (one of: always, auto, never)"),
        (["eval"], "Missing option '--data' (see 'refseg eval --help')"),
        (["eval", "--limit", "x"], "Invalid value for '--limit': "),
    ],
)
def test_wrong_usage_is_one_line_and_2(arguments: list[str], line: str, capsys: Capture) -> None:
    assert shell.main(arguments) == ERROR
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(f"refseg: {line}")
    assert streams.err.count("\n") == 1


def test_bare_command_shows_help_as_an_error(capsys: Capture) -> None:
    assert shell.main([]) == ERROR
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("Usage: refseg")


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (None, FOUND),
        (FOUND, FOUND),
        (NO_TARGET, NO_TARGET),
        (typer.Exit(NO_TARGET), NO_TARGET),
        (KeyboardInterrupt(), INTERRUPTED),
        (typer.Abort(), INTERRUPTED),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), CLOSED_PIPE),
    ],
)
def test_exit_status(
    failing: Callable[[BaseException | int | None], int],
    outcome: BaseException | int | None,
    status: int,
    capsys: Capture,
) -> None:
    assert failing(outcome) == status
    assert capsys.readouterr() == ("", "")


class OutOfMemoryError(RuntimeError):
    """torch's class goes by this name."""


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (RefsegError("a.jpg: no such file", hint="look\nagain"), "refseg: a.jpg: no such file (look again)\n"),
        (
            OSError(errno.ENOSPC, "No space left on device", "/x/y"),
            "refseg: /x/y: disk full (free some space or write elsewhere)\n",
        ),
        (RuntimeError("I/O error: No space left on device (os error 28)"), "refseg: disk full (free some space"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "refseg: /x: Permission denied\n"),
        (OutOfMemoryError("CUDA out of memory. Tried to allocate"), "refseg: out of memory (take smaller batches"),
        (RuntimeError("DefaultCPUAllocator: can't allocate memory"), "refseg: out of memory (take smaller batches"),
        (RecursionError("maximum recursion depth exceeded"), "refseg: something in the input is nested too deeply ("),
        (
            UnicodeEncodeError("utf-8", "a\udce9", 1, 2, "surrogates not allowed"),
            r"refseg: 'a\udce9': not UTF-8 text (rename it",
        ),
        (
            UnicodeEncodeError("utf-8", "p" * 9000 + "a\udce9" + "p" * 9000, 9001, 9002, "surrogates not allowed"),
            f"refseg: '{'p' * 99}a\\udce9{'p' * 98}…': not UTF-8 text (rename it",
        ),
        (
            ValueError("two\nlines"),
            "refseg: internal error: ValueError: two lines (REFSEG_DEBUG=1 shows the traceback)\n",
        ),
    ],
)
def test_any_error_is_one_line_and_2(
    failing: Callable[[BaseException | int | None], int], error: Exception, line: str, capsys: Capture
) -> None:
    assert failing(error) == ERROR
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(line)
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_streams_do_not_become_files(closed: str, tmp_path: Path) -> None:
    """The system gives a file that is opened the lowest free number: talk and data would go into it."""
    script = (
        "import os, sys\nfrom refseg_cli.app import main\nmain(['--version'])\n"
        "numbers = [os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)]\nsys.exit(0 if min(numbers) > 2 else 1)"
    )
    words = [sys.executable, "-c", shlex.quote(script), str(tmp_path / "file")]
    done = subprocess.run(["sh", "-c", f"{' '.join(words)} {closed}"], capture_output=True)
    assert done.returncode == 0
    assert (tmp_path / "file").read_bytes() == b""


def test_debug_shows_the_traceback(
    failing: Callable[[BaseException | int | None], int], capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REFSEG_DEBUG", "1")
    assert failing(ValueError("odd")) == ERROR
    text = capsys.readouterr().err
    assert "Traceback (most recent call last)" in text
    assert "in work" in text


def test_options_of_one_command_line_do_not_reach_the_next() -> None:
    shell.main(["-q", "-v", "--color", "never", "--progress", "lines", "eval"])
    assert (console.quiet, console.color, console.progress_style) == (True, "never", "lines")
    shell.main(["eval"])
    assert (console.quiet, console.verbose, console.color, console.progress_style) == (False, False, "auto", "auto")


def test_libraries_are_silent_unless_asked() -> None:
    script = (
        "import sys, logging, warnings, typer\nfrom refseg_cli import app as shell\n"
        "@shell.app.command('noise')\ndef noise() -> None:\n"
        "    warnings.warn('wobbly'); logging.getLogger('lib').info('chatty')\n"
        "sys.exit(shell.main())"
    )
    assert run("noise", script=script).stderr == ""
    assert all(word in run("-v", "noise", script=script).stderr for word in ("wobbly", "chatty"))


def test_the_program_ends_as_its_main_says(tmp_path: Path) -> None:
    """Without taking the interpreter apart, but with what was written, other threads' work and exit handlers."""
    script = (
        "import atexit, sys, threading, time\nfrom refseg_cli import app\n"
        "def late(): time.sleep(0.2); open(sys.argv[1], 'w').write('done')\n"
        "class Last:\n    def __del__(self): print('taken apart')\n"
        "kept = Last()\natexit.register(print, 'handler')\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "idle = ThreadPoolExecutor(1)\nidle.submit(int).result()\n"
        "threading.Thread(target=late).start()\nprint('unflushed', end=' ')\n"
        "app.main = lambda: 7\napp.run()"
    )
    done = run(str(tmp_path / "late"), script=script)
    assert (done.returncode, done.stdout, done.stderr) == (7, "unflushed handler\n", "")
    assert (tmp_path / "late").read_text() == "done"


def test_predict_alone_is_parsed_as_among_all() -> None:
    """The short cut gives the same help and the same complaints, and leaves the other commands unimported."""
    short = (
        "import sys; from refseg_cli.app import main; status = main()\n"
        "assert 'refseg_cli.commands.train' not in sys.modules\nsys.exit(status)"
    )
    whole = "import sys; from refseg_cli import app; app.app; sys.exit(app.main())"
    for words in (["predict", "--help"], ["predict"], ["predict", "--nonsense"], ["predict", "a", "b", "-f", "x"]):
        one, other = run(*words, script=short), run(*words, script=whole)
        assert (one.returncode, one.stdout, one.stderr) == (other.returncode, other.stdout, other.stderr)


def test_a_second_run_in_a_process_has_every_command_once(capsys: pytest.CaptureFixture[str]) -> None:
    helps = []
    for _ in range(3):
        shell.main(["prepare", "--help"])
        helps.append(capsys.readouterr().out)
    assert helps[0].count("Prepare referring data in other forms") == 1
    assert helps[0] == helps[1] == helps[2]
