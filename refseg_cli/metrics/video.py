"""Region similarity J and boundary accuracy F of the masks of a video (Perazzi et al., CVPR 2016), and how steady
they are, which is our own measure.

As davisvideochallenge/davis2017-evaluation `davis2017/metrics.py` has them, and henghuiding/MeViS `tools/eval_mevis.py`
uses them: each figure is the mean over all frames, and over expressions that of their figures. DAVIS leaves the first
and the last frame out where the first mask is given, and pixels marked void: clear these in both masks.

Axes: f frames, h w pixels.
"""

from __future__ import annotations

import math

import numpy as np

TOLERANCE = 0.008  # of the frame's diagonal: how far boundaries that match may lie apart


def steady(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(f - 1,) each -> (f - 1,): how far each mask keeps to the one before, beside how far the truth does.

    1 - max(0, IoU of the two true masks - IoU of the two predicted ones): 1 where the answer changes no more than the
    truth, 0 where it changes altogether while the truth stands. It says nothing of being right: an answer that never
    changes is steady.

    predicted, true: IoU of each two neighbouring masks.
    """
    return 1 - np.maximum(true - predicted, 0)


def region_similarity(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(f, h, w) bool each -> (f,): the IoU of each frame; 1 where both are empty."""
    shared, union = (np.count_nonzero(both, axis=(1, 2)) for both in (predicted & true, predicted | true))
    return np.divide(shared, union, out=np.ones(len(union)), where=union > 0)


def boundary_accuracy(predicted: np.ndarray, true: np.ndarray) -> np.ndarray:
    """(f, h, w) bool each -> (f,): the F1 of each frame's boundaries.

    Precision is the share of the predicted boundary that lies within reach of the true one, recall the other way round;
    reach is `TOLERANCE` of the diagonal, rounded up to pixels. 1 where neither has a boundary (an empty mask, or one
    that fills the frame), 0 where one alone has.
    """
    reach = math.ceil(TOLERANCE * math.hypot(*true.shape[1:]))
    pairs = zip(boundaries(predicted), boundaries(true), strict=True)
    return np.array([_f1(ours, theirs, reach) for ours, theirs in pairs])


def boundaries(masks: np.ndarray) -> np.ndarray:
    """(..., h, w) bool -> the same shape: pixels that differ from the one to the right, below, or to the right below.

    A boundary one pixel wide, half a pixel towards the origin (D. Martin's `seg2bmap` of the Berkeley benchmark). In
    the last row only the right neighbour is looked at, in the last column only the lower one.
    """
    found = np.zeros_like(masks, dtype=bool)
    found[..., :, :-1] |= masks[..., :, :-1] ^ masks[..., :, 1:]
    found[..., :-1, :] |= masks[..., :-1, :] ^ masks[..., 1:, :]
    found[..., :-1, :-1] |= masks[..., :-1, :-1] ^ masks[..., 1:, 1:]
    return found


def _f1(predicted: np.ndarray, true: np.ndarray, reach: int) -> float:
    """Of two boundaries (h, w)."""
    if not predicted.any() or not true.any():
        return float(predicted.any() == true.any())
    part = _around(predicted | true)
    ours, theirs = predicted[part], true[part]
    precision = np.count_nonzero(ours & _within(theirs, reach)) / np.count_nonzero(ours)
    recall = np.count_nonzero(theirs & _within(ours, reach)) / np.count_nonzero(theirs)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _around(mask: np.ndarray) -> tuple[slice, slice]:
    """The tightest box."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _within(boundary: np.ndarray, reach: int) -> np.ndarray:
    """(h, w) bool: pixels that are no further than `reach` from one of the boundary."""
    from scipy.ndimage import distance_transform_edt

    return distance_transform_edt(~boundary) <= reach
