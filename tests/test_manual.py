"""The generator of man pages and completions, tried in the real shells where they are installed."""

from __future__ import annotations

import os
import pty
import re
import select
import shlex
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Literal

import pytest
import typer

from refseg_cli._manual import man
from refseg_cli._manual.__main__ import main, render
from refseg_cli.app import app
from refseg_cli.commands._spec import Command, read_app
from refseg_cli.config import recipe_names
from refseg_cli.console import console

REPOSITORY = Path(__file__).parent.parent


def brushes() -> list[str]:
    return ["oil-1", "oil-2", "chalk"]


def sample_app() -> typer.Typer:
    """`tool paint`, `tool frame wood`, `tool frame metal+`: every kind of parameter, and help that needs quoting."""
    app = typer.Typer(help="Make pictures.")
    frame = typer.Typer(help='Put a frame: "it\'s" [wood] or $metal.')
    app.add_typer(frame, name="frame")

    @app.callback()
    def root(loud: Annotated[bool, typer.Option("--loud", "-l", help="Say more.")] = False) -> None:
        """Make pictures.

        With a brush.
        """

    @app.command()
    def paint(
        subject: Annotated[Path, typer.Argument(metavar="IMAGE", help="What to paint.")],
        titles: Annotated[list[str], typer.Argument(metavar="TITLE", help="Its names.")],
        style: Annotated[
            Literal["cubist", "naive"], typer.Option("--style", "-s", help="The 'style': [a] or `b`.")
        ] = "naive",
        brush: Annotated[
            str | None, typer.Option("--brush", metavar="NAME|FILE", help="A brush.", autocompletion=brushes)
        ] = None,
        out: Annotated[str, typer.Option("--out", metavar="DIR", help="Where to.")] = "-x",
        layer: Annotated[
            list[str] | None, typer.Option("--layer", help="More; repeatable.", rich_help_panel="In depth")
        ] = None,
        varnish: Annotated[bool, typer.Option(help="Varnish it.")] = True,
    ) -> None:
        """Paint a C:\\picture.

        .Dotted words and a back\\slash.

        \b
        Example:
          tool paint --style naive 'a b'
          .hidden

        \b
        Exit status:
          0  Done.
          3  Out of paint.
        """

    @frame.command()
    def wood(width: Annotated[int, typer.Option("--width", help="In cm.")] = 3) -> None:
        """Of wood."""

    @frame.command("metal+")
    def metal(shine: Annotated[Literal["dull", "bright"], typer.Option("--shine")] = "dull") -> None:
        """Of metal."""

    @app.command(hidden=True)
    def secret() -> None:
        """Not for the manual."""

    return app


@pytest.fixture(scope="module")
def tool() -> Command:
    return read_app(sample_app(), "tool")


# What is read from the app


def test_reads_nested_commands_and_leaves_hidden_ones_out(tool: Command) -> None:
    names = [" ".join(command.words) for command in tool.walk()]
    assert names == ["tool", "tool paint", "tool frame", "tool frame wood", "tool frame metal+"]


def test_reads_names_choices_and_what_a_value_is(tool: Command) -> None:
    paint = {p.options or (p.metavar,): p for p in tool.commands[0].parameters}
    assert paint["--style", "-s"].choices == ("cubist", "naive")
    assert (paint["--brush",].choices, paint["--brush",].takes) == (("oil-1", "oil-2", "chalk"), "files")
    assert paint["--out",].takes == "folders"
    assert paint["--varnish", "--no-varnish"].takes == "nothing"
    assert (paint["IMAGE",].takes, paint["IMAGE",].required) == ("files", True)
    assert paint["TITLE",].repeatable
    assert paint["--layer",].repeatable


def test_refuses_what_a_shell_would_split_or_expand() -> None:
    app = typer.Typer()

    @app.command()
    def run(how: Annotated[Literal["$(reboot)"], typer.Option()] = "$(reboot)") -> None:
        """Run."""

    with pytest.raises(ValueError, match="reboot"):
        render(read_app(app, "tool"))


def test_refuses_a_parameter_without_a_mark() -> None:
    app = typer.Typer()

    @app.command()
    def run(how: str = "fast") -> None:
        """Run."""

    with pytest.raises(TypeError, match=r"run: how needs Annotated"):
        read_app(app, "tool")


# The files


def test_files_of_the_repository_are_fresh() -> None:
    assert main([str(REPOSITORY), "--check"]) == 0


def test_check_names_missing_changed_and_left_over_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main([str(tmp_path)])
    assert main([str(tmp_path), "--check"]) == 0
    (tmp_path / "man" / "refseg.1").write_text("old")
    (tmp_path / "man" / "refseg-gone.1").write_text("of a command that went")
    (tmp_path / "completions" / "_refseg").unlink()
    capsys.readouterr()
    console.quiet = True  # as an earlier command line in the process may leave it
    assert main([str(tmp_path), "--check"]) == 1
    talk = capsys.readouterr().err
    assert all(name in talk for name in ("man/refseg.1 ", "man/refseg-gone.1 ", "completions/_refseg "))
    main([str(tmp_path)])
    assert main([str(tmp_path), "--check"]) == 0


def test_two_runs_are_equal(tool: Command) -> None:
    assert render(tool) == render(read_app(sample_app(), "tool"))


def test_a_page_has_every_section_and_no_line_that_roff_would_obey(tool: Command) -> None:
    page = man.page(tool.commands[0], version="1", date="2026-01-01", parent=tool)
    sections = re.findall(r"^\.SH (.*)", page, flags=re.M)
    assert sections == [
        *("NAME", "SYNOPSIS", "DESCRIPTION", "ARGUMENTS", "OPTIONS"),
        *("EXAMPLES", "EXIT STATUS", "ENVIRONMENT", "SEE ALSO"),
    ]
    assert re.search(r"^\.SS In depth\n\.TP\n.*layer", page, flags=re.M)
    assert page.index(".SS In depth") > page.index("varnish")  # below the options without a heading
    assert "\\&.Dotted words and a back\\eslash." in page
    assert "\\&.hidden" in page
    assert "\\fB3\\fR\nOut of paint." in page


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_pages_pass_mandoc(tmp_path: Path, tool: Command) -> None:
    pages = list((REPOSITORY / "man").glob("*.1"))
    for name, text in render(tool).items():
        if name.startswith("man/"):
            pages.append(tmp_path / Path(name).name)
            pages[-1].write_text(text)
    assert len(pages) > 10
    lint = subprocess.run(["mandoc", "-T", "lint", "-W", "warning", *pages], capture_output=True, text=True)
    assert (lint.returncode, lint.stdout) == (0, "")


@pytest.mark.skipif(not shutil.which("mandoc"), reason="mandoc is not installed")
def test_a_rendered_page_shows_what_was_written(tmp_path: Path, tool: Command) -> None:
    page = tmp_path / "tool-paint.1"
    page.write_text(man.page(tool.commands[0], version="1", date="2026-01-01", parent=tool))
    shown = subprocess.run(["mandoc", "-T", "ascii", page], capture_output=True, text=True, check=True).stdout
    shown = re.sub(".\b", "", shown)  # bold is printed twice
    assert "tool paint --style naive 'a b'" in shown
    assert "Paint a C:\\picture." in shown
    assert ".Dotted words and a back\\slash." in shown


# The shells. `tool` is a function that prints the words it got, so a completed line says what TAB made of it.


class Shell:
    """A real interactive shell on a terminal of its own.

    argv: the program and its options.  folder: where it runs.  setup: its first command lines.
    """

    def __init__(self, argv: list[str], folder: Path, setup: list[str]) -> None:
        environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "TERM": "dumb", "LC_ALL": "C.UTF-8"}
        pid, self.terminal = pty.fork()
        if pid == 0:
            os.chdir(folder)
            os.execvpe(argv[0], argv, environment)
        os.set_inheritable(self.terminal, False)  # a later shell that had it too would keep this one from its hangup
        self.pid = pid
        for line in setup:
            self.send(line + "\n")
        self.send("printf '%s\\n' rea''dy\n")
        self.read_until("ready\r\n")

    def send(self, text: str) -> None:
        os.write(self.terminal, text.encode())

    def read_until(self, mark: str, seconds: float = 60) -> str:
        """Everything up to `mark`; fails the test if it does not come."""
        got, end = "", time.monotonic() + seconds
        while mark not in got:
            if not select.select([self.terminal], [], [], max(0, end - time.monotonic()))[0]:
                pytest.fail(f"no {mark!r} in {got!r}")
            got += os.read(self.terminal, 65536).decode(errors="replace")
        return got

    def complete(self, line: str) -> str:
        """The words of `line` after TAB, as `tool` prints them: ``<paint><--style>``."""
        self.send(line + "\t\n")
        shown = self.read_until("=end")
        assert not re.search(r"bash: |_\w+:\d+:|\(eval\)", shown), "the completion function complains"
        return re.findall("begin=(.*?)=end", shown)[-1]

    def wait_for_list(self, line: str, *words: str) -> None:
        """Two TABs behind `line` list `words`; fails the test if they do not."""
        self.send(line + "\t\t")
        shown = ""
        while missing := [word for word in words if word not in shown]:
            shown += self.read_until(missing[0])
        self.send("\x15")  # ^U: forget the line

    def close(self) -> None:
        os.close(self.terminal)
        os.waitpid(self.pid, 0)


ECHO = "{}() {{ printf 'begin='; printf '<%s>' \"$@\"; printf '=%s' end; }}"


@pytest.fixture(scope="module")
def room(tmp_path_factory: pytest.TempPathFactory, tool: Command) -> Path:
    """A folder with all three completion files, and some others to complete."""
    folder = tmp_path_factory.mktemp("room")
    (folder / "completions").mkdir()
    for name, text in render(tool).items():
        if name.startswith("completions/"):
            (folder / name).write_text(text)
    (folder / "work" / "sub folder").mkdir(parents=True)
    (folder / "work" / "sun set.png").touch()
    return folder


def start_shell(name: str, folder: Path, completions: Path, program: str) -> Shell:
    """bash or zsh in `folder`, with the files of `completions` and with a `program` that says what it was given."""
    if not shutil.which(name):
        pytest.skip(f"{name} is not installed")
    echo = ECHO.format(program)
    if name == "bash":
        load = [f"source {completions}/{program}.bash"]
        return Shell(["bash", "--norc", "--noprofile", "-i"], folder, [*load, echo])
    load = ["PS1='% '; LISTMAX=1000", f"fpath=({completions} $fpath); autoload -Uz compinit; compinit -u -D"]
    return Shell(["zsh", "-f", "-i"], folder, [*load, echo])


@pytest.fixture(scope="module", params=["bash", "zsh"])
def shell(request: pytest.FixtureRequest, room: Path) -> Iterator[Shell]:
    shell = start_shell(request.param, room / "work", room / "completions", "tool")
    yield shell
    shell.close()


def test_zsh_completes_at_the_first_tab(room: Path) -> None:
    """From $fpath: the first TAB loads the file and must complete as well."""
    shell = start_shell("zsh", room / "work", room / "completions", "tool")
    assert shell.complete("tool frame me") == "<frame><metal+>"
    shell.close()


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("tool pai", "<paint>"),
        ("tool frame me", "<frame><metal+>"),
        ("tool --lo", "<--loud>"),
        ("tool --loud fra", "<--loud><frame>"),
        ("tool paint --var", "<paint><--varnish>"),
        ("tool paint --style cub", "<paint><--style><cubist>"),
        ("tool paint -s cub", "<paint><-s><cubist>"),
        ("tool paint --style=cub", "<paint><--style=cubist>"),
        ("tool paint --brush cha", "<paint><--brush><chalk>"),
        ("tool paint --brush sun", "<paint><--brush><sun set.png>"),
        ("tool paint --out su", "<paint><--out><sub folder>"),
        ("tool paint sun", "<paint><sun set.png>"),
        ("tool paint -- sun", "<paint><--><sun set.png>"),
        ("tool paint frame --no-v", "<paint><frame><--no-varnish>"),
        ("tool frame metal+ --shine br", "<frame><metal+><--shine><bright>"),
    ],
)
def test_bash_and_zsh_complete(shell: Shell, line: str, words: str) -> None:
    assert shell.complete(line).replace("/>", ">") == words  # zsh takes the slash behind a folder back


def test_bash_and_zsh_list_what_there_is(shell: Shell) -> None:
    shell.wait_for_list("tool ", "frame", "paint")
    shell.wait_for_list("tool frame ", "wood", "metal+")
    shell.wait_for_list("tool paint --style ", "cubist", "naive")


def fish_offers(line: str, folder: Path, file: Path) -> set[str]:
    """What fish offers for the last word of `line`."""
    done = subprocess.run(
        ["fish", "--no-config", "-c", f"source {file}; complete -C '{line}'"],
        cwd=folder,
        env={**os.environ, "HOME": str(folder)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stderr == ""
    return {re.sub(r"\\(.)", r"\1", text.split("\t")[0]) for text in done.stdout.splitlines()}


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
@pytest.mark.parametrize(
    ("line", "offers"),
    [
        ("tool ", {"frame", "paint"}),
        ("tool --loud fra", {"frame"}),
        ("tool frame ", {"wood", "metal+"}),
        ("tool paint frame --no-v", {"--no-varnish"}),
        ("tool paint --style ", {"cubist", "naive"}),
        ("tool paint -s cub", {"cubist"}),
        ("tool paint --style=cub", {"--style=cubist"}),
        ("tool paint --brush cha", {"chalk"}),
        ("tool paint --brush sun", {"sun set.png"}),
        ("tool paint --out su", {"sub folder/"}),
        ("tool paint sun", {"sun set.png"}),
        ("tool frame wood --wi", {"--width"}),
        ("tool frame wood ", set()),
    ],
)
def test_fish_completes(room: Path, line: str, offers: set[str]) -> None:
    assert fish_offers(line, room / "work", room / "completions" / "tool.fish") == offers


# The words of the real commands


REAL = {
    "refseg prepare refcocog --split-by um": "umd",
    "refseg train --recipe vlt-tin": "vlt-tiny",
    "refseg predict --format ov": "overlay",
    "refseg -q predict --no-target-o": "--no-target-ok",
    "refseg predict pho": "photo.jpg",
    "refseg eval --data prep": "prepared",
}


@pytest.mark.parametrize("name", ["bash", "zsh"])
def test_bash_and_zsh_complete_refseg(name: str, tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "prepared").mkdir()
    shell = start_shell(name, tmp_path, REPOSITORY / "completions", "refseg")
    for line, last in REAL.items():
        assert shell.complete(line).replace("/>", ">").rpartition("<")[2] == f"{last}>"
    shell.close()


@pytest.mark.skipif(not shutil.which("fish"), reason="fish is not installed")
def test_fish_completes_refseg(tmp_path: Path) -> None:
    (tmp_path / "photo.jpg").touch()
    (tmp_path / "prepared").mkdir()
    for line, last in REAL.items():
        assert {
            offer.rstrip("/") for offer in fish_offers(line, tmp_path, REPOSITORY / "completions" / "refseg.fish")
        } == {last}


def examples() -> list[str]:
    blocks = [(h, b) for command in read_app(app, "refseg").walk() for h, b in command.blocks.items()]
    return [line for heading, body in blocks if heading.startswith("Example") for line in body.splitlines()]


def test_every_command_has_an_example() -> None:
    commands = [c for c in read_app(app, "refseg").walk() if not c.commands]
    assert [c.words for c in commands if not any(h.startswith("Example") for h in c.blocks)] == []


@pytest.mark.parametrize("line", examples())
def test_examples_name_what_there_is(line: str) -> None:
    words = shlex.split(line.split("|")[1 if line.startswith("cat ") else 0].split("&&")[0])
    command = read_app(app, "refseg")
    assert words.pop(0) == "refseg"
    while below := next((c for c in command.commands if words and c.words[-1] == words[0]), None):
        command, words = below, words[1:]
    assert not command.commands, f"{line}: stops at a group"
    known = {option: p for p in command.options for option in p.options}
    for i, word in enumerate(words):
        if word.startswith("-") and word != "-":
            assert word in known
            assert known[word].takes == "nothing" or i + 1 < len(words)
        if word == "--recipe":
            assert words[i + 1] in recipe_names()
