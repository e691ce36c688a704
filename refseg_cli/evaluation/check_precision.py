"""Whether a checkpoint gives the same answers in 16 bits: the check that `--precision auto` goes by."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from refseg_cli import checkpoint
from refseg_cli.data import masks, shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import Answer
from refseg_cli.evaluation.calibrate import own_checkpoint
from refseg_cli.evaluation.evaluate import EvalRequest
from refseg_cli.evaluation.scoring import Evaluation, evaluate_model
from refseg_cli.progress import Progress, silent
from refseg_cli.segmenters.inference import pick_device
from refseg_cli.segmenters.precision import CHECKED, Precision

LOSS = 0.001  # of gIoU, a fraction, up or down
ALIKE = 0.8  # IoU of a phrase's two masks
APART = 0.01  # share of phrases that may be below it


@dataclass(frozen=True, slots=True)
class PrecisionCheck:
    """What was found on `split`, kept in `folder`: gIoU in fp32 and in `precision`, fractions; `apart`, the share of
    phrases whose two masks are less than `ALIKE`; the lowest of these IoUs."""

    folder: Path
    precision: Precision
    split: str
    expressions: int
    fp32: float
    lower: float
    apart: float
    worst: float

    @property
    def passed(self) -> bool:
        return abs(self.lower - self.fp32) <= LOSS and self.apart <= APART


def check_precision(
    request: EvalRequest, split: str, precision: Precision, *, progress: Progress = silent
) -> PrecisionCheck:
    """Answer a split in both precisions, and store in the checkpoint how much they differ.

    request: says which model, data, device and batches.

    Raises:
        RefsegError: as `calibrate`.
    """
    folder, device = own_checkpoint(request.model), pick_device(request.device)
    loaded, opened = checkpoint.load(folder, device), shards.open_shards(request.data, split)

    def answer(at: Precision) -> tuple[Evaluation, list[Answer]]:
        kept: list[Answer] = []
        found = evaluate_model(
            loaded.model,
            loaded.tokenizer,
            loaded.recipe,
            loaded.thresholds,
            opened,
            device=device,
            batch_images=request.batch_images,
            keep=kept.extend,
            precision=at,
            progress=progress,
            stage=f"{at} {split}",
        )
        return found, kept

    (full, one), (lower, other) = answer("fp32"), answer(precision)
    if not one:
        raise RefsegError(f"{request.data}: no expression in {split} to check on", hint="name another --split")
    alike = np.array([_iou(a, b) for a, b in zip(one, other, strict=True)])
    found = PrecisionCheck(
        folder=folder,
        precision=precision,
        split=split,
        expressions=len(one),
        fp32=full.scores.values["gIoU"],
        lower=lower.scores.values["gIoU"],
        apart=float((alike < ALIKE).mean()),
        worst=float(alike.min()),
    )
    about = {"data": opened.manifest.dataset, "split": split, "expressions": len(one), "passed": found.passed}
    figures = {"gIoU": [found.fp32, found.lower], "apart": found.apart, "worst": found.worst}
    earlier = loaded.info.get(CHECKED, {})
    record = {**about, **figures, "thresholds": asdict(loaded.thresholds)}
    checkpoint.store(folder, {CHECKED: {**earlier, precision: record}})
    return found


def _iou(first: Answer, second: Answer) -> float:
    """Of two masks of one picture; 1 where both are empty."""
    one, two = masks.area(first.mask), masks.area(second.mask)
    if not one and not two:
        return 1.0
    both = int(masks.shared_pixels([first.mask], [second.mask])[0, 0])
    return both / (one + two - both)
