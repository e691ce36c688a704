"""Defaults from the environment and from refseg.toml: which one wins, what is refused, and what `config show` says."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Annotated, Any

import pytest
import typer

from refseg_cli import app as shell
from refseg_cli.commands import _sources
from refseg_cli.commands._settings import Defaults, File, read
from refseg_cli.commands._spec import Command, read_app
from refseg_cli.errors import ERROR, FOUND, RefsegError

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's home without settings, and the project inside it that tests run in."""
    monkeypatch.delenv("REFSEG_CONFIG")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    monkeypatch.setenv("APPDATA", str(tmp_path / "config"))
    (tmp_path / "project/below").mkdir(parents=True)
    (tmp_path / "config/refseg").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path


def settings_of(*words: str) -> dict[str, tuple[Any, str]]:
    """Value and origin of every option of a command by its name."""
    commands = read_app(shell.app, "refseg")
    found = read(_sources.variables(os.environ), _sources.files(os.environ))
    (command,) = [command for command in commands.walk() if command.words[1:] == words]
    settings = {p.options[0]: found.of(command, p) for p in command.options}
    return {name: (setting.value, setting.where) for name, setting in settings.items() if setting}


def test_a_flag_outranks_a_variable_and_that_one_the_projects_file_and_that_one_the_users(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def refused(*arguments: str) -> str:
        assert shell.main(["bench", "--recipe", "vlt-tiny", *arguments]) == ERROR
        return capsys.readouterr().err

    (home / "config/refseg/refseg.toml").write_text('batch-sizes = "user"')
    assert "--batch-sizes user:" in refused()
    (home / "project/refseg.toml").write_text('batch-sizes = "project"')
    assert "--batch-sizes project:" in refused()
    monkeypatch.setenv("REFSEG_BATCH_SIZES", "variable")
    assert "--batch-sizes variable:" in refused()
    assert "--batch-sizes flag:" in refused("--batch-sizes", "flag")


def test_what_is_set_for_one_command_outranks_what_is_set_for_all(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("refseg.toml").write_text("workers = 1\n[prepare]\nworkers = 2\n[prepare.coco]\nworkers = 3\n")
    assert settings_of("prepare", "coco")["--workers"] == (3, "refseg.toml:5")
    assert settings_of("prepare", "refcoco+")["--workers"] == (2, "refseg.toml:3")
    monkeypatch.setenv("REFSEG_WORKERS", "4")
    assert settings_of("prepare", "coco")["--workers"] == (4, "REFSEG_WORKERS")  # a variable before any file
    monkeypatch.setenv("REFSEG_PREPARE_REFCOCOPLUS_WORKERS", "5")
    assert settings_of("prepare", "refcoco+")["--workers"] == (5, "REFSEG_PREPARE_REFCOCOPLUS_WORKERS")
    assert settings_of("prepare", "refcoco")["--workers"] == (4, "REFSEG_WORKERS")


def test_the_nearest_file_above_is_the_projects(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / "refseg.toml").write_text('device = "mps"')
    monkeypatch.chdir(home / "project/below")
    assert settings_of("predict")["--device"] == ("mps", str(home / "refseg.toml") + ":1")
    (home / "project/refseg.toml").write_text('model = "./runs/a"\nrecipe = "mine"\n')
    assert settings_of("eval") == {"--model": (str(home / "project/runs/a"), "../refseg.toml:1")}
    monkeypatch.chdir(home / "project")
    assert settings_of("eval") == {"--model": ("runs/a", "refseg.toml:1")}


def test_refseg_config_names_the_only_file(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("refseg.toml").write_text('device = "mps"')
    monkeypatch.setenv("REFSEG_CONFIG", os.devnull)
    assert settings_of("predict") == {}
    Path("other.toml").write_text('device = "cpu"')
    monkeypatch.setenv("REFSEG_CONFIG", "other.toml")
    assert settings_of("predict") == {"--device": ("cpu", "other.toml:1")}
    monkeypatch.setenv("REFSEG_CONFIG", "gone.toml")
    with pytest.raises(RefsegError, match=r"gone.toml: no such file \(REFSEG_CONFIG names it\)"):
        settings_of("predict")


def test_lists_and_flags(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("refseg.toml").write_text('[eval]\nprotocol = ["lavt", "rela"]\nset = ["a.b=1", "c.d=2"]\nslices = true\n')
    got = settings_of("eval")
    assert [got[name][0] for name in ("--protocol", "--set", "--slices")] == ["lavt,rela", ["a.b=1", "c.d=2"], True]
    monkeypatch.setenv("REFSEG_EVAL_SET", "'a.b=x y' c.d=3")
    monkeypatch.setenv("REFSEG_EVAL_SLICES", "no")
    got = settings_of("eval")
    assert (got["--set"][0], got["--slices"][0]) == (["a.b=x y", "c.d=3"], False)
    monkeypatch.setenv("REFSEG_EVAL_SET", "'a.b=x")
    with pytest.raises(RefsegError, match=r"REFSEG_EVAL_SET: .*no closing quotation"):
        settings_of("eval")


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("\ndevcie = 'cpu'", "refseg.toml:2: unknown key 'devcie' (did you mean 'device'?)"),
        ("[predict]\n\nslices = true", "refseg.toml:3: unknown key 'slices' in [predict] (one of: batch-images, clip,"),
        ("[predct]\nformat = 'png'", "refseg.toml:1: unknown key 'predct' (did you mean 'predict'?)"),
        ("[prepare.coc]\nseed = 1", "refseg.toml:1: unknown key 'coc' in [prepare] (did you mean 'coco'?)"),
        ("version = true", "refseg.toml:1: unknown key 'version' (did you mean "),
        ("[device]\nname = 'cpu'", "refseg.toml:1: device: expected a value, not a table"),
        ("predict = 5", "refseg.toml:1: predict: expected a table of options: [predict]"),
        ("[prepare]\ncoco = 'x'", "refseg.toml:2: coco: expected a table of options: [prepare.coco]"),
        ("[[predict]]\nformat = 'rle'", "refseg.toml:1: predict: expected a table of options: [predict]"),
        ("predict.format = 'ovrlay'", "refseg.toml:1: format: unknown value 'ovrlay' (did you mean 'overlay'?)"),
        ("\n\nthreshold = 3", "refseg.toml:3: threshold: expected a number of at most 1, not 3"),
        ("[predict]\nmax-pixels = 0.5", "refseg.toml:2: max-pixels: expected a whole number, not 0.5"),
        ("json = 'yes'", "refseg.toml:1: json: expected true or false, not 'yes'"),
        ("model = true", "refseg.toml:1: model: expected text, not True"),
        ("a = ", "refseg.toml: not valid TOML: "),
        ("a = " + "[" * 5000, "refseg.toml: not valid TOML: "),
        ("model = './runs/gone'", "runs/gone: no such checkpoint folder (give the --out of `refseg train`, or omit "
         "--model for a bundled model; --model is set in refseg.toml:1)"),
        ("explain = true\nformat = 'overlay'", "--explain and --format overlay exclude each other (give one of them; "
         "--format is set in refseg.toml:2)"),
    ],
)  # fmt: skip
def test_a_wrong_setting_is_named_with_file_line_and_the_nearest_name(text: str, line: str, capsys: Capture) -> None:
    Path("refseg.toml").write_text(text)
    Path("a.png").write_bytes((Path(__file__).parents[2] / "docs/pictures/bundled-model.jpg").read_bytes())
    assert shell.main(["predict", "a.png", "a dog"]) == ERROR
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith(f"refseg: {line}")
    assert streams.err.count("\n") == 1


def test_help_is_given_whatever_the_file_holds(capsys: Capture) -> None:
    Path("refseg.toml").write_text("nonsense")
    assert shell.main(["predict", "--help"]) == FOUND
    assert capsys.readouterr().err == ""


def test_a_mistyped_variable_is_warned_of_and_others_own_ones_are_not(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("REFSEG_PREDICT_FORMT", "png")
    monkeypatch.setenv("REFSEG_TEAM_BUCKET_ON_MARS", "x")
    shell.main(["recipes", "show", "vlt-tiny"])
    assert capsys.readouterr().err == (
        "refseg: warning: REFSEG_PREDICT_FORMT sets nothing; did you mean REFSEG_PREDICT_FORMAT?\n"
    )


def test_config_show(home: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    Path("refseg.toml").write_text("quiet = true\n[bench]\nrepeat = 7\n")
    monkeypatch.setenv("REFSEG_DEVICE", "cpu")
    assert shell.main(["config", "show", "bench"]) == FOUND
    out, err = capsys.readouterr()
    rows = [line.split() for line in out.splitlines()]
    assert rows[0] == ["command", "option", "value", "from"]
    assert ["bench", "--repeat", "7", "refseg.toml:3"] in rows
    assert ["bench", "--device", "cpu", "REFSEG_DEVICE"] in rows
    assert ["bench", "--warmup", "3", "built-in"] in rows
    assert err.splitlines() == [
        f"{home}/project/refseg.toml: read",
        f"{home}/config/refseg/refseg.toml: not there",
    ]
    assert shell.main(["config", "show", "--json"]) == FOUND
    shown = json.loads(capsys.readouterr().out)
    assert shown["files"] == {f"{home}/project/refseg.toml": True, f"{home}/config/refseg/refseg.toml": False}
    assert {"command": "bench", "option": "--repeat", "value": 7, "from": "refseg.toml:3"} in shown["settings"]
    assert not any(row["from"] == "built-in" for row in shown["settings"])
    assert shell.main(["config", "show", "bnch"]) == ERROR
    assert "unknown command 'bnch' (did you mean 'bench'?)" in capsys.readouterr().err
    assert shell.main(["config", "show", "zzz"]) == ERROR
    assert "(one of: annotate, " in capsys.readouterr().err


def test_config_show_without_settings(capsys: Capture) -> None:
    assert shell.main(["config", "show"]) == FOUND
    assert capsys.readouterr().out == "no defaults are set; name a command to see those that are built in\n"


def test_lines_are_those_of_the_keys() -> None:
    text = '# a = 1\na.b = 1\n["c d".e]\n"f" = """\nx"""\n[c]\ng=1'
    file = File("x.toml", Path(), text, {})
    keys = (["a", "b"], ["c d", "e", "f"], ["c d", "e", "gone"], ["c", "g"], ["nowhere"])
    assert [file.where(key) for key in keys] == [f"x.toml:{n}" for n in (2, 4, 3, 7, 1)]


def test_no_option_has_the_name_of_a_variable_that_is_no_default() -> None:
    names = {p.options[0] for command in read_app(shell.app, "refseg").walk() for p in command.options}
    assert not names & {"--config", "--debug"}


def test_a_command_and_an_option_of_one_name_are_told_apart() -> None:
    Path("refseg.toml").write_text('[eval]\ncalibrate = "train"\n[calibrate]\nsplit = "testA"\n')
    assert settings_of("eval") == {"--calibrate": ("train", "refseg.toml:2")}
    assert settings_of("calibrate") == {"--split": ("testA", "refseg.toml:4")}


def test_a_required_option_may_be_set() -> None:
    app = typer.Typer()
    said = []

    @app.command()
    def paint(out: Annotated[str, typer.Option("--out")]) -> None:
        said.append(out)

    @app.command()
    def other() -> None: ...

    Path("refseg.toml").write_text('out = "here"')
    commands: Command = read_app(app, "tool")
    defaults = Defaults(read({}, _sources.files({})), commands)
    app(["paint"], standalone_mode=False, default_map=defaults)
    assert said == ["here"]


def test_nothing_is_imported_where_nothing_is_set(home: Path) -> None:
    script = (
        "import sys; from refseg_cli.app import main; main(['predict'])\n"
        "print([m for m in ('tomllib', 'shlex', 'refseg_cli.commands._settings', 'refseg_cli.commands._spec') "
        "if m in sys.modules])"
    )
    for text, loaded in ((None, False), ("", True)):
        if text is not None:
            Path("refseg.toml").write_text(text)
        done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
        assert ("tomllib" in done.stdout) == loaded
