"""ONNX graphs in half precision or with 8-bit integers, and what that costs in gIoU, which is measured.

`fp16` halves the file; inputs and outputs stay float32. Integers come in two kinds: `dynamic` stores the weights of
matrix products as integers and finds the range of what they are multiplied with at each run; `static` does so for
convolutions as well, with ranges found once, on pictures of the training split. A processor without integer dot
products (VNNI) overflows where eight bits meet eight, so weights take seven of theirs.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from refseg_cli.checkpoint import Checkpoint
from refseg_cli.data.loader import StepDataset, sequential_steps
from refseg_cli.data.shards import Shards, open_shards, read_manifest
from refseg_cli.engine.onnx_graph import INPUTS
from refseg_cli.evaluation.scoring import evaluate_model
from refseg_cli.progress import Progress, silent
from refseg_cli.segmenters.graph_module import GraphModule
from refseg_cli.segmenters.onnx import Graphs

if TYPE_CHECKING:
    import numpy as np
    from torch import nn

Precision = Literal["fp32", "fp16", "int8 dynamic", "int8 static"]

CALIBRATED = 32  # pictures that ranges are found on
CALIBRATION_SPLIT = "train"  # if there is one: what a model is measured on should not have set its ranges
PRODUCTS = ("MatMul", "Gemm")
PHRASES = 8  # of each of these pictures


@dataclass(frozen=True, slots=True)
class Cost:
    """gIoU of the model and of its export, in percent, on the same pictures of a split; the same thresholds."""

    data: str
    split: str
    pictures: int
    phrases: int
    model: float
    exported: float

    @property
    def loss(self) -> float:
        """Points of gIoU; negative where the export is better."""
        return self.model - self.exported


def calibration_split(data: str, measured: str) -> str:
    """The split whose pictures set the ranges."""
    return CALIBRATION_SPLIT if CALIBRATION_SPLIT in read_manifest(data).splits else measured


def reduced(model: Any, precision: Precision, loaded: Checkpoint, calibration: Shards | None) -> Any:
    """A ModelProto of that precision; `calibration`: what `int8 static` finds ranges on."""
    if precision == "fp16":
        return _half(model)
    if precision == "fp32":
        return model
    from onnxruntime import quantization as q

    with tempfile.TemporaryDirectory(prefix="refseg-") as folder:
        file = Path(folder) / "int8.onnx"
        settings: dict[str, Any] = {"reduce_range": True, "per_channel": True, "weight_type": q.QuantType.QInt8}
        if precision == "int8 dynamic":
            q.quantize_dynamic(model, file, op_types_to_quantize=list(PRODUCTS), **settings)
        else:
            assert calibration is not None
            q.quantize_static(
                model,
                file,
                _Reader(_feeds(loaded, calibration, [value.name for value in model.graph.input])),
                op_types_to_quantize=["Conv", *PRODUCTS],
                activation_type=q.QuantType.QUInt8,
                **settings,
            )
        return _typed(file)


def _half(model: Any) -> Any:
    import onnx_ir
    from onnxruntime.transformers.float16 import convert_float_to_float16

    ordered = onnx_ir.from_proto(convert_float_to_float16(model, keep_io_types=True))
    ordered.graph.sort()  # the casts of inputs come last
    return onnx_ir.to_proto(ordered)


def _typed(file: Path) -> Any:
    """With the type of every value, which `onnx_graph.split` reads and the quantiser leaves out."""
    import onnx

    return onnx.shape_inference.infer_shapes(onnx.load(file))


class _Reader:
    """onnxruntime's `CalibrationDataReader`: inputs one after the other, then None."""

    def __init__(self, feeds: Iterator[dict[str, np.ndarray]]) -> None:
        self.feeds = feeds

    def get_next(self) -> dict[str, np.ndarray] | None:
        return next(self.feeds, None)


def _feeds(loaded: Checkpoint, split: Shards, wanted: Sequence[str]) -> Iterator[dict[str, np.ndarray]]:
    """The first pictures of a split with a few phrases each, as inputs of the graph."""
    dataset = StepDataset(split, loaded.tokenizer, loaded.recipe.data, field=loaded.recipe.text.field)
    for step in sequential_steps(split.expression_counts, batch_images=1, phrases=PHRASES)[:CALIBRATED]:
        batch = dataset[step].to("cpu")
        yield {name: getattr(batch, name).numpy() for name in INPUTS if name in wanted}


def measure(
    file: Path, loaded: Checkpoint, data: str, split: str, *, limit: int = 0, progress: Progress = silent
) -> Cost:
    """Score the model and what was exported of it on a split of prepared data, on the CPU.

    limit: pictures, from the split's beginning; 0 for all.

    Raises:
        RefsegError: damaged shards.
    """
    opened = open_shards(data, split)

    def of(model: nn.Module, stage: str) -> tuple[float, int, int]:
        found = evaluate_model(
            model,
            loaded.tokenizer,
            loaded.recipe,
            loaded.thresholds,
            opened,
            device="cpu",
            limit=limit,
            workers=0,
            progress=progress,
            stage=stage,
        )
        return 100 * found.scores.values["gIoU"], found.images, len(found.answers)

    model, pictures, phrases = of(loaded.model, "model")
    exported, *_ = of(GraphModule(Graphs.open(file)), "export")
    return Cost(data, split, pictures, phrases, model, exported)
