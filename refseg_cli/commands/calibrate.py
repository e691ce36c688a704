"""`refseg calibrate`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from refseg_cli.commands._options import BatchImages, Data, Device, Json, Quiet, split_choices
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.evaluation.calibrate import Calibration
    from refseg_cli.evaluation.check_precision import PrecisionCheck
    from refseg_cli.evaluation.evaluate import EvalRequest
    from refseg_cli.records import Thresholds
    from refseg_cli.segmenters.precision import Precision

CheckPrecision = Annotated[
    Literal["bf16", "fp16"] | None,
    typer.Option("--check-precision", help="Also compare answers in this precision with those in fp32."),
]
SCHEMA = "refseg.calibrate/1"


def calibrate(
    model: Annotated[str, typer.Option("--model", metavar="RUN", help="Folder of a trained model.")],
    data: Data,
    split: Annotated[
        str,
        typer.Option(
            "--split", metavar="NAME", help="Split to choose the thresholds on.", autocompletion=split_choices
        ),
    ] = "val",
    check: CheckPrecision = None,
    batch_images: BatchImages = 8,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Choose a model's thresholds on held-out data.

    Finds the mask threshold and the no-target threshold (for a model without a no-target head: the minimum mask size)
    that give the highest gIoU on a split, and stores them in the model's folder, where 'refseg predict' and 'refseg
    eval' read them. Thresholds that cannot be improved are kept.

    With --check-precision, the split is then answered in 16 bits as well. Where gIoU stays within 0.1 points and no
    more than 1 % of the masks have an IoU below 0.8 with those of fp32, the model's folder notes that it passed, and
    --precision auto of 'refseg predict', 'eval' and 'bench' goes by that note.

    \b
    Example:
      refseg calibrate --model runs/first --data scenes --split val
      refseg calibrate --model runs/first --data scenes --check-precision bf16
      refseg eval --model runs/first --data scenes --split testA
    """
    from refseg_cli.evaluation.evaluate import EvalRequest

    request = EvalRequest(data, (), model, device, batch_images=batch_images)
    found = choose(request, split)
    checked = compare(request, split, check) if check else None
    if json:
        console.json(
            {
                "schema": SCHEMA,
                "model": str(found.folder),
                "data": data,
                "split": split,
                "before": _json(found.old, found.before),
                "after": _json(found.new, found.after),
                "precision": None if checked is None else _check_json(checked),
            }
        )
    else:
        console.result(describe(found))
        if checked is not None:
            console.result(describe_check(checked))


def compare(request: EvalRequest, split: str, precision: Precision) -> PrecisionCheck:
    """As `evaluation.check_precision`, with its progress shown."""
    from refseg_cli.evaluation.check_precision import check_precision

    with console.progress() as progress:
        return check_precision(request, split, precision, progress=progress)


def describe_check(found: PrecisionCheck) -> str:
    """What a lower precision changes, in one line."""
    verdict = "passed" if found.passed else "not passed"
    return (
        f"{found.folder}: {found.precision} {verdict}: gIoU on {found.split} {100 * found.fp32:.2f} → "
        f"{100 * found.lower:.2f}; {100 * found.apart:.2f} % of the masks below IoU 0.8, the worst {found.worst:.2f}"
    )


def choose(request: EvalRequest, split: str) -> Calibration:
    """As `evaluation.calibrate.calibrate`, with its progress shown."""
    from refseg_cli.evaluation.calibrate import calibrate

    with console.progress() as progress:
        found = calibrate(request, split, progress=progress)
    if found.caution:
        console.warn(found.caution)
    return found


def describe(found: Calibration) -> str:
    """What was chosen, in one line."""
    if found.new == found.old:
        return f"{found.folder}: {thresholds(found.old)} kept; no others give a higher gIoU on {found.split}"
    gain = f"gIoU on {found.split} {100 * found.before:.2f} → {100 * found.after:.2f}"
    return f"{found.folder}: now {thresholds(found.new)}; before {thresholds(found.old)}; {gain}"


def thresholds(own: Thresholds) -> str:
    """In words; a threshold has as many digits as it takes to give the same answers when it is typed."""
    pixels = f"{own.min_pixels} pixel{'s' if own.min_pixels > 1 else ''}"
    return f"threshold {own.mask!r}, no-target threshold {own.exists!r}, at least {pixels}"


def _json(own: Thresholds, g_iou: float) -> dict[str, Any]:
    return {"mask": own.mask, "exists": own.exists, "min_pixels": own.min_pixels, "gIoU": 100 * g_iou}


def _check_json(found: PrecisionCheck) -> dict[str, Any]:
    return {
        "precision": found.precision,
        "passed": found.passed,
        "gIoU": [100 * found.fp32, 100 * found.lower],
        "apart": found.apart,
        "worst": found.worst,
    }
