"""A name that is not there, in every option that takes one: one line with the nearest one that is, and status 2."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
import raw_layout
from PIL import Image

from refseg_cli import app
from refseg_cli.app import main
from refseg_cli.commands._spec import Parameter, read_app
from refseg_cli.errors import ERROR

Capture = pytest.CaptureFixture[str]

OPTIONS = {  # of a command -> what is wrong with it -> what it should have been
    "": {
        "anotate serve": "'annotate'",
        "--colr always": "--color",
        "--color alway": "'always'",
        "--progress line": "'lines'",
    },
    "annotate": {"serv": "'serve'", "serve --data {scenes} --split vall --out game": "'val'"},
    "bench": {
        "--arch vltt": "'vlt'",
        "--recipe vlt-tinyy": "'vlt-tiny'",
        "--model photoss": "'photos'",
        "--precision bf61": "'bf16'",
        "--stage end2end": "'end-to-end'",
        "--model {run} --device cpuu": "'cpu'",
        "--recipe vlt-tiny --set model.dimm=1": "'dim'",
    },
    "calibrate": {
        "--model {run} --data {scenes} --split vall": "'val'",
        "--model {run} --data {scenes} --device cpuu": "'cpu'",
        "--model {run} --data {scenes} --check-precision bf61": "'bf16'",
        "--model {run}t --data {scenes}": "{run}'",
    },
    "compare": {"{records} {records} --protocol lavtt": "'lavt'"},
    "config": {"shwo": "'show'", "show predictt": "'predict'", "show prepare cocoo": "'prepare coco'"},
    "eval --data {scenes}": {
        "--protocol lavtt": "'lavt'",
        "--split vall": "'val'",
        "--from {records} --split val,testa": "'testA'",
        "--model {run} --calibrate vall": "'val'",
        "--model sceness": "'scenes'",
        "--device cudaa": "'cuda'",
        "--set modle.oracle=mask": "'model'",
        "--mask-words atended": "'attended'",
        "--sanity shufled-phrases": "'shuffled-phrases'",
        "--merge unoin": "'union'",
        "--on-error skipp": "'skip'",
    },
    "export --output x.onnx": {
        "--format onxx": "'onnx'",
        "--dtype fp61": "'fp16'",
        "--int8 dynamik": "'dynamic'",
        "--model photoss": "'photos'",
        "--model {run} --data {scenes} --data-split vall": "'val'",
    },
    "import {records} -o x": {
        "--arch lavtt": "'lavt'",
        "--arch lavt --recipe lavt-refcoc": "'lavt-refcoco'",
        "--arch rela --lang-weight zer": "'zero'",
        "--arch lavt --expect lavt-refcoc": "'lavt-refcoco'",
    },
    "predict {picture} cat": {
        "--format overlai": "'overlay'",
        "--engine locl": "'local'",
        "--formatt png": "--format",
        "--model photoss": "'photos'",
        "--device cpuu": "'cpu'",
        "-o 'x/{{stam}}.png'": "'stem'",
    },
    "prepare": {
        "refcocoo": "'refcoco'",
        "refcoco --root {data} --out x --split-by unk": "'unc'",
        "refcoco --root {data} --out x --splits vall": "'val'",
        "scenes --out x --images trian=4": "'train'",
        "from {coco} --form labelmee --name x --out x": "'labelme'",
        "coco --annotations {coco} --images {data} --phrases genrate --out x": "'generate'",
        "coco --annotations {coco} --images {data} --phrases generate --out x --masks-on uprihgt": "'upright'",
    },
    "publish": {"--model photoss x": "'photos'"},
    "recipes": {
        "lisst": "'list'",
        "list --arch vltt": "'vlt'",
        "list --paper CPVR": "'CVPR'",
        "list --arch vlt --table 4.77": "'4.7'",
        "show vlt-tinyy": "'vlt-tiny'",
    },
    "train --data {scenes} --out x --device cpu": {
        "--arch vltt": "'vlt'",
        "--recipe vlt-tinyy": "'vlt-tiny'",
        "--recipe vlt-tiny --tracker tensorbord": "'tensorboard'",
        "--recipe vlt-tiny --init photoss": "'photos'",
        "--recipe vlt-tiny --set trian.lr=1": "'train'",
        "--recipe vlt-tiny --set train.lrr=1": "'lr'",
        "--recipe vlt-tiny --set train.precision=bf61": "'bf16'",
        "--recipe vlt-tiny --set train.best_metric=gIuo": "'gIoU'",
        "--recipe vlt-tiny --set train.eval_split=testa": "'testA'",
        "--recipe vlt-tiny --set model.backbone=resnet500": "'resnet50",
    },
}
CASES = [(command, wrong, near) for command, options in OPTIONS.items() for wrong, near in options.items()]
# Options that take any name, or one of a file.
FREE = {"name", "image_source", "vocab"}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory, scenes: Path, run: Path) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("names")
    picture, coco = folder / "photo.png", folder / "instances.json"
    Image.new("RGB", (8, 6)).save(picture)
    raw_layout.write_refcoco(folder)
    raw_layout.write_photos(folder)
    image = {"id": 1, "file_name": "photo.png", "width": 8, "height": 6}
    coco.write_text(json.dumps({"images": [image], "annotations": [], "categories": []}))
    records = folder / "records.parquet"
    assert main(["eval", "--data", str(scenes), "--model", str(run), "--records", str(records), "-q"]) == 0
    return {"scenes": scenes, "run": run, "picture": picture, "coco": coco, "records": records, "data": folder}


@pytest.mark.parametrize(("command", "wrong", "near"), CASES, ids=[f"{c.split(' ')[0]} {w}" for c, w, _ in CASES])
def test_the_nearest_name(
    command: str,
    wrong: str,
    near: str,
    places: dict[str, Path],
    capsys: Capture,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(shlex.split(f"{command} {wrong}".format(**places))) == ERROR
    said = capsys.readouterr()
    assert said.out == ""
    line = said.err.splitlines()[-1]
    assert "did you mean " in line, said.err
    assert near.format(**{name: path.name for name, path in places.items()}) in line, said.err
    assert not list(tmp_path.glob("x*")), "nothing is written"


def test_every_option_that_takes_a_name_is_tried() -> None:
    def named(parameter: Parameter) -> bool:
        return bool(parameter.values) or "NAME" in parameter.metavar or parameter.metavar in ("RUN", "SPLIT")

    tried = " ".join(f"{command} {wrong}" for command, wrong, _ in CASES)
    wanted = {
        parameter.options[0]
        for command in read_app(app.app, "refseg").walk()
        for parameter in command.options
        if named(parameter) and parameter.name not in FREE
    }
    missing = sorted(option for option in wanted if option not in tried)
    assert not missing
