"""Put a run's best checkpoint here as a bundled model: `python -m refseg_cli.bundled.build RUN photos NAME`.

A maintainer's script. Weights are stored in half precision, which halves the package and moves the scores by less than
a hundredth of a point; they are computed with in single precision as ever. `model.onnx` is the same model for
onnxruntime. It holds no weights: its initialisers are places in `model.safetensors`.
"""

from __future__ import annotations

import json
import shutil
import struct
import sys
from pathlib import Path
from typing import Any

import numpy as np

from refseg_cli import checkpoint
from refseg_cli.files import whole
from refseg_cli.segmenters.onnx import BUNDLED

SMALLEST = 16  # values that are worth a place of their own; fewer stay in the graph
_KINDS: dict[str, Any] = {"F16": np.dtype("<f2"), "F32": np.dtype("<f4")}


def build(run: str, place: str, name: str, bundle: Path = checkpoint.BUNDLE) -> None:
    """Copy `best` of `run` to one of `checkpoint.BUNDLED`, to be called `name` in what the commands print."""
    from safetensors.torch import save_model

    source, here = checkpoint.load(run), bundle / place
    here.mkdir(exist_ok=True)
    save_model(source.model.half(), str(here / checkpoint.WEIGHTS))
    (here / checkpoint.WEIGHTS).chmod(0o644)
    shutil.copy(Path(source.folder) / "tokenizer.json", here)
    info = {"format": checkpoint.FORMAT, **source.info, "name": name}
    (here / checkpoint.CONFIG).write_text(json.dumps(info, indent=2) + "\n", encoding="utf-8")
    write_graph(here)


def write_graph(folder: Path) -> None:
    """Write `model.onnx` for the weights of a checkpoint folder."""
    from refseg_cli.engine import onnx_graph
    from refseg_cli.engine.tracing import TRACED, Graph, example, trace

    loaded = checkpoint.load(folder)
    program = trace(Graph(loaded.model).eval(), example(loaded, *TRACED))
    model = onnx_graph.folded_but_weights(onnx_graph.convert(program, optimize=False))
    refer(model, folder / checkpoint.WEIGHTS)
    with whole(folder / BUNDLED) as part:
        part.write_bytes(model.SerializeToString())


def refer(model: Any, weights: Path) -> None:
    """Make a ModelProto's initialisers places in a safetensors file in the same folder, wherever they are its tensors.

    A tensor in half precision is cast to single in the graph. What is in the file under no such name, or not with these
    values, stays in the graph.
    """
    import onnx

    places, casts = _tensors(weights), []
    data = np.memmap(weights, np.uint8, mode="r")
    for initialiser in model.graph.initializer:
        name, values = initialiser.name, onnx.numpy_helper.to_array(initialiser)
        kind, start, end = places.get(name.removeprefix("model."), ("", 0, 0))
        if kind not in _KINDS or values.dtype != np.float32 or values.size < SMALLEST:
            continue
        stored = data[start:end].view(_KINDS[kind])
        if stored.size != values.size or not np.array_equal(stored.astype(np.float32), values.ravel()):
            continue
        initialiser.Clear()
        initialiser.name, initialiser.data_location = name, onnx.TensorProto.EXTERNAL
        initialiser.data_type = onnx.TensorProto.FLOAT
        initialiser.dims.extend(values.shape)
        if kind == "F16":
            initialiser.name, initialiser.data_type = f"{name}.half", onnx.TensorProto.FLOAT16
            casts.append(onnx.helper.make_node("Cast", [initialiser.name], [name], to=onnx.TensorProto.FLOAT))
        for key, value in {"location": weights.name, "offset": start, "length": end - start}.items():
            initialiser.external_data.add(key=key, value=str(value))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    del model.graph.value_info[:]  # shapes that onnxruntime infers again; half of the file


def _tensors(weights: Path) -> dict[str, tuple[str, int, int]]:
    """Name -> kind, and the bytes of the file that it lies in: from, to. The format is in safetensors' README."""
    with weights.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = json.loads(file.read(length))
    first = 8 + length
    return {
        name: (tensor["dtype"], first + tensor["data_offsets"][0], first + tensor["data_offsets"][1])
        for name, tensor in head.items()
        if name != "__metadata__"
    }


if __name__ == "__main__":
    build(sys.argv[1], sys.argv[2], sys.argv[3])
