"""A model between tensors, and the graph that is traced of it with the numbers of pictures and phrases left open."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from refseg_cli.checkpoint import Checkpoint
from refseg_cli.engine.onnx_graph import INPUTS, PICTURES
from refseg_cli.records import Batch

if TYPE_CHECKING:
    from torch.export import ExportedProgram

TRACED = (2, 3)  # images, expressions; one of anything would be taken for a constant


class Graph(nn.Module):
    """A model between tensors, as runtimes want it."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self,
        images: Tensor,
        tokens: Tensor,
        attention_mask: Tensor,
        image_index: Tensor,
        small: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        prediction = self.model(Batch(images, tokens, attention_mask, image_index, small=small))
        if prediction.exists_logit is None:
            return (prediction.mask_logits,)
        return prediction.mask_logits, prediction.exists_logit


def trace(graph: Graph, inputs: Sequence[Tensor]) -> ExportedProgram:
    """The graph with the numbers of images and of expressions left open."""
    from torch.export import Dim

    images, expressions = Dim("images", min=1), Dim("expressions", min=1)
    shapes = {name: {0: images if name in PICTURES else expressions} for name in INPUTS[: len(inputs)]}
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
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randn(images, 3, height, width, generator=generator)
    small = loaded.recipe.data.small
    more = () if small == (0, 0) else (torch.randn(images, 3, *small, generator=generator),)
    return pixels, tokens, attention_mask, torch.arange(expressions) * images // expressions, *more
