"""What nothing reads: refused where it is typed, passed over where `refseg.toml` or the environment sets it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from refseg_cli.app import main
from refseg_cli.engine import bench, bulk, export, train
from refseg_cli.errors import ERROR, RefsegError, Unread
from refseg_cli.evaluation import asked, evaluate, outside
from refseg_cli.segmenters import choice

Capture = pytest.CaptureFixture[str]
REACHED = "the work begins"
CHECK = asked.check


@pytest.fixture(autouse=True)
def seen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What reached the floors below the commands, which all stop there."""
    calls: list[tuple[Any, ...]] = []

    def stop(*words: Any, **options: Any) -> Any:
        calls.append((*words, options))
        raise RefsegError(REACHED)

    places = [(outside, "score_file"), (evaluate, "evaluate"), (choice, "open_segmenter"), (choice, "open_explaining")]
    for module, name in [*places, (bulk, "answer_shards"), (bench, "bench"), (export, "export"), (train, "train")]:
        monkeypatch.setattr(module, name, stop)
    monkeypatch.setattr(asked, "check", lambda request: None)
    monkeypatch.chdir(tmp_path)
    picture = Path(__file__).parents[2] / "docs/pictures/bundled-model.jpg"
    Path("a.jpg").write_bytes(picture.read_bytes())
    Path("requests.jsonl").write_text("{}\n")
    return calls


def said(settings: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> str:
    Path("house.toml").write_text(settings)
    monkeypatch.setenv("REFSEG_CONFIG", "house.toml")
    assert main(words.split()) == ERROR
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ("memory = '4G'\nprecision = 'bf16'\ndevice = 'cuda'\nmodel = 'runs/a'", "eval --data d --from p.jsonl"),
        ("limit = 3\nbatch-images = 4\ncompile = true\ncalibrate = 'val'", "eval --data d --from p.jsonl"),
        ("sanity = 'wrong-image'\nmask-count = 2\nset = ['a.b=1']", "eval --data d --from p.jsonl"),
        ("on-error = 'skip'\nmerge = 'union'\nmask-count = 2\npalette = true", "eval --data d"),
        ("json = true\nlatex = true", "eval --data d --markdown"),
        ("compile = true", "eval --data d --report r.html"),
        ("sanity = 'wrong-image'", "eval --data d --report r.html"),
        ("slices = true\ncurves = true\ntrained-on = 'd'", "eval --data d --sanity wrong-image"),
        ("data = 'd'\nsplit = 'testA'\nengine = 'ray'\nworkers = 4\nthreads = 2", "predict a.jpg dog"),
        ("jsonl = 'requests.jsonl'\nrecursive = true\nevery = 2\nsimplify = 2", "predict a.jpg dog"),
        ("output = 'm/'\nformat = 'coco'\nresume = true\nforce = true", "predict a.jpg dog -l"),
        ("format = 'rle'\ncoco-ids = 'x.json'\nresume = true\ncount = true", "predict --jsonl requests.jsonl --json"),
        ("format = 'png'\nclip = true\nforce = true\nsimplify = 2", "predict --data d -o out"),
        ("force = true", "predict a.jpg dog --resume -o m/"),
        ("compile = true\nbatch-images = 4", "predict a.jpg dog -f explain -o m.png"),
        ("explain = true", "predict a.jpg dog -f overlay -o m.png"),
        ("count = true", "predict a.jpg dog -l"),
        ("model = 'runs/a'\nset = ['a.b=1']\nfail-below = 0.9", "bench"),
        ("model = 'runs/a'", "bench --recipe vlt-tiny"),
        ("recipe = 'vlt-tiny'", "bench --arch lavt"),
        ("arch = 'lavt'", "bench --recipe vlt-tiny"),
        ("data-split = 'testA'\nlimit = 3\nmax-loss = 2.0", "export -o m.onnx"),
        ("int8 = 'dynamic'", "export -o m.onnx --dtype fp16 --data d"),
        ("[export]\nsplit = true", "export -o m.pt2 -f pt2"),
        ("init = 'runs/a'", "train --data d --resume --recipe vlt-tiny --out run"),
    ],
)
def test_settings_yield_where_nothing_reads_them(
    settings: str, words: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert f"refseg: {REACHED}" in said(settings, words, monkeypatch, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("eval --data d --from p.jsonl --precision fp32", "--precision needs a model"),
        ("eval --data d --from p.jsonl --device cpu", "--device needs a model"),
        ("eval --data d --from p.jsonl --batch-images 8", "--batch-images needs a model"),
        ("eval --data d --on-error fail", "--on-error applies to --from"),
        ("eval --data d --mask-count 1", "--mask-count needs --mask-words"),
        ("predict a.jpg dog --split val", "--split applies to --data"),
        ("predict a.jpg dog --workers 1", "--workers applies to --data"),
        ("predict --demo --threshold 0.4", "--demo has no use for --threshold"),
        ("predict --demo --force", "--demo has no use for --force"),
        ("predict --data d -o out --max-pixels 9", "--data has no use for --max-pixels"),
        ("predict --data d -o out --workers 2", "--engine local has no use for --workers"),
        ("predict --jsonl requests.jsonl -r", "--jsonl has no use for --recursive"),
        ("predict a.jpg dog -f json --simplify 0", "--format json has no use for --simplify"),
        ("bench --fail-below 0.9", "--fail-below needs something to compare with"),
        ("export -o m.onnx --limit 0", "--dtype fp32 has no use for --limit"),
        ("export -o m.onnx --data-split val", "an export without --data has no use for --data-split"),
        ("prepare scenes --out d --frames 8", "--frames is for clips"),
    ],
)
def test_what_is_typed_for_nothing_is_refused_whatever_its_value(
    words: str, message: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    assert message in said("memory = '4G'", words, monkeypatch, capsys)


def test_a_resumed_run_keeps_its_recipe_whatever_the_house_trains(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    """The recipe that is set is for new runs."""
    text = said("recipe = 'vlt-tiny'", "train --data d --resume --out gone", monkeypatch, capsys)
    assert text.startswith("refseg: gone: no run to resume here")


def test_a_model_that_has_no_use_for_a_setting_is_opened_without_it(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture, seen: list[tuple[Any, ...]]
) -> None:
    def opened(model: str, **options: Any) -> Any:
        seen.append((model, options))
        if options.get("memory"):
            raise Unread("no use for it", option="--memory")
        raise RefsegError(REACHED)

    monkeypatch.setattr(choice, "open_segmenter", opened)
    assert REACHED in said("memory = '4GB'\ndevice = 'cpu'", "predict a.jpg dog --model x", monkeypatch, capsys)
    assert [call[-1].get("memory") for call in seen] == [4_000_000_000, None]
    assert seen[-1][-1]["device"] == "cpu"
    assert "no use for it" in said("", "predict a.jpg dog --model x --memory 4GB", monkeypatch, capsys)


def test_a_run_that_sees_is_resumed_though_the_house_trains_blind(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    asked = []

    def resumed(request: train.TrainRequest, **options: Any) -> Any:
        asked.append(request.shuffle_phrases)
        if request.shuffle_phrases:
            raise Unread("it sees", option="--shuffle-phrases")
        raise RefsegError(REACHED)

    monkeypatch.setattr(train, "train", resumed)
    words = "train --data d --resume --recipe vlt-tiny --out run"
    assert REACHED in said("shuffle-phrases = true", words, monkeypatch, capsys)
    assert asked == [True, False]
    assert "it sees" in said("", f"{words} --shuffle-phrases", monkeypatch, capsys)


def test_a_variable_is_a_setting_like_any_other(monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.setenv("REFSEG_MEMORY", "4G")
    assert REACHED in said("", "eval --data d --from p.jsonl", monkeypatch, capsys)
    assert "--memory needs a model" in said("", "eval --data d --from p.jsonl --memory 4G", monkeypatch, capsys)


@pytest.mark.parametrize("name", ["model.onnx", "clipseg"])
def test_every_option_that_a_model_refuses_says_which_it_is(name: str, tmp_path: Path) -> None:
    Path("model.onnx").touch()
    Path("clipseg").mkdir()
    Path("clipseg/config.json").write_text('{"model_type": "clipseg"}')
    request = evaluate.EvalRequest("d", ("val",), name, precision="bf16", overrides=("a.b=1",), batch_images=4)
    refused = []
    while True:
        try:
            CHECK(request)
        except Unread as error:
            refused.append(error.option)
            usual = {
                "--precision": {"precision": "fp32"},
                "--set": {"overrides": ()},
                "--batch-images": {"batch_images": 8},
            }
            request = replace(request, **usual[error.option])
        else:
            break
    assert refused == ["--precision", "--set", *(["--batch-images"] if name == "clipseg" else [])]
