"""The `refseg` command: its verbs, and how anything that goes wrong becomes one line and an exit status.

Nothing here or in `commands/` imports torch, numpy or the like before a verb runs, so that `refseg --help` is
immediate.
"""

from __future__ import annotations

import atexit
import errno
import os
import sys
import threading
import warnings
from collections.abc import Sequence
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer

from refseg_cli import __version__
from refseg_cli.commands import _sources
from refseg_cli.commands._help import Commands
from refseg_cli.commands._options import Quiet
from refseg_cli.console import Color, ProgressStyle, console
from refseg_cli.errors import CLOSED_PIPE, ERROR, FOUND, INTERRUPTED, LONGEST, RefsegError, quoted

if TYPE_CHECKING:
    from refseg_cli.commands import _settings, _spec

HELP = {"-h", "--help", "--version"}


def _empty() -> typer.Typer:
    app = Commands(
        name="refseg",
        pretty_exceptions_enable=False,
        add_completion=False,  # completions/ holds static ones, which start no Python
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(root)
    return app


@cache
def _whole() -> typer.Typer:
    """Every command. Made once: a second time `prepare` would get its commands twice."""
    from refseg_cli.commands import (
        annotate,
        bench,
        calibrate,
        compare,
        config,
        eval,
        export,
        import_,
        predict,
        prepare,
        prepare_from,
        prepare_own,
        prepare_video,
        publish,
        recipes,
        train,
    )

    app = _empty()
    prepare.app.command("from")(prepare_from.from_)
    prepare.app.command("coco")(prepare_own.coco)
    prepare.app.command("refer")(prepare_own.refer)
    prepare.app.command("ref-youtube-vos")(prepare_video.ref_youtube_vos)
    prepare.app.command("mevis")(prepare_video.mevis)
    prepare.app.command("ref-davis17")(prepare_video.ref_davis17)
    app.add_typer(prepare.app, name="prepare")
    app.command("train")(train.train)
    app.command("eval")(eval.eval_)
    app.command("calibrate")(calibrate.calibrate)
    app.command("compare")(compare.compare)
    app.command("predict")(predict.predict)
    app.command("export")(export.export)
    app.command("publish")(publish.publish)
    app.command("bench")(bench.bench)
    app.command("import")(import_.import_)
    app.add_typer(annotate.app, name="annotate")
    app.add_typer(recipes.app, name="recipes")
    app.add_typer(config.app, name="config")
    return app


def _predict_alone() -> typer.Typer:
    """`refseg predict`, which scripts start again and again, without the time that the others take to load."""
    from refseg_cli.commands import predict

    app = _empty()
    app.command("predict")(predict.predict)
    return app


def __getattr__(name: str) -> Any:
    """`app`, made when somebody asks for it."""
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return globals().setdefault("app", _whole())


def _print_version(wanted: bool) -> None:
    if wanted:
        console.result(f"refseg {__version__}")
        raise typer.Exit


def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    quiet: Quiet = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Print more, including warnings of the libraries.")
    ] = False,
    color: Annotated[Color, typer.Option("--color", help="Colour the output; `auto` respects NO_COLOR.")] = "auto",
    progress: Annotated[
        ProgressStyle,
        typer.Option(
            "--progress", help="Progress on stderr: `auto` draws bars on a terminal and prints lines elsewhere."
        ),
    ] = "auto",
) -> None:
    """Find what a phrase refers to in an image, as a mask.

    \b
    Example:
      refseg predict --demo
    """
    console.verbose, console.color, console.progress_style = verbose, color, progress
    if not verbose:
        warnings.simplefilter("ignore")
    import logging

    logging.basicConfig(level=logging.INFO if verbose else logging.ERROR, format="%(name)s: %(message)s")


def main(args: Sequence[str] | None = None) -> int:
    """Run the command line and give the exit status of `errors.py`; never raises.

    args: the words after `refseg`; None for those of this process.
    """
    console.reset()
    _fill_closed_streams()
    words = sys.argv[1:] if args is None else args
    app = defaults = None
    try:
        app = _predict_alone() if words[:1] == ["predict"] and "app" not in globals() else __getattr__("app")
        defaults = _defaults(app, words)
        options: dict[str, Any] = {"standalone_mode": False, "default_map": defaults}
        status = app(args=words, prog_name="refseg", obj=_commands, **options)
    except SystemExit as stop:
        # 1 is what Typer makes of a closed pipe that the console did not meet first; here it would say "no target".
        return CLOSED_PIPE if stop.code == 1 else int(stop.code or FOUND)
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        return _explain(error, app, defaults)
    return status if isinstance(status, int) else FOUND


def _defaults(app: typer.Typer, words: Sequence[str]) -> _settings.Defaults | None:
    """What the environment and files say of options that the command line leaves out; None if nothing.

    Raises:
        RefsegError: something that sets nothing, or not like that; help is given all the same.
    """
    variables, files = _sources.variables(os.environ), _sources.files(os.environ)
    if not (variables or files) or not HELP.isdisjoint(words):
        return None
    from refseg_cli.commands._settings import Defaults, read

    settings, commands = read(variables, files), _commands(app)
    for sentence in settings.check(commands, whole=_commands):
        console.warn(sentence)
    return Defaults(settings, commands)


def _commands(app: typer.Typer | None = None) -> _spec.Command:
    """Those of `app`; all there are if not given."""
    from refseg_cli.commands._spec import read_app

    return read_app(app or __getattr__("app"), "refseg")


def run() -> NoReturn:
    """`main` as a program: ends the process without taking the interpreter apart.

    With torch in it that takes a quarter of the time of a `refseg predict`. What has to happen at the end happens:
    other threads finish, exit handlers run, streams are flushed.
    """
    status = main()
    threading._shutdown()  # type: ignore[attr-defined] # as the interpreter does: releases idle pools, joins the rest
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        try:
            if stream is not None:
                stream.flush()
        except (OSError, ValueError):  # a closed pipe, of which `main` has spoken already
            status = status or CLOSED_PIPE
    os._exit(status)


def _fill_closed_streams() -> None:
    """Take the numbers of closed standard streams: the next opened file would get one, and what libraries print."""
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest number that is free: this one


def _explain(error: Exception, app: typer.Typer | None, defaults: _settings.Defaults | None) -> int:
    """Print why, in one line, and the traceback for those who asked for it."""
    if os.environ.get("REFSEG_DEBUG"):
        import traceback

        console.block("".join(traceback.format_exception(error)))
    if isinstance(error, typer.TyperException):
        _explain_usage(error, app)
    else:
        said = error if isinstance(error, RefsegError) else _as_refseg_error(error)
        origin = "" if defaults is None else defaults.settings.origin(said.message)
        hint = "; ".join(filter(None, [said.hint, origin]))
        console.error(RefsegError(said.message, hint=hint or None))
    return ERROR


def _explain_usage(error: typer.TyperException, app: typer.Typer | None) -> None:
    message = error.format_message()
    if message.startswith("Usage:"):  # a bare `refseg` or `refseg prepare`: the message is the help text
        console.block(message)
        return
    from refseg_cli.commands._usage import explain_usage

    context: typer.Context | None = getattr(error, "ctx", None)
    command = context.command_path if context else "refseg"
    console.error(explain_usage(message, command.split(), lambda: _commands(app)))


def _as_refseg_error(error: Exception) -> RefsegError:
    """What the system or a library complains of, in words that help; a fault of ours is called one."""
    text = str(error)
    if isinstance(error, RecursionError):
        return RefsegError("something in the input is nested too deeply", hint="REFSEG_DEBUG=1 shows the traceback")
    if isinstance(error, UnicodeEncodeError) and "surrogates" in error.reason:  # bytes of a file name or an argument
        near = error.object[max(0, error.start - LONGEST // 2) :]  # of a whole page, what is wrong with it
        return RefsegError(f"{quoted(near)}: not UTF-8 text", hint="rename it, or write it in UTF-8")
    if getattr(error, "errno", None) == errno.ENOSPC or "No space left on device" in text:
        where = getattr(error, "filename", None)
        return RefsegError(f"{where}: disk full" if where else "disk full", hint="free some space or write elsewhere")
    # By name: torch may not have been imported, and on a CPU it raises a plain RuntimeError.
    if type(error).__name__ in ("OutOfMemoryError", "MemoryError") or "can't allocate memory" in text:
        return RefsegError("out of memory", hint="take smaller batches or images, or another --device")
    if isinstance(error, OSError) and error.strerror:
        return RefsegError(f"{error.filename}: {error.strerror}" if error.filename else error.strerror)
    return RefsegError(f"internal error: {type(error).__name__}: {text}", hint="REFSEG_DEBUG=1 shows the traceback")
