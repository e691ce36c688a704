"""What a protocol of boxes or instances counts of an answer.

Axes: p predicted and t true instances of one expression.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from refseg_cli.data import masks
from refseg_cli.metrics.instances import box_overlaps, count_matches
from refseg_cli.metrics.rules import Matching
from refseg_cli.records import Detection, Expression, Record, Rle

Box = tuple[float, float, float, float]


def of_mask(mask: Rle) -> tuple[Detection, ...]:
    """The one instance that an answer is which tells none apart: its mask's tightest box. None of an empty mask."""
    return (Detection(masks.box(mask), rle=mask),) if masks.area(mask) else ()


def count_boxes(found: Sequence[Detection], true: Sequence[Box], matching: Matching) -> list[int]:
    """Matched, predicted and true instances at each threshold, one after the other."""
    boxes, scores = np.array([one.box for one in found]), np.array([one.score for one in found])
    overlaps = box_overlaps(boxes, np.array(true), matching.overlap)
    return [count for at in count_matches(overlaps, scores, matching) for count in at]


def count_masks(found: Sequence[Detection], true: Sequence[Rle], matching: Matching) -> list[int]:
    """The same by the masks' IoU; `found` have masks, and all are of one size."""
    rles, scores = [one.rle for one in found if one.rle is not None], np.array([one.score for one in found])
    return [count for at in count_matches(masks.overlaps(rles, true), scores, matching) for count in at]


def count_instances(
    found: Sequence[Detection], record: Record, expression: Expression, matching: Matching
) -> list[int]:
    """The same against what the expression refers to."""
    true = [record.instances[t] for t in expression.targets]
    true = [instance for instance in true if matching.crowds or not instance.iscrowd]
    if matching.of == "boxes":
        return count_boxes(found, [instance.box for instance in true], matching)
    return count_masks(found, [instance.rle for instance in true], matching)
