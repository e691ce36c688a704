"""Exported programs as ONNX graphs, whole or cut in two where language enters.

The first of the two computes all that depends on the picture alone, the second the rest. Where the cut lies is read
from the graph, not from the architecture: a node belongs to the second graph if anything of a phrase reaches it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from torch.export import ExportedProgram

INPUTS = ("images", "tokens", "attention_mask", "image_index", "small")  # the last: if the model reads it
PICTURES = ("images", "small")
OUTPUTS = ("mask_logits", "exists_logit")
LIMIT = 2**31 - 2**20  # bytes; protobuf cannot hold more in one file


def convert(program: ExportedProgram, *, optimize: bool = True) -> Any:
    """The program as a ModelProto that names its axes, and nothing of the machine that made it.

    optimize: fold what is constant. Without, the initialisers are the model's parameters, bit for bit.
    """
    import torch

    outputs = OUTPUTS[: len(program.graph_signature.user_outputs)]
    inputs = INPUTS[: len(program.graph_signature.user_inputs)]
    written = torch.onnx.export(
        program, dynamo=True, verbose=False, optimize=optimize, input_names=inputs, output_names=outputs
    )
    assert written is not None
    model = written.model_proto
    _name_axes(model)
    for owner in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.functions):
        del owner.metadata_props[:]  # the exporter's notes, which name files of this machine
    return model


def folded_but_weights(model: Any) -> Any:
    """An unoptimised ModelProto with its constants folded, but for what is made of weights: these stay as they are.

    Halves the nodes, and with them the time that a runtime takes to load the graph.
    """
    import onnx
    from onnxscript import optimizer

    kept = list(model.graph.input)
    for weight in model.graph.initializer:  # what is an input as well may change, so nobody folds it
        model.graph.input.append(onnx.helper.make_tensor_value_info(weight.name, weight.data_type, weight.dims))
    logging.getLogger("onnx_ir").setLevel(logging.ERROR)  # it speaks of each of them
    model = optimizer.optimize(model)
    del model.graph.input[:]
    model.graph.input.extend(kept)
    return model


def save(model: Any, file: Path, metadata: Mapping[str, str]) -> None:
    """Write a ModelProto with that metadata and no other, and have it checked.

    Raises:
        ValueError: it is too large for one file.
    """
    import onnx

    if model.ByteSize() > LIMIT:
        raise ValueError("more than 2 GB do not fit into one ONNX file; --format pt2 has no such limit")
    onnx.helper.set_model_props(model, dict(metadata))
    file.write_bytes(model.SerializeToString())
    onnx.checker.check_model(str(file))


def split(model: Any) -> tuple[Any, Any]:
    """(what depends on the picture alone, the rest); the first one's outputs are inputs of the second.

    Raises:
        RefsegError: nothing depends on the picture alone.
    """
    pictures = [value.name for value in model.graph.input if value.name in PICTURES]
    of_phrase, of_picture = set(INPUTS) - set(PICTURES), set(pictures)
    first: list[Any] = []
    second: list[Any] = []
    constant: list[Any] = []
    for node in model.graph.node:  # each after those that it reads
        read = _reads(node)
        kind, values = constant, None
        if not of_phrase.isdisjoint(read):
            kind, values = second, of_phrase
        elif not of_picture.isdisjoint(read):
            kind, values = first, of_picture
        kind.append(node)
        if values is not None:
            values.update(node.output)
    if not first:
        raise RefsegError(
            "language enters at the input: no part of the model depends on the picture alone", hint="omit --split"
        )
    outputs = [value.name for value in model.graph.output]
    read_later = {name for node in second for name in _reads(node)} | set(outputs)
    made = dict.fromkeys([*pictures, *(name for node in first for name in node.output)])
    border = [name for name in made if name in read_later]
    phrase_inputs = [name for name in INPUTS if name in read_later and name not in PICTURES]
    return (
        _part(model, constant, first, pictures, [name for name in border if name not in pictures]),
        _part(model, constant, second, [*border, *phrase_inputs], outputs),
    )


def _reads(node: Any) -> set[str]:
    """The values that a node reads, those of its branches and loops included."""
    read = {name for name in node.input if name}
    for attribute in node.attribute:
        for graph in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
            read |= {name for inner in graph.node for name in _reads(inner)}
    return read


def _part(
    model: Any, constant: Sequence[Any], nodes: Sequence[Any], inputs: Sequence[str], outputs: Sequence[str]
) -> Any:
    """The nodes as a model of their own, with the constants that they need."""
    import onnx

    needed = {name for node in nodes for name in _reads(node)} | set(outputs)
    kept = []
    for node in reversed(constant):
        if not needed.isdisjoint(node.output):
            kept.append(node)
            needed |= _reads(node)
    typed = {v.name: v for v in (*model.graph.input, *model.graph.output, *model.graph.value_info)}
    if missing := [name for name in (*inputs, *outputs) if name not in typed]:
        raise ValueError(f"the exporter gave {missing[0]} no type")
    graph = onnx.helper.make_graph(
        [*reversed(kept), *nodes],
        model.graph.name,
        [typed[name] for name in inputs],
        [typed[name] for name in outputs],
        initializer=[i for i in model.graph.initializer if i.name in needed],
        value_info=_inside(model.graph.value_info, [*kept, *nodes], outputs),
    )
    return onnx.helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def _inside(values: Iterable[Any], nodes: Iterable[Any], outputs: Sequence[str]) -> list[Any]:
    made = {name for node in nodes for name in node.output} - set(outputs)
    return [value for value in values if value.name in made]


def _name_axes(model: Any) -> None:
    """Call the open axes `images` and `expressions` wherever the exporter wrote symbols such as s34."""
    values = [*model.graph.input, *model.graph.output, *model.graph.value_info]
    symbols = {i.name: i.type.tensor_type.shape.dim[0].dim_param for i in model.graph.input}
    named = {symbols["images"]: "images", symbols["tokens"]: "expressions"}
    for dim in (dim for value in values for dim in value.type.tensor_type.shape.dim if dim.dim_param):
        dim.dim_param = named.get(dim.dim_param, dim.dim_param)
