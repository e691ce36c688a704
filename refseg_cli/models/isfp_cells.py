"""What annotations say of ISFP's grid cells: the losses of models/isfp.py, and the oracles in place of its branches.

Equations, tables and sections are the journal's. Axes: n expressions, h w of a map, s grid cells (row by row).
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch

CERTAIN = 20.0  # logit of an annotated pixel

# --- Losses [III-E] ---------------------------------------------------------------------------------------------------


def centres(masks: Tensor, grid: tuple[int, int]) -> Tensor:
    """Gravity centres G of masks (n, 1, H, W) in cells: (n, 2) row and column, NaN for an empty mask."""
    centre = []
    for axis, cells in zip((2, 1), grid, strict=True):
        ink = masks[:, 0].sum(axis)  # of each row, of each column
        middles = torch.arange(ink.shape[1], device=ink.device) + 0.5
        centre.append((ink * middles).sum(1) / ink.sum(1) / ink.shape[1] * cells)
    return torch.stack(centre, 1)


def positive_cells(masks: Tensor, grid: tuple[int, int], *, reach: int = 1) -> Tensor:
    """G_pos (n, s) bool: the cell that G falls into and its eight neighbours (`reach` 1); none for an empty mask."""
    cell = centres(masks, grid).floor()
    rows, columns = (torch.arange(count, device=masks.device) - cell[:, k, None] for k, count in enumerate(grid))
    return ((rows.abs() <= reach)[:, :, None] & (columns.abs() <= reach)[:, None]).flatten(1)


def identify_loss(identifying: Tensor, positive: Tensor) -> Tensor:
    """Eq. 5, 6 on logits (n, s), summed over cells."""
    y_ins = positive.to(identifying.dtype)
    bce = F.binary_cross_entropy_with_logits(identifying.float(), y_ins.float(), reduction="none")
    return bce.sum(1).mean()


def segment_loss(cell_masks: Tensor, target: Tensor, positive: Tensor) -> Tensor:
    """Eq. 7 on logits (n, s, h, w) against (n, 1, h, w): positive cells only, summed over them and their pixels."""
    rows, cells = torch.nonzero(positive, as_tuple=True)
    logits = cell_masks[rows, cells].float()
    return F.binary_cross_entropy_with_logits(logits, target[rows, 0], reduction="sum") / len(cell_masks)


def refine_loss(logits: Tensor, target: Tensor, learns: Tensor) -> Tensor:
    """Eq. 8: the mean over pixels (n, 1, h, w) of the expressions that `learns` (n,) names; 0 for the others."""
    bce = F.binary_cross_entropy_with_logits(logits.float(), target, reduction="none").flatten(1).mean(1)
    return (bce * learns).mean()


def iou(logits: Tensor, target: Tensor) -> Tensor:
    """(n,) IoU of the masks at probability one half with the targets, both (n, 1, h, w); 0 where both are empty."""
    p, g = (logits > 0).flatten(1), (target > 0).flatten(1)
    return (p & g).sum(1) / (p | g).sum(1).clamp(min=1)


# --- Oracles [IV-C, table II] -----------------------------------------------------------------------------------------


def true_masks(batch: Batch) -> Tensor:
    """The batch's true masks (n, 1, H, W).

    Raises:
        RefsegError: it has none.
    """
    if batch.masks is None:
        raise RefsegError(
            "isfp: model.oracle replaces a branch by annotations, and there are none here",
            hint="an oracle can only be evaluated; to predict, train with --set model.oracle=none",
        )
    return batch.masks


def annotated_map(batch: Batch, grid: tuple[int, int]) -> Tensor:
    """Table IIa, "GT Location": the true Identifying Map (n, Sh, Sw) as certain logits, highest where G falls."""
    masks = true_masks(batch)
    steps = 2 * positive_cells(masks, grid).float() - 1 + positive_cells(masks, grid, reach=0)
    return (steps * CERTAIN).unflatten(1, grid)


def annotated_masks(cell: Tensor, batch: Batch, grid: tuple[int, int]) -> Tensor:
    """Table IIb, "GT Mask": the true mask of the object at `cell` (n,), as certain logits (n, 1, H, W).

    The objects known are those that the batch's expressions of the same image refer to. The one whose gravity centre is
    nearest to the cell is taken, if the cell is one of its positive ones (right or wrong); else the mask is empty.
    """
    masks = true_masks(batch)
    place = torch.stack([cell // grid[1], cell % grid[1]], 1)
    centre = centres(masks, grid)
    same_image = batch.image_index[:, None] == batch.image_index
    claimed = same_image & positive_cells(masks, grid)[:, cell].T  # (n, m): cell n is positive for expression m
    distance = (place[:, None] + 0.5 - centre).square().sum(2).masked_fill(~claimed, float("inf"))
    found = masks[distance.argmin(1)] * claimed.any(1)[:, None, None, None]
    return (2 * found - 1) * CERTAIN
