"""`refseg import`: the request that reaches the engine, and what is printed of its report."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from refseg_cli.app import main
from refseg_cli.config import load_recipe
from refseg_cli.engine import importing as engine
from refseg_cli.engine.importing import ImportReport, ImportRequest, Part
from refseg_cli.errors import ERROR, FOUND
from refseg_cli.records import Thresholds

Capture = pytest.CaptureFixture[str]
DROPPED = {"a.index": "computed", "b.index": "computed", "gate": "of the last stage, which nothing reads"}


@pytest.fixture
def requests(monkeypatch: pytest.MonkeyPatch) -> list[ImportRequest]:
    """What reaches the engine."""
    seen: list[ImportRequest] = []

    def import_checkpoint(request: ImportRequest) -> ImportReport:
        seen.append(request)
        parts = (Part("vision", 413, 98_200_000), Part("text", 197, 108_900_000))
        notes = ("lang_weight is 0",)
        return ImportReport(
            request.source, request.out, "vlt", parts, DROPPED, {"dim": 64}, Thresholds(mask=0.35), notes
        )

    monkeypatch.setattr(engine, "import_checkpoint", import_checkpoint)
    return seen


def test_what_reaches_the_engine(requests: list[ImportRequest]) -> None:
    words = ["import", "x.pth", "--arch", "vlt", "--recipe", "vlt-swin-b-refcoco", "--set", "text.max_tokens=22"]
    assert main([*words, "--vocab", "v.txt", "--lang-weight", "stored", "-o", "out", "-q"]) == FOUND
    overrides = ["text.max_tokens=22", 'text.vocab="v.txt"']
    recipe = load_recipe("vlt-swin-b-refcoco", overrides)
    assert requests == [ImportRequest(Path("x.pth"), recipe, Path("out"), "vlt-swin-b-refcoco", "stored")]


def test_the_rest_is_left_to_the_recipe_of_the_architecture(requests: list[ImportRequest]) -> None:
    assert main(["import", "x.pth", "--arch", "vlt", "-o", "out"]) == FOUND
    assert requests == [ImportRequest(Path("x.pth"), load_recipe("vlt-darknet53-refcoco"), Path("out"))]


def test_parts_and_reasons_are_printed(requests: list[ImportRequest], capsys: Capture) -> None:
    assert main(["import", "x.pth", "--arch", "vlt", "-o", "out"]) == FOUND
    streams = capsys.readouterr()
    assert streams.out.splitlines() == [
        "out: vlt, 207.1 M weights, mask above 0.35",
        "part    tensors    weights",
        "vision      413   98200000",
        "text        197  108900000",
        "not needed",
        "tensors  for example  because",
        "      2  a.index      computed",
        "      1  gate         of the last stage, which nothing reads",
    ]
    assert streams.err == "note: lang_weight is 0\n"


def test_json_has_all_of_the_report(requests: list[ImportRequest], capsys: Capture) -> None:
    assert main(["import", "x.pth", "--arch", "vlt", "-o", "out", "--json"]) == FOUND
    report = json.loads(capsys.readouterr().out)
    assert report["dropped"] == DROPPED
    assert report["parts"][0] == {"name": "vision", "tensors": 413, "weights": 98_200_000}
    assert (report["out"], report["thresholds"]["mask"], report["model"]) == ("out", 0.35, {"dim": 64})


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--arch", "vlt"], "--output"),
        (["-o", "out"], "--arch"),
        (["--arch", "vlr", "-o", "out"], "unknown architecture 'vlr' (did you mean 'vlt'?)"),
        (["--arch", "vlt", "--recipe", "align-tiny", "-o", "out"], "is of align, not of --arch vlt"),
    ],
)
def test_wrong_usage_names_what_is_missing(
    requests: list[ImportRequest], capsys: Capture, words: list[str], says: str
) -> None:
    assert main(["import", "x.pth", *words]) == ERROR
    assert says in capsys.readouterr().err
    assert not requests
