"""Real RefCOCO brought into each form, as its makers do it, prepares to what `prepare refcoco` makes of it."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from forms import meanings, points, run, write_parquet
from PIL import Image
from preparing import run as prepare_refer

from refseg_cli.data import masks
from refseg_cli.data.sources import pickles

Json = dict[str, Any]
SPLITS = ("val", "testB")


@pytest.fixture(scope="module")
def raw(shared: Path) -> tuple[Path, list[Json], dict[int, Json], dict[int, Json]]:
    """The root, and the references; annotations and photos by their ids."""
    root = shared / "real/refer"
    coco = json.loads((root / "refcoco/instances.json").read_text())
    refs = list(pickles.rows(pickles.read(root / "refcoco/refs(unc).p")))
    return root, refs, {a["id"]: a for a in coco["annotations"]}, {i["id"]: i for i in coco["images"]}


def mask(annotation: Json, image: Json) -> np.ndarray:
    return masks.decode(masks.from_segmentation(annotation["segmentation"], image["height"], image["width"]))


def as_jxu124(folder: Path, raw: Any) -> Path:
    _, refs, anns, images = raw
    for split in SPLITS:
        rows = [
            {
                "ann_id": ref["ann_id"],
                "ref_id": ref["ref_id"],
                "image_id": ref["image_id"],
                "split": ref["split"],
                "sentences": [{k: s[k] for k in ("raw", "sent", "sent_id", "tokens")} for s in ref["sentences"]],
                "raw_anns": json.dumps(anns[ref["ann_id"]]),
                "raw_image_info": json.dumps(images[ref["image_id"]]),
            }
            for ref in refs
            if ref["split"] == split
        ]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", rows)
    return folder


def as_lmms_lab(folder: Path, raw: Any) -> Path:
    root, refs, anns, images = raw
    for split in SPLITS:
        rows = [
            {
                "question_id": str(ref["ref_id"]),
                "image": {
                    "bytes": (root / "images/train2014" / images[ref["image_id"]]["file_name"]).read_bytes(),
                    "path": None,
                },
                "question": "?",
                "answer": [s["sent"] for s in ref["sentences"]],
                "segmentation": anns[ref["ann_id"]]["segmentation"][0],
                "bbox": anns[ref["ann_id"]]["bbox"],
                "iscrowd": 0,
                "file_name": ref["file_name"],
            }
            for ref in refs
            if ref["split"] == split
        ]
        write_parquet(folder / f"{split}-00000-of-00001.parquet", rows)
    return folder


def as_mdetr(folder: Path, raw: Any) -> Path:
    _, refs, anns, images = raw
    folder.mkdir()
    for split in SPLITS:
        table: Json = {"images": [], "annotations": [], "categories": [{"id": i, "name": str(i)} for i in range(1, 91)]}
        said = [(ref, s["sent"]) for ref in refs if ref["split"] == split for s in ref["sentences"]]
        for number, (ref, phrase) in enumerate(said):
            image, ann = images[ref["image_id"]], anns[ref["ann_id"]]
            table["images"].append({**image, "id": number, "original_id": image["id"], "caption": phrase})
            kept = {name: ann[name] for name in ("area", "iscrowd", "category_id", "bbox")}
            row = {**kept, "id": number, "image_id": number, "original_id": ann["id"], "tokens_positive": [[0, 1]]}
            table["annotations"].append(row)
        (folder / f"finetune_refcoco_{split}.json").write_text(json.dumps(table))
    return folder


def as_seqtr(folder: Path, raw: Any) -> Path:
    _, refs, anns, images = raw
    table: Json = {split: [] for split in SPLITS}
    for ref in refs:
        image, ann = images[ref["image_id"]], anns[ref["ann_id"]]
        row = {"image_id": image["id"], "height": image["height"], "width": image["width"], "bbox": ann["bbox"]}
        expressions = [s["sent"] for s in ref["sentences"]]
        table[ref["split"]].append({**row, "mask": ann["segmentation"], "expressions": expressions, "category_id": 1})
    folder.mkdir()
    (folder / "instances.json").write_text(json.dumps(table))
    return folder


def as_cris(folder: Path, raw: Any) -> Path:
    _, refs, anns, images = raw
    for split in SPLITS:
        rows = []
        for ref in (ref for ref in refs if ref["split"] == split):
            image, ann = images[ref["image_id"]], anns[ref["ann_id"]]
            path = folder / f"masks/refcoco/{ref['ref_id']}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(mask(ann, image) * 255).save(path)
            sentences = [{"idx": i, "sent_id": s["sent_id"], "sent": s["sent"]} for i, s in enumerate(ref["sentences"])]
            row = {"bbox": [0, 0, 1, 1], "cat": 0, "segment_id": ref["ref_id"], "img_name": image["file_name"]}
            rows.append({**row, "sentences": sentences, "sentences_num": len(sentences)})
        path = folder / f"anns/refcoco/{split}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows))
    return folder / "anns"


def as_labelme(folder: Path, raw: Any) -> Path:
    """A shape for each sentence, once where it was said twice; those in several parts as masks."""
    _, refs, anns, images = raw
    for ref in refs:
        image, ann = images[ref["image_id"]], anns[ref["ann_id"]]
        path = folder / ref["split"] / f"{image['id']}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        empty = {"imagePath": image["file_name"], "imageHeight": image["height"], "imageWidth": image["width"]}
        table = json.loads(path.read_text()) if path.exists() else {**empty, "imageData": None, "shapes": []}
        if len(ann["segmentation"]) == 1:
            shape: Json = {"points": points(ann["segmentation"][0]), "shape_type": "polygon"}
        else:
            data = io.BytesIO()
            Image.fromarray(mask(ann, image) * 255).save(data, "PNG")
            shape = {"points": [[0, 0], [image["width"], image["height"]]], "shape_type": "mask"}
            shape["mask"] = base64.b64encode(data.getvalue()).decode()
        table["shapes"] += [{"label": "x", "description": s["sent"], **shape} for s in ref["sentences"]]
        table["shapes"] = [shape for i, shape in enumerate(table["shapes"]) if shape not in table["shapes"][:i]]
        path.write_text(json.dumps(table))
    return folder


@pytest.mark.parametrize("bring", [as_jxu124, as_lmms_lab, as_mdetr, as_seqtr, as_cris, as_labelme])
def test_all_forms_say_the_same(tmp_path, raw, bring: Callable[[Path, Any], Path]):
    prepare_refer(raw[0], tmp_path / "refer")
    options = {"instances": raw[0] / "refcoco/instances.json"} if bring is as_mdetr else {}
    report = run(tmp_path / "out", bring(tmp_path / "form", raw), images=raw[0] / "images", **options)
    assert report.manifest.image_source == "coco"
    for split in SPLITS:
        found, expected = meanings(tmp_path / "out", split), meanings(tmp_path / "refer", split)
        if bring is as_labelme:
            expected = [one for i, one in enumerate(expected) if one not in expected[:i]]
        assert sorted(found) == sorted(expected)
