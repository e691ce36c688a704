"""A model as one file for other runtimes, with the proof that it computes the same.

The graph: images (I, 3, H, W) float32 normalised, tokens (N, L) int64, attention_mask (N, L) bool, image_index (N,)
int64 -> mask_logits (N, 1, h, w), and exists_logit (N,) where the model has a no-target head. I and N are free, H, W
and L fixed. What a consumer needs besides (sizes, mean and std, thresholds, tokeniser) lies inside the file: in
ONNX as metadata `refseg.json` and `tokenizer.json`, in a .pt2 as extra files of these names.

Cut in two (`split`), it is a folder: image.onnx takes `images`, phrase.onnx what that gives and the rest, so that one
encoding of a picture serves any number of calls; `refseg.json` and `tokenizer.json` lie beside them.
"""

from __future__ import annotations

import json
import random
import shutil
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

from refseg_cli import __version__, checkpoint
from refseg_cli.checkpoint import Checkpoint
from refseg_cli.data import text
from refseg_cli.engine import onnx_graph
from refseg_cli.engine.onnx_graph import INPUTS, OUTPUTS
from refseg_cli.errors import RefsegError
from refseg_cli.files import part_name, whole
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Batch
from refseg_cli.segmenters.onnx import FACTS, IMAGE, PHRASE, Graphs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format = Literal["onnx", "pt2"]
Run = Callable[[Sequence[Tensor]], list[Tensor]]

SCHEMA = "refseg.export/1"
TRACED = (2, 3)  # images, expressions; one of anything would be taken for a constant
PROVEN = ((1, 1), (1, 4), (2, 5), (3, 3))  # likewise: other sizes than the traced one
# Largest difference from the model, as a share of its largest logit (at least 1). The same float32 sums in another
# order differ by 1e-7 to 1e-5 of that; an operator that means something else differs by far more than 1e-4.
TOLERANCE = 1e-4
EXTRAS = ("onnx", "onnxscript", "onnxruntime")


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """What to export. model: a checkpoint or training run, None for the bundled one.  out: the file to write.

    split: cut the graph where language enters; `out` is then a folder.
    """

    model: str | Path | None
    format: Format
    out: Path
    split: bool = False


@dataclass(frozen=True, slots=True)
class ExportReport:
    """What was written. parity: largest absolute difference of any output from the model's, over `PROVEN` batches.

    scale: the model's largest absolute output there, which `parity` is to be seen against.  bytes: of the file, or
    of all files of the folder.
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
    write, read = (_write_split, _load_onnx) if request.split else FORMATS[request.format]
    with _new_folder(request.out) if request.split else whole(request.out) as file:
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
        size = sum(part.stat().st_size for part in (file.iterdir() if request.split else [file]))
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
    if request.split:
        _check_folder(request)
    elif request.out.suffix != f".{request.format}":
        raise RefsegError(f"{request.out}: not a name for {request.format}", hint=f"let it end in .{request.format}")
    elif request.out.is_dir():
        raise RefsegError(f"{request.out}: is a folder")
    missing = [name for name in EXTRAS if find_spec(name) is None]
    if request.format == "onnx" and missing:
        raise RefsegError(f"ONNX export needs {', '.join(missing)}", hint="pip install 'refseg[export]'")


def _check_folder(request: ExportRequest) -> None:
    """That the folder of a split graph may be written, in the place of an earlier one at most."""
    out = request.out
    if request.format != "onnx":
        raise RefsegError(f"--split cuts ONNX graphs, not {request.format}", hint="leave --format away")
    if out.suffix in (".onnx", ".pt2"):
        raise RefsegError(f"{out}: --split writes a folder of two graphs", hint="name a folder")
    if out.exists() and not (out / FACTS).is_file() and not (out.is_dir() and not any(out.iterdir())):
        raise RefsegError(f"{out}: in the way of the exported folder", hint="move it, or name another folder")


@contextmanager
def _new_folder(path: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `path` when the block ends well, and vanishes otherwise."""
    new, old = (path.with_name(part_name(path.name)) for _ in range(2))
    try:
        new.mkdir(parents=True)
        yield new
        if path.exists():
            path.rename(old)
        new.rename(path)
    except OSError as error:
        raise RefsegError(f"{path}: cannot write: {error.strerror or error}") from error
    finally:
        for left in (new, old):
            shutil.rmtree(left, ignore_errors=True)


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
        "checkpoint": {**loaded.info, "name": loaded.name},
    }
    return {FACTS: json.dumps(facts), text.FILE_NAME: tokenizer.pipeline.to_str()}


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
    onnx_graph.save(onnx_graph.convert(program), file, metadata)


def _write_split(program: ExportedProgram, folder: Path, metadata: dict[str, str]) -> None:
    for name, part in zip((IMAGE, PHRASE), onnx_graph.split(onnx_graph.convert(program)), strict=True):
        onnx_graph.save(part, folder / name, {})
    for name, text_ in metadata.items():
        (folder / name).write_text(text_, encoding="utf-8")


def _load_onnx(file: Path) -> Run:
    graphs = Graphs.open(file)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        images, *others = (tensor.numpy() for tensor in inputs)
        return [torch.from_numpy(array) for array in graphs.answer(graphs.encode(images), *others)]

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
