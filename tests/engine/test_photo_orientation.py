"""One orientation from the photo to the score: what a model sees, masks in shards and predictions lie on each other."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import raw_layout
from PIL import Image

from refseg_cli.app import main
from refseg_cli.config import DataConfig, TextConfig
from refseg_cli.data import masks, shards, storage
from refseg_cli.data.loader import Pick, StepDataset
from refseg_cli.data.orientation import ORIENTATIONS, turned
from refseg_cli.data.pictures import decode_image, load_image
from refseg_cli.data.sources import photos
from refseg_cli.data.text import build_tokenizer
from refseg_cli.engine.prepare import Output, PrepareRequest, prepare
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Expression, Instance, Record

BACK = {6: 8, 8: 6}  # the orientation that undoes one; the others undo themselves
FRAMES = ("upright", "stored")


def upright_picture(square: bool = False) -> np.ndarray:
    """(h, w, 3): a white object on grey, in no middle of anything."""
    picture = np.full((48, 48 if square else 64, 3), 90, np.uint8)
    picture[8:24, 4:36] = 255
    return picture


def the_object(pixels: np.ndarray) -> np.ndarray:
    """(h, w) bool: what is white; pixels: (h, w, 3)."""
    return pixels.mean(-1) > 170


def stored(picture: np.ndarray, orientation: int) -> np.ndarray:
    """(h, w, 3) as a camera stores it that was held so."""
    return turned(picture.transpose(2, 0, 1), BACK.get(orientation, orientation)).transpose(1, 2, 0)


def photo(picture: np.ndarray, orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(stored(picture, orientation))).save(
        file, "JPEG", quality=98, subsampling=0, exif=exif
    )
    return file.getvalue()


def raw_data(root: Path, picture: np.ndarray, orientation: int, frame: str) -> Path:
    """One photo and its object, as a polygon and as RLE, drawn on what `frame` says; where the photo is."""
    drawn = the_object(picture if frame == "upright" else stored(picture, orientation))
    rle = masks.encode(drawn)
    x, y, w, h = masks.box(rle)
    rows = [
        raw_layout.annotation(10, 1, bbox=[x, y, w, h], segmentation=[[x, y, x + w, y, x + w, y + h, x, y + h]]),
        raw_layout.annotation(
            11, 1, bbox=[x, y, w, h], segmentation={"size": list(drawn.shape), "counts": rle.counts.decode()}
        ),
    ]
    refs = [raw_layout.ref(0, 1, 10, "val", ["the polygon"]), raw_layout.ref(1, 1, 11, "val", ["the runs"])]
    raw_layout.write_refcoco(root, refs, rows)
    path = root / "refcoco/instances.json"
    table = json.loads(path.read_text())
    table["images"] = [{**table["images"][0], "height": drawn.shape[0], "width": drawn.shape[1]}]
    path.write_text(json.dumps(table))
    file = root / "images" / table["images"][0]["file_name"]
    file.write_bytes(photo(picture, orientation))
    return file


def perfect(file: Path, path: Path, orientation: int = 1) -> str:
    """Predictions as `predict --json` prints them, of a model that sees what is white; turned back by `orientation`."""
    found = the_object(load_image(file).permute(1, 2, 0).numpy())
    rle = masks.encode(turned(found, BACK.get(orientation, orientation)))
    mask = {"size": list(rle.size), "counts": rle.counts.decode()}
    phrases = ("the polygon", "the runs")
    path.write_text("".join(json.dumps({"image": str(file), "phrase": p, "mask": mask}) + "\n" for p in phrases))
    return str(path)


def c_iou(data: Path, source: str) -> float:
    return scores(score_file(OutsideRequest(source, str(data), ("val",))).answers["val"].counts()).table()["cIoU"]


@pytest.mark.parametrize("square", [False, True])
@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("orientation", sorted(ORIENTATIONS))
def test_photo_masks_and_predictions_lie_on_each_other(
    tmp_path: Path, orientation: int, frame: Any, square: bool
) -> None:
    picture, out = upright_picture(square), tmp_path / "out"
    file = raw_data(tmp_path / "raw", picture, orientation, frame)
    prepare(PrepareRequest("refcoco", tmp_path / "raw", Output(str(out), rules=photos.Rules(masks_on=frame))))
    record = shards.open_shards(str(out), "val")[0]
    assert (record.height, record.width, record.orientation) == (*picture.shape[:2], orientation)
    assert record.image == file.read_bytes()
    seen = decode_image(record.image, orientation=record.orientation, size=picture.shape[:2])
    assert (seen == load_image(file)).all()  # eval and predict
    assert np.abs(seen.permute(1, 2, 0).numpy().astype(int) - picture).max() < 30
    for instance in record.instances:
        np.testing.assert_array_equal(masks.decode(instance.rle), the_object(picture))
        assert instance.box == (4, 8, 32, 16)
    assert c_iou(out, perfect(file, tmp_path / "p.jsonl")) == 100


@pytest.mark.parametrize("frame", FRAMES)
@pytest.mark.parametrize("orientation", [5, 6, 7, 8])
def test_a_quarter_turn_needs_no_option(tmp_path: Path, orientation: int, frame: str) -> None:
    out = tmp_path / "out"
    file = raw_data(tmp_path / "raw", upright_picture(), orientation, frame)
    assert main(["prepare", "refcoco", "--root", str(tmp_path / "raw"), "--out", str(out), "-q"]) == 0
    assert c_iou(out, perfect(file, tmp_path / "p.jsonl")) == 100
    assert c_iou(out, perfect(file, tmp_path / "p.jsonl", orientation)) == 100  # of a tool that knows no EXIF


def test_half_a_turn_goes_by_the_option(tmp_path: Path) -> None:
    out = str(tmp_path / "out")
    file = raw_data(tmp_path / "raw", upright_picture(), 3, "stored")
    command = ["prepare", "refcoco", "--root", str(tmp_path / "raw"), "--out", out, "-q"]
    assert main(command) == 0
    assert c_iou(Path(out), perfect(file, tmp_path / "p.jsonl")) < 50
    assert main([*command, "--masks-on", "stored"]) == 2  # other data is in the way: the option is part of the plan
    assert main([*command, "--masks-on", "stored", "--overwrite"]) == 0
    assert c_iou(Path(out), perfect(file, tmp_path / "p.jsonl")) == 100


def test_prepare_has_the_limit_that_predict_has(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    raw_data(tmp_path / "raw", upright_picture(), 1, "upright")
    command = ["prepare", "refcoco", "--root", str(tmp_path / "raw"), "--out", str(tmp_path / "out"), "-q"]
    assert main([*command, "--max-pixels", str(48 * 64 - 1)]) == 2
    assert f"--max-pixels {48 * 64} reads it" in capfd.readouterr().err
    assert main([*command, "--max-pixels", str(48 * 64)]) == 0


def test_the_loader_turns_what_it_decodes(tmp_path: Path) -> None:
    picture, out = upright_picture(), tmp_path / "out"
    raw_data(tmp_path / "raw", picture, 6, "stored")
    prepare(PrepareRequest("refcoco", tmp_path / "raw", Output(str(out))))
    config = DataConfig(size=(48, 64))
    dataset = StepDataset(shards.open_shards(str(out), "val"), build_tokenizer(TextConfig(), ["the polygon"]), config)
    batch = dataset[(Pick(0, (0,)),)].to("cpu")
    assert batch.sizes is not None
    assert batch.sizes.tolist() == [[48, 64]]
    assert batch.masks is not None
    bright = batch.images[0].mean(0) > batch.images[0].mean()
    assert (bright == batch.masks[0, 0].bool()).all()


def test_shards_made_before_are_of_the_pixels_as_stored(tmp_path: Path) -> None:
    """They have no column `orientation`. Masks and pixels agree as they did; turned predictions are told why not."""
    file, as_stored = tmp_path / "a.jpg", stored(upright_picture(), 6)
    file.write_bytes(photo(upright_picture(), 6))
    drawn = masks.encode(the_object(as_stored))
    instance = Instance(10, 1, "cat", masks.box(drawn), drawn)
    expressions = tuple(Expression(text, 0, n, (0,)) for n, text in enumerate(("the polygon", "the runs")))
    record = Record(1, "a.jpg", "val", *drawn.size, file.read_bytes(), (instance,), expressions)
    out = storage.locate(str(tmp_path / "out"))
    info = shards.write_shard(out / "val-0.parquet", [record], plan="p", problems=[])
    path = tmp_path / "out/val-0.parquet"
    pq.write_table(pq.read_table(path).drop_columns(["orientation"]), path)
    place = out / path.name
    info = replace(info, files=(replace(info.files[0], bytes=place.size(), sha256=place.sha256()),))
    storage.write(out / shards.MANIFEST, shards.Manifest("d", "unc", "coco", {}, "p", {"val": info}).to_json())
    read = shards.open_shards(out.uri, "val")[0]
    assert read == record
    seen = decode_image(read.image, orientation=read.orientation, size=drawn.size)
    np.testing.assert_array_equal(the_object(seen.permute(1, 2, 0).numpy()), masks.decode(drawn))
    with pytest.raises(RefsegError, match=r"turned by its EXIF orientation.*prepare the data again"):
        c_iou(tmp_path / "out", perfect(file, tmp_path / "p.jsonl"))
