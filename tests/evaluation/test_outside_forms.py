"""What tools write: perfect predictions in every form, in any order, score 100; everything else is named."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import records, write_split
from PIL import Image
from scored import lines, rle, score

from refseg_cli.data import masks
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.outside import Outside
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Expression, Record

Pair = tuple[Record, Expression]


def as_coco_photos() -> list[Record]:
    return [replace(r, file_name=f"COCO_train2014_{r.image_id:012d}.jpg") for r in records("val")]


def with_ids_of_each_ref() -> list[Record]:
    """Own data: two references a picture at least, whose sentences are numbered 0 and 1 each."""
    found = []
    for record in as_coco_photos()[:1]:
        texts = ("small", "top left"), ("large", "bottom right")
        expressions = [
            Expression(text, ref, sent, (ref,)) for ref, both in enumerate(texts) for sent, text in enumerate(both)
        ]
        found.append(replace(record, expressions=tuple(expressions)))
    return found


def truth(pair: Pair) -> np.ndarray:
    """(h, w) bool."""
    record, expression = pair
    found = np.zeros((record.height, record.width), dtype=bool)
    for target in expression.targets:
        found |= masks.decode(record.instances[target].rle) > 0
    return found


def parts(pair: Pair) -> list[dict]:
    record, expression = pair
    return [rle(masks.decode(record.instances[t].rle)) for t in expression.targets]


def runs(mask: np.ndarray) -> list[int]:
    """COCO's uncompressed counts."""
    flat = mask.flatten(order="F").astype(int)
    edges = np.flatnonzero(np.diff(flat)) + 1
    found = np.diff([0, *edges, flat.size]).tolist()
    return [0, *found] if flat[0] else found


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Prepared data with COCO's file names."""
    (tmp_path / "data").mkdir()
    write_split(tmp_path / "data", "val", as_coco_photos())
    return tmp_path / "data"


def pairs(content: list[Record]) -> list[Pair]:
    return [(record, expression) for record in content for expression in record.expressions]


def assert_perfect(outside: Outside, expressions: int) -> None:
    answers = outside.answers["val"]
    table = scores(answers.counts()).values
    assert (len(answers), table["gIoU"], table["cIoU"]) == (expressions, 1, 1)


NAMES: dict[str, Callable[[Pair], dict]] = {
    "sent_id": lambda p: {"sent_id": p[1].sent_id},
    "sent_id as text": lambda p: {"sent_id": f"{p[1].sent_id}"},
    "sent_id as a float": lambda p: {"sent_id": float(p[1].sent_id)},
    "expression_id": lambda p: {"expression_id": p[1].sent_id},
    "ref_id": lambda p: {"ref_id": p[1].ref_id},
    "ref_id and phrase": lambda p: {"ref_id": f"{p[1].ref_id}", "sent": p[1].text},
    "everything": lambda p: {
        "image_id": p[0].image_id,
        "image": p[0].file_name,
        "ref_id": p[1].ref_id,
        "sent_id": p[1].sent_id,
        "phrase": p[1].text,
    },
    "image": lambda p: {"image": p[0].file_name, "phrase": p[1].text},
    "file_name, text": lambda p: {"file_name": p[0].file_name, "text": p[1].text},
    "id, caption": lambda p: {"image_id": p[0].image_id, "caption": p[1].text},
    "id as text, expression": lambda p: {"image_id": f"{p[0].image_id}", "expression": p[1].text.upper()},
    "id with zeros": lambda p: {"image_id": f"{p[0].image_id:012d}", "sent": p[1].text},
    "id as a float": lambda p: {"image_id": float(p[0].image_id), "sent": p[1].text},
    "id as a file name": lambda p: {"image_id": p[0].file_name, "phrase": p[1].text},
    "no ending": lambda p: {"image": p[0].file_name.removesuffix(".jpg"), "phrase": p[1].text},
    "2017": lambda p: {"image": f"train2017/{p[0].image_id:012d}.jpg", "phrase": p[1].text},
    "as in refs": lambda p: {"file_name": p[0].file_name.replace(".jpg", "_0.jpg"), "phrase": p[1].text},
}


@pytest.mark.parametrize("form", NAMES)
def test_perfect_predictions_score_100_in_any_order_under_every_name(photos, tmp_path, form):
    found = [{**NAMES[form](pair), "mask": rle(truth(pair))} for pair in pairs(as_coco_photos())]
    random.Random(form).shuffle(found)
    assert_perfect(score(photos, lines(tmp_path / "p.jsonl", found)), 6)


def png(mask: np.ndarray, path: Path, mode: str, inside: int = 255) -> None:
    image = Image.fromarray(mask.astype(np.uint8) * inside)
    if mode == "P":
        image.putpalette([0, 0, 0, 200, 10, 10] + [0] * 762)
    else:
        image = image.convert(mode)
    image.save(path)


def as_png(mode: str, inside: int = 255) -> Callable[[Pair, Path], dict]:
    def form(pair: Pair, folder: Path) -> dict:
        (folder / "drawn").mkdir(exist_ok=True)
        name = f"drawn/{pair[1].sent_id}.png"
        png(truth(pair), folder / name, mode, inside)
        return {"mask": name}

    return form


def corners(instance) -> list[float]:
    """The polygon around a rectangle."""
    x, y, w, h = masks.box(instance.rle)
    return [x, y, x + w, y, x + w, y + h, x, y + h]


def polygons(pair: Pair) -> list[list[float]]:
    return [corners(pair[0].instances[t]) for t in pair[1].targets]


MASKS: dict[str, Callable[[Pair, Path], dict]] = {
    "rle": lambda p, _: {"mask": rle(truth(p))},
    "runs": lambda p, _: {"mask": {"size": list(truth(p).shape), "counts": runs(truth(p))}},
    "whole floats": lambda p, _: {
        "mask": {"size": [float(side) for side in truth(p).shape], "counts": [float(n) for n in runs(truth(p))]}
    },
    "masks": lambda p, _: {"masks": parts(p)},
    "masks of all kinds": lambda p, _: {"masks": [None, *parts(p)[:1], [], *polygons(p)[1:]]},
    "polygons": lambda p, _: {"segmentation": polygons(p)},
    "flat polygons": lambda p, _: {"masks": polygons(p)},
    "flat polygon": lambda p, _: {"segmentation": polygons(p)[0]} if len(p[1].targets) == 1 else {"mask": polygons(p)},
    "no_target 1": lambda p, _: {"no_target": int(not p[1].targets), "mask": rle(truth(p))},
    "no_target 0.0": lambda p, _: {"no_target": float(not p[1].targets), "mask": rle(truth(p))},
    "null under one key": lambda p, _: {"mask": None, "segmentation": rle(truth(p))},
    "png": as_png("L"),
    "png of 0 and 1": as_png("L", 1),
    "png of one bit": as_png("1"),
    "png with a palette": as_png("P", 1),
    "png in grey as RGB": as_png("RGB"),
    "png, opaque": as_png("RGBA"),
    "mask_path": lambda p, folder: {"mask_path": as_png("L")(p, folder)["mask"].replace("/", "\\")},
    "png, absolute": lambda p, folder: {"mask": str(folder / as_png("L")(p, folder)["mask"])},
}


@pytest.mark.parametrize("form", MASKS)
def test_perfect_masks_score_100_in_every_form(photos, tmp_path, form):
    found = [{"sent_id": p[1].sent_id, **MASKS[form](p, tmp_path)} for p in pairs(as_coco_photos())]
    assert_perfect(score(photos, lines(tmp_path / "p.jsonl", found)), 6)


FILES: dict[str, Callable[[list], bytes]] = {
    "list": lambda e: json.dumps(e).encode(),
    "results": lambda e: json.dumps({"model": "x", "results": e}, indent=1).encode(),
    "predictions": lambda e: json.dumps({"predictions": e}).encode(),
    "data": lambda e: json.dumps({"data": e}).encode(),
    "annotations": lambda e: json.dumps({"images": [], "annotations": e}).encode(),
    "BOM": lambda e: b"\xef\xbb\xbf" + b"\n".join(json.dumps(entry).encode() for entry in e),
    "BOM and a list": lambda e: b"\xef\xbb\xbf" + json.dumps(e).encode(),
    "Windows lines": lambda e: b"\r\n".join(json.dumps(entry).encode() for entry in e) + b"\r\n",
    "a line separator in a text": lambda e: "\n".join(
        json.dumps({**entry, "note": "a\u2028b\x85c"}, ensure_ascii=False) for entry in e
    ).encode(),
}


@pytest.mark.parametrize("form", FILES)
def test_perfect_predictions_score_100_in_every_file(photos, tmp_path, form):
    found = [{"sent_id": p[1].sent_id, "mask": rle(truth(p))} for p in pairs(as_coco_photos())]
    (tmp_path / "p.json").write_bytes(FILES[form](found))
    assert_perfect(score(photos, tmp_path / "p.json"), 6)


# Several rows for one phrase


def test_instances_of_a_phrase_are_joined_on_request_and_named_without(photos, tmp_path):
    found = []
    for pair in pairs(as_coco_photos()):
        names = {"image": pair[0].file_name, "phrase": pair[1].text}
        found += [{**names, "mask": part, "score": 0.9} for part in parts(pair)] or [{**names, "mask": None}]
    random.Random(3).shuffle(found)
    source = lines(tmp_path / "p.jsonl", found)
    assert_perfect(score(photos, source, merge="union"), 6)
    with pytest.raises(RefsegError, match="1 duplicate") as error:
        score(photos, source)
    assert "--merge union" in error.value.hint


def test_joined_rows_say_no_target_if_all_of_them_do(photos, tmp_path):
    found = [{"sent_id": p[1].sent_id, "mask": rle(truth(p))} for p in pairs(as_coco_photos())]
    found[0] |= {"no_target": True}
    found += [{**found[0], "no_target": False}, {**found[3], "no_target": True}]
    found[3] |= {"no_target": True}
    answers = score(photos, lines(tmp_path / "p.jsonl", found), merge="union").answers["val"]
    assert answers.says_target.tolist() == [True, True, True, False, True, True]
    assert answers.has_head.tolist() == [True, False, False, True, False, False]


def test_one_bad_row_of_several_is_named_by_its_own_line(photos, tmp_path):
    found = [{"sent_id": p[1].sent_id, "mask": rle(truth(p))} for p in pairs(as_coco_photos())]
    found.append({"sent_id": 100, "mask": rle(np.ones((3, 3), bool))})
    source = lines(tmp_path / "p.jsonl", found)
    with pytest.raises(RefsegError, match=r"p\.jsonl:7: wrong size: mask of 3x3"):
        score(photos, source, merge="union")
    assert len(score(photos, source, merge="union", skip=True).answers["val"]) == 5


# Ids that are not unique


@pytest.fixture
def restarted(tmp_path: Path) -> Path:
    (tmp_path / "own").mkdir()
    write_split(tmp_path / "own", "val", with_ids_of_each_ref())
    return tmp_path / "own"


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 3, 0, 1], [3, 2, 1, 0], [1, 3, 0, 2]])
def test_ids_that_are_not_unique_are_told_apart_by_the_other_names(restarted, tmp_path, order):
    every = pairs(with_ids_of_each_ref())
    perfect = [
        {"sent_id": p[1].sent_id, "image": p[0].file_name, "phrase": p[1].text, "mask": rle(truth(p))} for p in every
    ]
    assert_perfect(score(restarted, lines(tmp_path / "p.jsonl", [perfect[n] for n in order])), 4)
    by_ref = [{"sent_id": p[1].sent_id, "ref_id": p[1].ref_id, "mask": rle(truth(p))} for p in every]
    assert_perfect(score(restarted, lines(tmp_path / "r.jsonl", [by_ref[n] for n in order])), 4)


@pytest.mark.parametrize("sent_ids", [[0, 1], [0, 0, 1, 1]])
def test_ids_that_are_not_unique_are_not_dealt_out(restarted, tmp_path, sent_ids):
    mask = rle(truth(pairs(with_ids_of_each_ref())[0]))
    source = lines(tmp_path / "p.jsonl", [{"sent_id": n, "mask": mask} for n in sent_ids])
    with pytest.raises(RefsegError, match=f"{len(sent_ids)} ambiguous, 4 missing") as error:
        score(restarted, source)
    assert "'small' (ref 0) and" in error.value.message
    assert "ref_id" in error.value.hint


def test_names_that_disagree_are_named(photos, tmp_path):
    found = [{"sent_id": p[1].sent_id, "mask": rle(truth(p))} for p in pairs(as_coco_photos())]
    found[0]["phrase"] = "large"
    source = lines(tmp_path / "p.jsonl", found)
    named = r"p\.jsonl:1: contradictory: sent_id 100, 'large': sent_id 100 is of COCO_\w+\.jpg 'small', image 1, ref 10"
    with pytest.raises(RefsegError, match=named):
        score(photos, source)
    assert score(photos, source, skip=True).problems.counts() == {"contradictory": 1, "missing": 1}


# What is broken is named, and can be left out

DEEP = 100_000  # far beyond any parser's limit


@pytest.mark.parametrize(
    ("line", "named"),
    [
        ('{"sent_id": 100, "mask": ' + "[" * DEEP + "]" * DEEP + "}", "nested too deeply"),
        ('{"sent_id": 100, "mask": {"size": [32, 32], "counts": [18446744073709551615, 1, 1024]}}', "up"),
        ('{"sent_id": 100, "mask": {"size": [32, 32], "counts": [4611686018427387904, 4611686018427387904, '
         '4611686018427387904, 4611686018427387904, 1024]}}', "add up"),
        ('{"sent_id": 100, "mask": {"size": [32, 32], "counts": [4294967296, 1024]}}', "add up"),
        ('{"sent_id": 100, "mask": {"size": [32, 32], "counts": [1000.5, 23.5]}}', "add up"),
        ('{"sent_id": 100, "mask": {"size": [32, 32], "counts": [1e400, 1024]}}', "add up"),
        ('{"sent_id": 100, "mask": [[0, 0, 1e400, 0, 9, 9]]}', ""),
        ('{"sent_id": 100, "mask": [[0, 0, 1' + "0" * 400 + ", 0, 9, 9]]}", ""),
        ('{"sent_id": 100, "mask": [[0, 0, -1' + "0" * 400 + ", 0, 9, 9]]}", ""),
        ('{"sent_id": 100, "mask": ' + json.dumps([[0] * 32] * 32) + "}", "an array of pixels"),
        ('{"sent_id": 100, "mask": "nothing.png"}', "nothing.png: no such file"),
        ('{"sent_id": 100, "mask": "p.jsonl"}', "neither COCO's mask nor a PNG"),
        ('{"sent_id": 100, "mask": "memory://m.png"}', "neither COCO's mask nor a PNG"),
        ('{"sent_id": 100, "mask": "a\\u0000.png"}', ""),
        ('{"sent_id": 100, "masks": {"size": [32, 32]}}', "masks is not a list"),
        ('{"sent_id": 100.5, "mask": null}', "sent_id 100.5 is not a whole number"),
        ('{"sent_id": 1e400, "mask": null}', "sent_id inf is not a whole number"),
        ('{"sent_id": true, "mask": null}', "sent_id True is not a whole number"),
        ('{"ref_id": "x", "mask": null}', "ref_id 'x' is not a whole number"),
        ('{"image": {"id": 1}, "phrase": "small", "mask": null}', "image id {'id': 1} is not a whole number"),
        ('{"image": 1, "phrase": 5, "mask": null}', "phrase 5 is not text"),
        ('{"sent_id": 100, "no_target": 2, "mask": null}', "no_target 2 is neither"),
        ('{"sent_id": 100, "no_target": 0}', "has no mask"),
        ('{"image": 1, "mask": null}', "names no expression"),
    ],
)  # fmt: skip
def test_a_broken_line_is_named_and_the_others_are_scored(photos, tmp_path, line, named):
    source = lines(
        tmp_path / "p.jsonl",
        [{"sent_id": p[1].sent_id, "mask": rle(truth(p))} for p in pairs(as_coco_photos())[1:]],
    )
    source.write_text(source.read_text() + line + "\n")
    with pytest.raises(RefsegError, match=r"p\.jsonl:6: (unreadable|wrong size): ") as error:
        score(photos, source)
    assert named in error.value.message
    assert len(error.value.message) < 1000
    assert_perfect(score(photos, source, skip=True), 5)


def test_a_deeply_nested_file_is_refused(photos, tmp_path):
    (tmp_path / "p.json").write_text("[" * DEEP + "]" * DEEP)
    with pytest.raises(RefsegError, match="not valid JSON: nested too deeply"):
        score(photos, tmp_path / "p.json")


@pytest.mark.parametrize(
    ("draw", "named"),
    [
        (lambda: Image.fromarray(np.arange(1024, dtype=np.uint8).reshape(32, 32)), "256 different values"),
        (lambda: Image.fromarray(np.full((32, 32, 3), (255, 0, 0), np.uint8)), "in colours"),
        (lambda: Image.fromarray(np.full((32, 32, 2), (255, 9), np.uint8)), "transparency"),
        (lambda: Image.fromarray(np.zeros((8, 9), np.uint8)), "mask of 9x8 pixels, the picture has 32x32"),
    ],
)
def test_a_png_that_is_no_mask_is_named(photos, tmp_path, draw, named):
    draw().save(tmp_path / "m.png")
    source = lines(tmp_path / "p.jsonl", [{"sent_id": 100, "mask": "m.png"}, {"sent_id": 101, "mask": None}])
    with pytest.raises(RefsegError) as error:
        score(photos, source)
    assert named in error.value.message
    (tmp_path / "m.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"?" * 50)
    with pytest.raises(RefsegError, match=r"m\.png: cannot read the image"):
        score(photos, source)
