"""Results files that projects write themselves, made here by the same calls, and read as any other."""

from __future__ import annotations

import io
import json
import os
import pickle
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hostile import Attack
from pictures import records, write_split
from PIL import Image
from pycocotools import mask as coco
from scored import score

from refseg_cli.data import masks
from refseg_cli.data.sources import phrasecut
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.outside import Outside
from refseg_cli.metrics.counts import count_pixels
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores

EXPRESSIONS = [(r, e) for r in records("val") for e in r.expressions]


def truth(record: Any, expression: Any) -> np.ndarray:
    return masks.decode(masks.targets(record, expression)).astype(bool)


def figures(found: Outside, protocol: str = "refseg") -> dict[str, float | None]:
    answers = found.answers["val"]
    return scores(answers.counts(PROTOCOLS[protocol]), PROTOCOLS[protocol]).values


# ReLA and CoHD: what `process` of their evaluators collects, and `torch.save`


def gres(record: Any, expression: Any, **changed: Any) -> dict[str, Any]:
    """A prediction at 480 x 480, the truth there moved by seven pixels to the right."""
    squashed = masks.resize_by_centres(truth(record, expression), (480, 480))
    output = torch.stack([torch.zeros(480, 480), torch.from_numpy(np.roll(squashed, 7, axis=1)).float() - 0.5])
    row = {
        "img_id": record.image_id,
        "source": "grefcoco",
        "sent": expression.text,
        "sent_info": {"raw": expression.text, "sent_id": expression.sent_id, "ref_id": expression.ref_id},
        "pred_nt": not expression.targets,
        "gt_nt": not expression.targets,
        "pred_mask": np.array(output.argmax(dim=0), dtype=np.int8),
        "gt_mask": np.array(torch.from_numpy(squashed)[None], dtype=np.int8),
    }
    return {**row, **changed}


def save(path: Path, value: Any) -> Path:
    with path.open("wb") as file:
        torch.save(value, file)
    return path


def test_a_file_of_rela_is_scored_at_480_as_it_lies(data: Path, tmp_path: Path) -> None:
    rows = [gres(*pair) for pair in EXPRESSIONS]
    rows[0]["pred_nt"] = True  # a denied target
    found = score(data, save(tmp_path / "ref_seg_predictions.pth", rows), "rela", "refseg")
    intersection = union = 0
    ious = []
    for row in rows:  # the official arithmetic, on the arrays themselves
        p, g = row["pred_mask"] > 0, row["gt_mask"][0] > 0
        i, u = int((p & g).sum()), int((p | g).sum())
        if row["gt_nt"]:
            ious.append(1.0)
            continue
        i = 0 if row["pred_nt"] else i
        intersection, union = intersection + i, union + u
        ious.append(i / u)
    expected = {"cIoU": intersection / union, "gIoU": np.mean(ious), "N-acc": 1.0, "T-acc": 3 / 4}
    assert {name: figures(found, "rela")[name] for name in expected} == pytest.approx(expected, abs=1e-12)
    assert any("the size of a network's input" in caution for caution in found.cautions)
    for (record, expression), row, said in zip(EXPRESSIONS, rows, found.answers["val"].raw_intersection, strict=True):
        size = (record.height, record.width)
        mask = masks.resize_by_centres(row["pred_mask"] > 0, size)
        assert said == count_pixels(mask, truth(record, expression)).intersection


def test_a_file_of_cohd_names_references_and_sentences(data: Path, tmp_path: Path) -> None:
    rows = [
        gres(r, e, ref_id=e.ref_id, sent_id=e.sent_id, img_file=r.file_name, pred_count=[0], gt_count=[1], sent_info={})
        for r, e in reversed(EXPRESSIONS)
    ]
    found = score(data, save(tmp_path / "ref_seg_predictions.pth", rows), "cohd")
    assert figures(found, "cohd")["N+T-acc"] == 2.0
    assert len(found.answers["val"]) == len(EXPRESSIONS)


def test_masks_of_one_prediction_at_a_time_are_in_memory(tmp_path: Path) -> None:
    from refseg_cli.data.sources import torch_files

    rows = [{"pred_mask": np.full((480, 480), n % 2, np.int8), "n": n} for n in range(40)]
    path = save(tmp_path / "p.pth", rows)
    tracemalloc.start()
    try:
        value = torch_files.read(str(path))
        assert tracemalloc.get_traced_memory()[1] < 5 * 480 * 480
    finally:
        tracemalloc.stop()
    assert [(masks.area(row["pred_mask"].rle), row["n"]) for row in value] == [
        (n % 2 * 480 * 480, n) for n in range(40)
    ]


def archive(data: bytes, how: int = zipfile.ZIP_STORED, name: str = "archive/data.pkl") -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", how) as file:
        file.writestr(name, data)
    return made.getvalue()


FLAT = pickle.dumps(np.zeros(9, np.int8), 2)
REFUSED = {
    f"asks for {os.system.__module__}.system": lambda trace: archive(pickle.dumps([Attack(f"touch {trace}")], 2)),
    "asks for torch._utils._rebuild_tensor_v2": lambda _: torch_bytes([{"pred_mask": torch.zeros(3, 3)}]),
    "not of a byte for each pixel": lambda _: torch_bytes([{"pred_mask": np.zeros((3, 3), np.float32)}]),
    "not of height and width": lambda _: archive(FLAT),
    "holds no list of predictions": lambda _: torch_bytes({"model": 1}),
    "is compressed": lambda _: archive(pickle.dumps([b"\0" * (1 << 20)], 2), zipfile.ZIP_DEFLATED),
    "without data.pkl": lambda _: archive(b"", name="archive/other"),
    "no file of torch.save": lambda _: pickle.dumps([1]),
    "damaged pickle": lambda _: archive(pickle.dumps([{"a": 1}], 2)[:-3]),
    "nests more than": lambda _: archive(b"\x80\x02" + b"]" * 99 + b"a" * 98 + b"."),
    "has no mask": lambda _: torch_bytes([{"img_id": 1, "sent": "small", "pred_nt": False}]),
    "not an object": lambda _: torch_bytes([1]),
}


def torch_bytes(value: Any) -> bytes:
    made = io.BytesIO()
    torch.save(value, made)
    return made.getvalue()


@pytest.mark.parametrize("named", REFUSED)
def test_a_hostile_or_foreign_archive_is_refused_in_one_line(data: Path, tmp_path: Path, named: str) -> None:
    path, trace = tmp_path / "p.pth", tmp_path / "trace"
    path.write_bytes(REFUSED[named](trace))
    with pytest.raises(RefsegError) as error:
        score(data, path)
    assert named in f"{error.value.message}; {error.value.hint}"
    assert "\n" not in error.value.message
    assert not trace.exists()


# PhraseCut: `save_pred_to_png`


def save_png(mask: np.ndarray, path: Path) -> None:
    image = Image.new("1", mask.shape[::-1])
    pixels = image.load()
    for y, x in np.argwhere(mask).tolist():
        pixels[x, y] = 1
    image.save(path)


def test_a_folder_of_phrasecut(tmp_path: Path) -> None:
    given = [
        replace(
            r,
            expressions=tuple(replace(e, ref_id=phrasecut.ref_id(r.image_id, n)) for n, e in enumerate(r.expressions)),
        )
        for r in records("val")
    ]
    (tmp_path / "data").mkdir()
    write_split(tmp_path / "data", "val", given)
    (tmp_path / "predictions").mkdir()
    for record in given:
        for n, expression in enumerate(record.expressions):
            save_png(truth(record, expression), tmp_path / f"predictions/{record.image_id}__{n}.png")
    for source in (f"{tmp_path}/predictions", f"{tmp_path}/predictions/"):
        assert figures(score(tmp_path / "data", source, "phrasecut"), "phrasecut")["cum-IoU"] == 1
    (tmp_path / "predictions/1__9.png").write_bytes(b"")
    with pytest.raises(RefsegError, match="1 unknown"):
        score(tmp_path / "data", tmp_path / "predictions")


# sam3's agent: `agent_inference`, `run_single_image_inference`


def save_agent(folder: Path, record: Any, expression: Any) -> None:
    parts = [masks.decode(record.instances[t].rle) for t in expression.targets]
    boxes = [masks.box(record.instances[t].rle) for t in expression.targets]
    sides = (record.width, record.height) * 2
    answer = {
        "original_image_path": record.file_name,
        "orig_img_h": record.height,
        "orig_img_w": record.width,
        "pred_boxes": [[value / side for value, side in zip(box, sides, strict=True)] for box in boxes],
        "pred_masks": [coco.encode(np.asfortranarray(part))["counts"].decode() for part in parts],
        "pred_scores": [0.9] * len(parts),
        "text_prompt": expression.text,
        "image_path": f"images/{record.file_name}",
    }
    stem = Path(record.file_name).stem
    name = f"{stem}_{expression.text.replace('/', '_').replace(' ', '_')}_agent_qwen_pred.json"
    (folder / name).write_text(json.dumps(answer, indent=4))


def test_a_folder_of_sam3s_agent(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "agent_output"
    folder.mkdir()
    for record, expression in EXPRESSIONS:
        save_agent(folder, record, expression)
        (folder / f"{expression.sent_id}_history.json").write_text("[]")
    found = score(data, folder, "refseg", "sa-co", "rec")
    assert (figures(found)["gIoU"], figures(found)["N-acc"]) == (1, 1)
    assert figures(found, "rec")["Acc@0.5"] == 1
    (folder / "x_pred.json").write_text("{")
    with pytest.raises(RefsegError, match=r"x_pred\.json: unreadable"):
        score(data, folder)


def test_a_folder_of_anything_else_is_refused(data: Path, tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(RefsegError, match="a folder with none of the predictions"):
        score(data, tmp_path)


def test_coco_results_of_sam3_name_the_pair_by_their_image(data: Path, tmp_path: Path) -> None:
    """docs/protocols.md renames `image_id`, SA-Co's number of picture and phrase, as this does."""
    rows = [
        {
            "sent_id": expression.sent_id,
            "category_id": 1,
            "segmentation": masks.coco_json(record.instances[target].rle),
            "score": 0.9,
            "area": 0.1,
            "bbox": list(masks.box(record.instances[target].rle)),
        }
        for record, expression in EXPRESSIONS
        for target in expression.targets
    ] + [{"sent_id": expression.sent_id, "mask": None} for _, expression in EXPRESSIONS if not expression.targets]
    (tmp_path / "coco_predictions_segm.json").write_text(json.dumps(rows))
    found = score(data, tmp_path / "coco_predictions_segm.json", "sa-co", "refseg", merge="union")
    assert figures(found)["gIoU"] == 1
