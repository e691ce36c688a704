"""An exported graph in the place of a model, so that evaluation and timing treat it as any other.

Axes: N expressions.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from refseg_cli.checkpoint import Checkpoint
from refseg_cli.records import Batch, Prediction
from refseg_cli.segmenters.onnx import Graphs, load


class GraphModule(nn.Module):
    """Batches on the CPU in, predictions out, without gradients or `aux`."""

    def __init__(self, graphs: Graphs) -> None:
        super().__init__()
        self.graphs = graphs

    def forward(self, batch: Batch) -> Prediction:
        encoded = self.graphs.encode(batch.images.numpy(), None if batch.small is None else batch.small.numpy())
        language = (batch.tokens.numpy(), batch.attention_mask.numpy(), batch.image_index.numpy())
        logits, *exists = (torch.from_numpy(array) for array in self.graphs.answer(encoded, *language))
        return Prediction(logits, exists[0] if exists else None)


def load_module(path: Path) -> Checkpoint:
    """What `refseg export` wrote, as a checkpoint whose model is a `GraphModule`.

    Raises:
        RefsegError: as `onnx.load`.
    """
    found = load(path)
    module = GraphModule(found.graphs).eval()
    return Checkpoint(module, found.recipe, found.tokenizer, found.thresholds, found.path, found.info)
