"""A model as one file for other runtimes, with the proof that it computes the same.

The graph: images (I, 3, H, W) float32 normalised, tokens (N, L) int64, attention_mask (N, L) bool, image_index (N,)
int64 -> mask_logits (N, 1, h, w), and exists_logit (N,) where the model has a no-target head. I and N are free, H, W
and L fixed. What a consumer needs besides (sizes, mean and std, thresholds, tokeniser) lies inside the file: in
ONNX as metadata `refseg.json` and `tokenizer.json`, in a .pt2 as extra files of these names.
"""

from __future__ import annotations

import json
import random
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from refseg_cli import __version__, checkpoint
from refseg_cli.checkpoint import Checkpoint
from refseg_cli.data import text
from refseg_cli.errors import RefsegError
from refseg_cli.files import whole
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Batch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format = Literal["onnx", "pt2"]
Run = Callable[[Sequence[Tensor]], list[Tensor]]

SCHEMA = "refseg.export/1"
INPUTS = ("images", "tokens", "attention_mask", "image_index")
OUTPUTS = ("mask_logits", "exists_logit")
TRACED = (2, 3)  # images, expressions; one of anything would be taken for a constant
PROVEN = ((1, 1), (1, 4), (2, 5), (3, 3))  # likewise: other sizes than the traced one
# Largest difference from the model, as a share of its largest logit (at least 1). The same float32 sums in another
# order differ by 1e-7 to 1e-5 of that; an operator that means something else differs by far more than 1e-4.
TOLERANCE = 1e-4
ONNX_LIMIT = 2**31 - 2**20  # bytes; protobuf cannot hold more in one file
EXTRAS = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export. model: a checkpoint or training run, None for the bundled one.  out: the file to write."""

    model: str | Path | None
    format: Format
    out: Path


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. parity: largest absolute difference of any output from the model's, over `PROVEN` batches.

    scale: the model's largest absolute output there, which `parity` is to be seen against.  bytes: of the file.
    """

    path: Path
    format: Format
    model: str
    parity: float
    scale: float
    bytes: int
    outputs: tuple[str, ...]


class Graph(nn.Module):
    """A model between tensors, as runtimes want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, images: Tensor, tokens: Tensor, attention_mask: Tensor, image_index: Tensor
    ) -> tuple[Tensor, ...]:
        prediction = self.model(Batch(images, tokens, attention_mask, image_index))
        if prediction.exists_logit is None:
            return (prediction.mask_logits,)
        return prediction.mask_logits, prediction.exists_logit


def export(request: ExportRequest, *, progress: Progress = silent) -> ExportReport:
    """Write the file, or nothing if it does not compute what the model computes.

    Raises:
        RefsegError: packages are missing, the name does not fit the format, the model cannot be exported, or the
            file differs from the model by more than `TOLERANCE`.
    """
    _check(request)
    loaded = checkpoint.load(request.model)
    graph = Graph(loaded.model).eval()
    write, read = FORMATS[request.format]
    with whole(request.out) as file:
        progress("export", 0, 3)
        with _quiet(loaded, request.format):
            program = trace(graph, example(loaded, *TRACED))
        outputs = OUTPUTS[: len(program.graph_signature.user_outputs)]
        progress("export", 1, 3)
        with _quiet(loaded, request.format):
            write(program, file, _metadata(loaded, outputs))
        progress("export", 2, 3)
        with _quiet(loaded, request.format):
            parity, scale = _compare(read(file), graph, loaded)
        if not parity <= TOLERANCE * max(1.0, scale):
            raise RefsegError(
                f"{request.out}: not written, because the exported graph differs from the model by {parity:.2g} "
                f"(its largest output is {scale:.2g})",
                hint="this is a fault of the exporter; please report it with the versions of torch and onnx",
            )
        size = file.stat().st_size
    progress("export", 3, 3)
    return ExportReport(request.out, request.format, loaded.name, parity, scale, size, outputs)


def trace(graph: Graph, inputs: Sequence[Tensor]) -> ExportedProgram:
    """The graph with the numbers of images and of expressions left open."""
    from torch.export import Dim

    images, expressions = Dim("images", min=1), Dim("expressions", min=1)
    shapes = {name: {0: images if name == "images" else expressions} for name in INPUTS}
    with torch.no_grad():
        program = torch.export.export(graph, tuple(inputs), dynamic_shapes=shapes)
    for node in program.graph.nodes:  # where each line of Python lay on this machine is nobody's business
        node.meta.pop("stack_trace", None)
    program.example_inputs = None  # a .pt2 would carry them along
    return program


def example(loaded: Checkpoint, images: int, expressions: int, *, seed: int = 0) -> tuple[Tensor, ...]:
    """Fresh inputs of these batch sizes: random pictures, and phrases of all lengths of random words that it knows."""
    height, width = loaded.recipe.data.size
    tokenizer, rng = loaded.tokenizer, random.Random(seed)
    words = sorted(tokenizer.pipeline.get_vocab())
    # From a single word to more than the model reads, whichever number of phrases is asked for.
    lengths = [1 + (n * tokenizer.max_tokens) // max(1, expressions - 1) for n in range(expressions)]
    tokens, attention_mask = tokenizer.encode([" ".join(rng.choices(words, k=k)) for k in lengths])
    pixels = torch.randn(images, 3, height, width, generator=torch.Generator().manual_seed(seed))
    return pixels, tokens, attention_mask, torch.arange(expressions) * images // expressions


def _check(request: ExportRequest) -> None:
    """What can be said before any work is done."""
    if request.out.suffix != f".{request.format}":
        raise RefsegError(f"{request.out}: not a name for {request.format}", hint=f"let it end in .{request.format}")
    if request.out.is_dir():
        raise RefsegError(f"{request.out}: is a folder")
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if request.format == "onnx" and missing:
        raise RefsegError(f"ONNX export needs {', '.join(missing)}", hint="pip install 'refseg[export]'")


def _compare(run: Run, graph: Graph, loaded: Checkpoint) -> tuple[float, float]:
    """(largest absolute difference, largest absolute output) over batches of other sizes than the traced one."""
    parity = scale = 0.0
    for seed, (images, expressions) in enumerate(PROVEN, start=1):
        inputs = example(loaded, images, expressions, seed=seed)
        with torch.inference_mode():
            expected = graph(*inputs)
        for ours, theirs in zip(run(inputs), expected, strict=True):
            if ours.shape != theirs.shape:
                raise ValueError(f"outputs of shape {tuple(ours.shape)} instead of {tuple(theirs.shape)}")
            difference = float((ours - theirs).abs().max())
            parity = difference if difference != difference else max(parity, difference)  # NaN stays NaN
            scale = max(scale, float(theirs.abs().max()))
            if parity != parity:
                return parity, scale
    return parity, scale


def _metadata(loaded: Checkpoint, outputs: Sequence[str]) -> dict[str, str]:
    """What a consumer of the file needs to know, by name."""
    data, tokenizer = loaded.recipe.data, loaded.tokenizer
    facts = {
        "schema": SCHEMA,
        "refseg": __version__,
        "model": loaded.name,
        "inputs": INPUTS,
        "outputs": outputs,
        "image": {
            "size": data.size,
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
    }
    return {"refseg.json": json.dumps(facts), text.FILE_NAME: tokenizer.pipeline.to_str()}


def _write_pt2(program: ExportedProgram, file: Path, metadata: dict[str, str]) -> None:
    with file.open("wb") as stream:  # by its name alone it would have to end in .pt2
        torch.export.save(program, stream, extra_files=metadata)


def _load_pt2(file: Path) -> Run:
    with file.open("rb") as stream:
        module = torch.export.load(stream).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return list(module(*inputs))

    return run


def _write_onnx(program: ExportedProgram, file: Path, metadata: dict[str, str]) -> None:
    import onnx

    written = torch.onnx.export(program, dynamo=True, verbose=False, input_names=INPUTS, output_names=_names(program))
    assert written is not None
    model = written.model_proto
    if model.ByteSize() > ONNX_LIMIT:
        raise ValueError("more than 2 GB do not fit into one ONNX file; --format pt2 has no such limit")
    _name_axes(model)
    for owner in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        del owner.metadata_props[:]  # the exporter's notes, which name files of this machine
    for name, value in metadata.items():
        model.metadata_props.add(key=name, value=value)
    file.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(file))


def _names(program: ExportedProgram) -> Sequence[str]:
    return OUTPUTS[: len(program.graph_signature.user_outputs)]


def _name_axes(model: Any) -> None:
    """Call the open axes `images` and `expressions` wherever the exporter wrote symbols such as s34."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    symbols = {i.name: i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input}
    named = {symbols["images"]: "images", symbols["tokens"]: "expressions"}
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param):
        dim.dim_param = named.get(dim.dim_param, dim.dim_param)


def _load_onnx(file: Path) -> Run:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        feeds = {name: tensor.numpy() for name, tensor in zip(INPUTS, inputs, strict=True)}
        return [torch.from_numpy(array) for array in session.run(None, feeds)]

    return run


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
        cause = _innermost(error)
        reason = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        raise RefsegError(f"{loaded.name}: cannot be exported to {format}: {reason}") from error


def _innermost(error: BaseException) -> BaseException:
    """What went wrong first: exporters wrap it, layer by layer, into advice of their own."""
    while error.__cause__ is not None:
        error = error.__cause__
    return error


FORMATS: dict[Format, tuple[Callable[[ExportedProgram, Path, dict[str, str]], None], Callable[[Path], Run]]] = {
    "onnx": (_write_onnx, _load_onnx),
    "pt2": (_write_pt2, _load_pt2),
}  # how a file is written and how it is opened
