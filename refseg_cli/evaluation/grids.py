"""A model's logits brought to where each protocol compares masks, and the pixels counted there.

Axes: N expressions, h' w' network output, H W network input, h w original picture, V views.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.data import masks
from refseg_cli.data.placement import Placement
from refseg_cli.data.transforms import resample, to_original
from refseg_cli.metrics.counts import count_pixels
from refseg_cli.metrics.rules import Grid, Interpolation, View
from refseg_cli.records import Batch, Prediction, Rle, Sample

MODES: dict[str, tuple[Literal["bilinear", "bicubic"], bool]] = {
    "bilinear": ("bilinear", False),
    "bilinear-corners": ("bilinear", True),
    "bicubic-corners": ("bicubic", True),
}


def count_views(
    prediction: Prediction, batch: Batch, views: Sequence[View], truths: Sequence[np.ndarray]
) -> np.ndarray:
    """(N, V, 3) int64: pixels of P ∩ G, P and G for each expression and view, before any no-target rule.

    Views of one grid share its resampled values: a further threshold costs a comparison.

    Args:
        truths: N true masks (h, w) bool at original size, see `true_masks`.
    """
    counts = np.zeros((len(batch), len(views), 3), dtype=np.int64)
    has = np.ones(len(batch), dtype=bool) if batch.has_target is None else batch.has_target.cpu().numpy()
    for grid in dict.fromkeys(view.at(has_target=found) for view in views for found in (True, False)):
        wanted = [(v, view, _cut(view)) for v, view in enumerate(views) if grid in (view.grid, view.no_target)]
        for rows, values in values_at(prediction, batch, grid):
            array = values.cpu().numpy()
            for n, value in zip(rows.tolist(), array, strict=True):
                truth = truths[n] if grid.size == "original" else _input_truth(batch, n, truths[n], grid)
                known = _known(batch, n, grid)
                for v, view, cut in wanted:
                    if view.at(has_target=bool(has[n])) == grid:
                        pair = (value >= cut if view.ties else value > cut, truth)
                        if view.ignores and known is not None:
                            pair = (pair[0] & known, truth & known)
                        counts[n, v] = count_pixels(*pair)
    return counts


def _known(batch: Batch, n: int, grid: Grid) -> np.ndarray | None:
    """The pixels of a grid that count for the expression, True or False; None where all do."""
    ignored = batch.samples[n].ignored if batch.samples else None
    if ignored is None:
        return None
    region = masks.decode(ignored).astype(bool)
    return ~(region if grid.size == "original" else _at_input(batch, n, region, grid))


def true_masks(samples: Sequence[Sample]) -> list[np.ndarray]:
    """N masks (h, w) bool at original size; phrases that mean the same have one array."""
    decoded: dict[Rle, np.ndarray] = {}
    for sample in samples:
        if sample.target not in decoded:
            decoded[sample.target] = masks.decode(sample.target).astype(bool)
    return [decoded[sample.target] for sample in samples]


def values_at(prediction: Prediction, batch: Batch, grid: Grid) -> Iterator[tuple[Tensor, Tensor]]:
    """Pieces of a batch: their rows (k,), and logits (`never` a sigmoid) or probabilities (k, height, width) float32.

    At input size the batch is one piece, at original size each picture is one.
    """
    assert batch.sizes is not None
    assert batch.content is not None
    input_size = (int(batch.images.shape[-2]), int(batch.images.shape[-1]))
    output = prediction.mask_logits[:, 0]
    if grid.size == "input":
        yield torch.arange(len(batch)), _enlarged(output, grid, input_size)
        return
    sizes, content = batch.sizes.tolist(), batch.content.tolist()
    index = batch.image_index.cpu()
    for image, (size, place) in enumerate(zip(sizes, content, strict=True)):
        rows = torch.nonzero(index == image)[:, 0]
        placement, target = Placement(*place), (size[0], size[1])
        logits = output[rows.to(output.device)]
        if grid.enlarge is None:
            yield rows, to_original(logits, placement, input_size, target)
        else:
            yield rows, _restored(_enlarged(logits, grid, input_size), grid, placement, target)


def _enlarged(output: Tensor, grid: Grid, input_size: tuple[int, int]) -> Tensor:
    """(k, h', w') logits -> (k, H, W)."""
    values = output.float()
    if grid.sigmoid == "enlarge":
        values = values.sigmoid()
    if tuple(values.shape[-2:]) != input_size:
        assert grid.enlarge is not None
        values = _resize(values, input_size, grid.enlarge)
    return values


def _restored(values: Tensor, grid: Grid, placement: Placement, size: tuple[int, int]) -> Tensor:
    """(k, H, W) -> (k, h, w): the picture's content in the input, at its original size."""
    assert grid.restore is not None
    if grid.sigmoid == "restore":
        values = values.sigmoid()
    if grid.restore == "bicubic-warp":  # beside the content padding is read, beyond the input zeros
        return resample(values, placement, size, mode="bicubic", padding="zeros")
    if not placement.whole:
        return resample(values, placement, size, mode=MODES[grid.restore][0], padding="border")
    return _resize(values[:, *placement.box()], size, grid.restore)


def _resize(values: Tensor, size: tuple[int, int], how: Interpolation) -> Tensor:
    mode, corners = MODES[how]
    return F.interpolate(values[:, None], size, mode=mode, align_corners=corners)[:, 0]


def _cut(view: View) -> float:
    """What a value must exceed, or reach where ties count.

    A probability above t is a logit above log(t / (1 - t)): no sigmoid at full size.
    """
    if view.grid.sigmoid != "never":
        return view.threshold
    return float(torch.logit(torch.tensor(view.threshold, dtype=torch.float64)))


def _input_truth(batch: Batch, n: int, truth: np.ndarray, grid: Grid) -> np.ndarray:
    """(H, W) bool: the true mask (h, w) at the network's input, False in the padding."""
    sample = batch.samples[n] if batch.samples else None
    if not grid.crowds and sample is not None and sample.without_crowds is not None:
        truth = masks.decode(sample.without_crowds).astype(bool)
    return _at_input(batch, n, truth, grid)


def _at_input(batch: Batch, n: int, mask: np.ndarray, grid: Grid) -> np.ndarray:
    """A mask (h, w) of the picture at the network's input (H, W), False in the padding."""
    assert batch.content is not None
    found = np.zeros(batch.images.shape[-2:], dtype=bool)
    content = found[Placement(*batch.content[batch.image_index[n]].tolist()).box()]
    content[:] = masks.NEAREST[grid.nearest](mask, content.shape)
    return found
