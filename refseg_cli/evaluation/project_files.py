"""Results as projects write them by their own tools, brought to the entries of `predictions`.

Facts from the official code, read, not copied: henghuiding/ReLA and RobertLuo1/CoHD
`gres_model/evaluation/refer_evaluation.py`, ChenyunWu/PhraseCutDataset `evaluate.py` and `utils/visualize_utils.py`,
facebookresearch/sam3 `sam3/agent/inference.py` and `sam3/agent/client_sam3.py`. docs/protocols.md has the table.
"""

from __future__ import annotations

import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from refseg_cli.data import masks, storage
from refseg_cli.data.sources import phrasecut, torch_files
from refseg_cli.errors import RefsegError
from refseg_cli.files import parse_json

ARCHIVES = (".pth", ".pt")
PHRASECUT = re.compile(r"(\d+)__(\d+)\.png")
SAM3 = re.compile(r".*_pred\.json")


def read_archive(uri: str) -> Iterator[tuple[str, Any]]:
    """The entries of ReLA's or CoHD's `ref_seg_predictions.pth`; masks lie at the network's input.

    Raises:
        RefsegError: no such file, or none of `torch.save` with a list of masks in it.
    """
    value = torch_files.read(uri)
    if not isinstance(value, list):
        raise RefsegError(f"{uri}: holds no list of predictions", hint="as ReLA's evaluator writes with save_imgs=True")
    for number, row in enumerate(value):
        yield f"{uri}: entry {number}", _from_gres(row) if isinstance(row, Mapping) else row


def _from_gres(row: Mapping[str, Any]) -> dict[str, Any]:
    said = row.get("sent_info")
    ids = {**said, **row} if isinstance(said, Mapping) else row
    mask = row.get("pred_mask")
    found = {"image_id": row.get("img_id"), "phrase": row.get("sent"), "squashed": True}
    if isinstance(mask, torch_files.Mask) and mask.rle is not None:
        found["mask"] = masks.coco_json(mask.rle)
    return found | {"no_target": row.get("pred_nt"), "sent_id": ids.get("sent_id"), "ref_id": ids.get("ref_id")}


def read_folder(uri: str, names: Sequence[str]) -> Iterator[tuple[str, Any]]:
    """The entries of a folder: PhraseCut's `IMAGE__NUMBER.png`, or the `*_pred.json` of sam3's agent.

    names: the files in it.

    Raises:
        RefsegError: neither is there, or both are.
    """
    pictures = [found for name in names if (found := PHRASECUT.fullmatch(name))]
    answers = [name for name in names if SAM3.fullmatch(name)]
    if bool(pictures) == bool(answers):
        raise RefsegError(
            f"{uri}: a folder with {'both kinds' if answers else 'none'} of the predictions that are read from folders",
            hint="PhraseCut's IMAGE__NUMBER.png or *_pred.json of sam3's agent; or name a file",
        )
    beside = "" if uri.endswith("/") else posixpath.basename(uri)  # masks are named from the folder of `uri`
    for found in pictures:
        name, number = found.group(), phrasecut.ref_id(int(found[1]), int(found[2]))
        yield f"{uri}: {name}", {"image_id": int(found[1]), "ref_id": number, "mask": posixpath.join(beside, name)}
    for name in answers:
        try:
            answer = parse_json((storage.locate(uri) / name).read())
        except ValueError:
            answer = None
        yield f"{uri}: {name}", _from_agent(answer) if isinstance(answer, Mapping) else answer


def _from_agent(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Boxes are fractions x, y, width, height; of each mask's RLE there are the counts only."""
    size = [answer.get("orig_img_h"), answer.get("orig_img_w")]
    counts, boxes, scores = (answer.get(f"pred_{name}") for name in ("masks", "boxes", "scores"))
    parts = [{"size": size, "counts": one} for one in counts] if isinstance(counts, list) else counts
    found = {"image": answer.get("image_path"), "phrase": answer.get("text_prompt"), "masks": parts}
    told = {"boxes": boxes, "scores": scores, "box_scale": 1} if boxes else {}
    return found | told | {"no_target": not parts}
