"""A model as one file for other runtimes, with the proof that it computes the same.

The graph: images (I, 3, H, W) float32 normalised, tokens (N, L) int64, attention_mask (N, L) bool, image_index (N,)
int64, and small (I, 3, h', w') like the images where the model reads each a second time -> mask_logits (N, 1, h, w),
and exists_logit (N,) where the model has a no-target head. I and N are free, H, W, h', w' and L fixed. What a consumer
needs besides (sizes, mean and std, thresholds, tokeniser) lies inside the file: in ONNX as metadata `refseg.json` and
`tokenizer.json`, in a .pt2 as extra files of these names. `refseg.json` also says how near the file is to its model,
see proof.py.

Cut in two (`split`), it is a folder: image.onnx takes the pictures, phrase.onnx what that gives and the rest, so that
one encoding of a picture serves any number of calls; `refseg.json` and `tokenizer.json` lie beside them.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli import __version__, checkpoint
from refseg_cli.checkpoint import Checkpoint
from refseg_cli.data import text
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.artifacts import FORMS, SPLIT, Form, Format
from refseg_cli.engine.onnx_graph import INPUTS, OUTPUTS
from refseg_cli.engine.precision import Cost, Precision, calibration_split, measure, reduced
from refseg_cli.engine.proof import Proof, prove
from refseg_cli.engine.questions import real_questions
from refseg_cli.engine.tracing import TRACED, Graph, example, trace
from refseg_cli.errors import RefsegError, first_line
from refseg_cli.files import whole, whole_folder
from refseg_cli.progress import Progress, silent
from refseg_cli.segmenters.onnx import FACTS

if TYPE_CHECKING:
    from torch.export import ExportedProgram

SCHEMA = "refseg.export/1"
EXTRAS = ("onnx", "onnx_ir", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export. model: a checkpoint or training run, None for the bundled one.  out: the file to write.

    split: cut the graph where language enters; `out` is then a folder.
    data, data_split: prepared data whose pictures the export is proved on; None for the bundled demo's.
    precision: of the graph; anything but fp32 is measured on `data`.
    limit: pictures to measure on, 0 for all.  max_loss: points of gIoU that a lower precision may cost.
    """

    model: str | Path | None
    format: Format
    out: Path
    split: bool = False
    data: str | None = None
    data_split: str = "val"
    precision: Precision = "fp32"
    limit: int = 0
    max_loss: float = 1.0


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. bytes: of the file, or of all files of the folder.  cost: None for fp32."""

    path: Path
    format: Format
    model: str
    precision: Precision
    proof: Proof
    cost: Cost | None
    bytes: int
    outputs: tuple[str, ...]


def export(request: ExportRequest, *, progress: Progress = silent) -> ExportReport:
    """Write the file, or nothing if it does not compute what the model computes.

    Raises:
        RefsegError: packages or data are missing, the name does not fit the format, the model cannot be exported, the
            file differs from the model, see `Proof.holds`, or its precision costs more than `max_loss`.
    """
    _check(request)
    questions = real_questions(request.data, request.data_split)
    loaded = checkpoint.load(request.model)
    graph = Graph(loaded.model).eval()
    form = SPLIT if request.split else FORMS[request.format]
    with whole_folder(request.out) if request.split else whole(request.out) as file:
        progress("export", 0, 4)
        with _quiet(loaded, request.format):
            program = trace(graph, example(loaded, *TRACED))
        outputs = OUTPUTS[: len(program.graph_signature.user_outputs)]
        progress("export", 1, 4)
        with _quiet(loaded, request.format):
            made, facts = _made(request, form, program, loaded)
            form.save(made, file, _metadata(loaded, outputs, facts))
        progress("export", 2, 4)
        with _quiet(loaded, request.format):
            proof = prove(form.open(file), graph, loaded, questions, request.data)
        if not (proof.holds if request.precision == "fp32" else proof.finite):
            raise _differs(request, proof)
        cost = _cost(request, file, loaded, progress)
        facts |= {"proof": asdict(proof)} | ({} if cost is None else {"cost": asdict(cost)})
        progress("export", 3, 4)
        with _quiet(loaded, request.format):
            form.save(made, file, _metadata(loaded, outputs, facts))
        size = sum(part.stat().st_size for part in (file.iterdir() if request.split else [file]))
    progress("export", 4, 4)
    return ExportReport(request.out, request.format, loaded.name, request.precision, proof, cost, size, outputs)


def _made(
    request: ExportRequest, form: Form, program: ExportedProgram, loaded: Checkpoint
) -> tuple[Any, dict[str, object]]:
    """What is stored, and how its precision came about."""
    made, facts = form.make(program), dict[str, object](precision=request.precision)
    if request.precision == "int8 static":
        assert request.data is not None
        split = calibration_split(request.data, request.data_split)
        return reduced(made, request.precision, loaded, open_shards(request.data, split)), facts | {"calibrated": split}
    return reduced(made, request.precision, loaded, None), facts


def _cost(request: ExportRequest, file: Path, loaded: Checkpoint, progress: Progress) -> Cost | None:
    """What a lower precision costs.

    Raises:
        RefsegError: more than it may.
    """
    if request.precision == "fp32" or request.data is None:
        return None
    cost = measure(file, loaded, request.data, request.data_split, limit=request.limit, progress=progress)
    if not cost.loss <= request.max_loss:
        raise RefsegError(
            f"{request.out}: not written, because {request.precision} costs {cost.loss:.2f} points of gIoU on "
            f"{cost.split} of {cost.data} ({cost.model:.2f} to {cost.exported:.2f})",
            hint="keep a higher precision, or allow more by --max-loss",
        )
    return cost


def _differs(request: ExportRequest, proof: Proof) -> RefsegError:
    return RefsegError(
        f"{request.out}: not written, because the exported graph differs from the model by {proof.difference:.2g} "
        f"(its largest output is {proof.scale:.2g}), and its masks have IoU {proof.mask_iou:.4f} with the model's",
        hint="this is a fault of the exporter; please report it with the versions of torch and onnx"
        if request.precision == "fp32"
        else "the model's values do not fit that precision",
    )


def _check(request: ExportRequest) -> None:
    """What can be said before any work is done."""
    if request.split:
        _check_folder(request)
    elif request.out.suffix != f".{request.format}":
        raise RefsegError(f"{request.out}: not a name for {request.format}", hint=f"end it with .{request.format}")
    elif request.out.is_dir():
        raise RefsegError(f"{request.out}: is a folder", hint="name a file, or add --split")
    if request.precision != "fp32" and request.format != "onnx":
        raise RefsegError(f"--dtype and --int8 change ONNX graphs, not {request.format}", hint="omit --format")
    if request.precision != "fp32" and request.data is None:
        raise RefsegError(
            f"{request.precision} is measured on data, and none was given", hint="add --data DIR, of `refseg prepare`"
        )
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if request.format == "onnx" and missing:
        raise RefsegError(f"ONNX export needs {', '.join(missing)}", hint="pip install 'refseg[export]'")


def _check_folder(request: ExportRequest) -> None:
    """That the folder of a split graph may be written, in the place of an earlier one at most."""
    out = request.out
    if request.format != "onnx":
        raise RefsegError(f"--split cuts ONNX graphs, not {request.format}", hint="omit --format")
    if out.suffix in (".onnx", ".pt2"):
        raise RefsegError(f"{out}: --split writes a folder of two graphs", hint="name a folder")
    if out.exists() and not (out / FACTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise RefsegError(f"{out}: in the way of the exported folder", hint="move it, or name another folder")


def _metadata(loaded: Checkpoint, outputs: Sequence[str], more: Mapping[str, object]) -> dict[str, str]:
    """What a consumer of the file needs to know, by name; more: further facts."""
    data, tokenizer = loaded.recipe.data, loaded.tokenizer
    facts = {
        "schema": SCHEMA,
        "refseg": __version__,
        "model": loaded.name,
        "inputs": [name for name in INPUTS if name != "small" or data.small != (0, 0)],
        "outputs": outputs,
        "image": {
            "size": data.size,
            "small": data.small,
            "smooth": data.smooth,
            "resize": data.resize,
            "fill": data.fill,
            "channels": "RGB",
            "mean": data.mean,
            "std": data.std,
        },
        "text": {
            "max_tokens": tokenizer.max_tokens,
            "pad_id": tokenizer.pad_id,
            "spelling": loaded.recipe.text.spelling,
        },
        "thresholds": asdict(loaded.thresholds),
        "checkpoint": {**loaded.info, "name": loaded.name},
        **more,
    }
    return {FACTS: json.dumps(facts), text.FILE_NAME: tokenizer.pipeline.to_str()}


@contextmanager
def _quiet(loaded: Checkpoint, format: Format) -> Iterator[None]:
    """Exporters talk to stdout, warn of what they do themselves, and raise many kinds of errors, some pages long."""
    try:
        with redirect_stdout(StringIO()), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (RefsegError, OSError, MemoryError):
        raise  # a full disk stays what it is
    except Exception as error:
        reason = first_line(_innermost(error))
        raise RefsegError(f"{loaded.name}: cannot be exported to {format}: {reason}") from error


def _innermost(error: BaseException) -> BaseException:
    """What went wrong first: exporters wrap it, layer by layer, into advice of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error
