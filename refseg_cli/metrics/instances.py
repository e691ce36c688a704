"""Predicted instances against true ones: how far boxes overlap, which belong together, and how many do.

Axes: p predicted and t true instances of one expression. Boxes are (x, y, width, height) in pixels.
"""

from __future__ import annotations

import numpy as np

from refseg_cli.metrics.rules import Matching, Overlap


def box_overlaps(predicted: np.ndarray, true: np.ndarray, overlap: Overlap) -> np.ndarray:
    """(p, 4) and (t, 4) -> (p, t) float64; 0 where there is nothing to divide by (the official codes give NaN).

    `iou` is in [0, 1], and so is `inclusive`, whose right and lower edges are the last pixels of a box, so that it is
    one pixel wider and higher. `generalised` is in (-1, 1]: from the IoU is taken the share of the smallest box around
    both that neither covers (Rezatofighi et al., CVPR 2019).
    """
    first, second = (np.asarray(boxes, dtype=np.float64).reshape(-1, 4) for boxes in (predicted, true))
    a, b = first[:, None, :2], second[None, :, :2]
    a_end, b_end = (first[:, :2] + first[:, 2:])[:, None], (second[:, :2] + second[:, 2:])[None]
    edge = 1.0 if overlap == "inclusive" else 0.0
    shared = np.clip(np.minimum(a_end, b_end) - np.maximum(a, b) + edge, 0, None).prod(-1)
    union = (a_end - a + edge).prod(-1) + (b_end - b + edge).prod(-1) - shared
    iou = _share(shared, union)
    if overlap != "generalised":
        return iou
    around = (np.maximum(a_end, b_end) - np.minimum(a, b)).prod(-1)
    return iou - _share(around - union, around)


def count_matches(overlaps: np.ndarray, scores: np.ndarray, matching: Matching) -> tuple[tuple[int, int, int], ...]:
    """For each of the thresholds: matched pairs, predicted instances, true instances.

    Args:
        overlaps: (p, t), see `box_overlaps`.
        scores: (p,). Of equal ones the first given comes first.
    """
    order = np.argsort(-scores, kind="stable")
    sure = order[scores[order] >= matching.score]
    if matching.pairing == "first":
        sure = sure[:1]
    kept = overlaps[sure]
    found = PAIRINGS[matching.pairing](kept)
    return tuple((int(matching.passes(found, at).sum()), *kept.shape) for at in matching.thresholds)


def _largest_first(overlaps: np.ndarray) -> np.ndarray:
    """Overlaps of pairs: the largest of all, then the largest of what is left."""
    left, pairs = overlaps.copy(), []
    for _ in range(min(left.shape)):
        row, column = np.unravel_index(int(np.argmax(left)), left.shape)
        pairs.append(left[row, column])
        left[row], left[:, column] = -np.inf, -np.inf
    return np.array(pairs)


def _largest_sum(overlaps: np.ndarray) -> np.ndarray:
    """Overlaps of the pairs whose sum is largest (Hungarian)."""
    if not overlaps.size:
        return np.zeros(0)
    from scipy.optimize import linear_sum_assignment

    return overlaps[linear_sum_assignment(overlaps, maximize=True)]


PAIRINGS = {"first": _largest_first, "greedy": _largest_first, "optimal": _largest_sum}


def _share(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    return np.divide(part, whole, out=np.zeros_like(whole), where=whole > 0)
