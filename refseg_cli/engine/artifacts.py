"""How a traced program becomes a file or a folder, and how that is opened to be run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from refseg_cli.engine import onnx_graph
from refseg_cli.engine.proof import Run
from refseg_cli.segmenters.onnx import IMAGE, PHRASE, Graphs

if TYPE_CHECKING:
    from torch.export import ExportedProgram

Format = Literal["onnx", "pt2"]


@dataclass(frozen=True, slots=True)
class Form:
    """make: what is stored, of a program.  save: stores that with texts by name.  open: what was stored, to be run."""

    make: Callable[[ExportedProgram], Any]
    save: Callable[[Any, Path, Mapping[str, str]], None]
    open: Callable[[Path], Run]


def _save_pt2(program: ExportedProgram, file: Path, metadata: Mapping[str, str]) -> None:
    with file.open("wb") as stream:  # by its name alone it would have to end in .pt2
        torch.export.save(program, stream, extra_files=dict(metadata))


def _open_pt2(file: Path) -> Run:
    with file.open("rb") as stream:
        module = torch.export.load(stream).module()

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        with torch.inference_mode():
            return list(module(*inputs))

    return run


def _save_split(model: Any, folder: Path, metadata: Mapping[str, str]) -> None:
    for name, part in zip((IMAGE, PHRASE), onnx_graph.split(model), strict=True):
        onnx_graph.save(part, folder / name, {})
    for name, text in metadata.items():
        (folder / name).write_text(text, encoding="utf-8")


def _open_onnx(file: Path) -> Run:
    graphs = Graphs.open(file)

    def run(inputs: Sequence[Tensor]) -> list[Tensor]:
        images, tokens, attention_mask, image_index, *small = (tensor.numpy() for tensor in inputs)
        answer = graphs.answer(graphs.encode(images, *small), tokens, attention_mask, image_index)
        return [torch.from_numpy(array) for array in answer]

    return run


FORMS: dict[Format, Form] = {
    "onnx": Form(onnx_graph.convert, onnx_graph.save, _open_onnx),
    "pt2": Form(lambda program: program, _save_pt2, _open_pt2),
}
SPLIT = Form(onnx_graph.convert, _save_split, _open_onnx)  # two ONNX graphs in a folder
