"""What a protocol is: the declared rules of an evaluator.

Two kinds of counts are behind a figure. Most protocols count pixels, on a `Grid` (`View`); the others set predicted
instances against true ones and count these (`Matching`). What is made of the counts is the same: a rule for "no target"
(`Absence`) and figures (`Metric`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np

    from refseg_cli.metrics.concepts import Kind

# How pixels are interpolated. `corners` aligns the corner pixels' centres (torch's align_corners=True); `warp` also
# reads pixels beside the picture's content from the padding, and zeros outside (cv2.warpAffine).
Interpolation = Literal["bilinear", "bilinear-corners", "bicubic-corners", "bicubic-warp"]


@dataclass(frozen=True, slots=True)
class Grid:
    """Where a predicted and a true mask meet, and how the prediction comes there.

    size:    `original`: at the picture's own size, where the truth is as annotated; `input`: at the network's input,
             where the truth is resized to by nearest neighbour.
    nearest: which neighbour that is: the pixel under the `centres`, the one that `pillow` takes, or the one under the
             upper left `corners`, which OpenCV takes.
    crowds:  whether crowd annotations are part of the truth, where there are others beside them.
    enlarge: from the network's output to its input's size; None only where the picture has to be cut out of padding.
    sigmoid: before which step logits become probabilities; `never`: logits are resized.
    restore: from the picture's content in the input to its original size.
    """

    size: Literal["original", "input"]
    enlarge: Interpolation | None
    sigmoid: Literal["enlarge", "restore", "never"]
    restore: Interpolation | None
    nearest: Literal["centres", "pillow", "corners"] = "centres"
    crowds: bool = True


@dataclass(frozen=True, slots=True)
class View:
    """All that pixel counts depend on: a grid and the probability above which a pixel belongs to the mask.

    ties:      whether a pixel of exactly that probability belongs to it too.
    no_target: where the masks of no-target expressions are counted, if not on the grid.
    ignores:   whether pixels that the annotation ignores are left out of both masks; else they are background.
    """

    grid: Grid
    threshold: float
    ties: bool = False
    no_target: Grid | None = None
    ignores: bool = False

    def at(self, *, has_target: bool) -> Grid:
        """Where an expression's mask is counted."""
        return self.grid if has_target or self.no_target is None else self.no_target


ORIGINAL = Grid("original", enlarge=None, sigmoid="never", restore="bilinear")


# How far two instances overlap, see `instances.box_overlaps`.
Overlap = Literal["iou", "generalised", "inclusive"]


@dataclass(frozen=True, slots=True)
class Matching:
    """How predicted instances are set against the true ones.

    of:         what of them is compared.
    overlap:    of two masks always their IoU.
    pairing:    `first`: the instance with the highest score is the answer, and may be the box of a mask;
                `greedy`: the two that overlap most are a pair, then the two that do of those left;
                `optimal`: the pairs whose overlaps have the largest sum.
    thresholds: the least overlaps of a pair that counts; each has counts of its own.
    strict:     whether it must be more than that.
    score:      instances below are left out.
    crowds:     whether crowd annotations are true instances.
    """

    of: Literal["boxes", "masks"]
    overlap: Overlap
    pairing: Literal["first", "greedy", "optimal"]
    thresholds: tuple[float, ...]
    strict: bool = False
    score: float = -math.inf
    crowds: bool = True

    @property
    def needs_instances(self) -> bool:
        """Whether the answer's mask as a whole says nothing here."""
        return self.pairing != "first"

    def passes(self, overlaps: np.ndarray, threshold: float) -> np.ndarray:
        """Which of them (k,) are enough, bool."""
        return overlaps > threshold if self.strict else overlaps >= threshold


@dataclass(frozen=True, slots=True)
class Absence:
    """How a protocol knows "no target", and what it does then.

    rule:   `unknown`: no-target expressions are scored as any other;
            `emptied`: an answer of "no target" empties the mask before it is counted, and an empty mask is that answer;
            `declared`: the answer alone decides, masks are counted as the network gave them, a denied target is 0;
            `asked-again`: the same, but a denied target's mask is scored as if it had not been denied.
    exists: probability of a target from which on a no-target head says there is one; None for the checkpoint's own
            decision.
    pixels: without a head, masks of fewer pixels are an answer of "no target".
    head:   whether the head is listened to at all.
    truth:  which expressions have no target: those that were `annotated` so, or all whose true mask has no `pixels`.
    """

    rule: Literal["unknown", "emptied", "declared", "asked-again"]
    exists: float | None = None
    pixels: int = 1
    head: bool = True
    truth: Literal["annotated", "pixels"] = "annotated"


@dataclass(frozen=True, slots=True)
class Metric:
    """A figure. name: the evaluator's own word for it.

    kind: `overall` sum of intersections over sum of unions; `mean` of the expressions' IoU; `precision` the share whose
          IoU passes `threshold`; `no-target`, `target` the share of expressions without, with a target that are
          answered so; `F2` of answers of "no target": recall weighs twice as much as precision; `sum` of `terms`;
          `pmF1`, `IL_MCC`, `cgF1`: no ratios, see `concepts.figure`.
    of:   whether no-target expressions take part in `overall`, `mean` and `precision`; `single`: only expressions that
          have exactly one true instance do.
    by:    what the figure is formed over: all expressions at once, or each reference's, and then the mean of those
           references that define it.
    terms: names of `no-target` and `target` metrics of the same protocol. What these divide by is the truth's alone.
    """

    name: str
    kind: Literal["overall", "mean", "precision", "no-target", "target", "F2", "sum", "pmF1", "IL_MCC", "cgF1"]
    of: Literal["all", "targets", "single"] = "all"
    threshold: float = 0.0
    by: Literal["expression", "reference"] = "expression"
    terms: tuple[str, ...] = ()

    @property
    def counts_expressions(self) -> bool:
        """Whether it is the share of expressions that pass."""
        return self.kind in ("precision", "no-target", "target") and self.by == "expression"

    @property
    def concept(self) -> Kind | None:
        """Its kind, where that is no ratio of sums."""
        return self.kind if self.kind in ("pmF1", "IL_MCC", "cgF1") else None

    @property
    def adds_fractions(self) -> bool:
        """Whether its numerators are fractions; the others' are whole numbers."""
        return self.kind == "mean" or self.by == "reference"


@dataclass(frozen=True, slots=True)
class Protocol:
    """One way to score.

    follows:   whose, in a few words.
    threshold: probability above which a pixel belongs to the mask; None for the checkpoint's own. An argmax of two
               logits is 0.5, ties going to the background in both.
    ties:      whether they go to the mask instead.
    no_target: where masks of no-target expressions are counted, if not on the grid.
    ignores:   as in `View`.
    smoothing: added to an expression's intersection and union before they are divided.
    empty:     IoU of an expression whose union has no pixel.
    strict:    Pr@X asks for more than X; otherwise for X or more.
    headline:  the metrics that its papers print.
    size:      (height, width) of the official network input, for masks that come without a network.
    matching:  what is counted in place of pixels, which makes `grid` and `threshold` those of the mask that an answer's
               box is of.
    """

    name: str
    follows: str
    grid: Grid
    threshold: float | None
    absence: Absence
    metrics: tuple[Metric, ...]
    headline: tuple[str, ...]
    smoothing: tuple[float, float] = (0.0, 0.0)
    empty: float = 0.0
    strict: bool = True
    size: tuple[int, int] | None = None
    ties: bool = False
    no_target: Grid | None = None
    ignores: bool = False
    matching: Matching | None = None

    @property
    def by_reference(self) -> bool:
        """Whether it sets the phrases of a reference that have a target against those that have none."""
        return any(metric.by == "reference" for metric in self.metrics)

    def view(self, threshold: float) -> View | Matching:
        """What is counted. threshold: the checkpoint's, used where the protocol has none."""
        if self.matching:
            return self.matching
        used = threshold if self.threshold is None else self.threshold
        return View(self.grid, used, self.ties, self.no_target, self.ignores)

    def metric(self, name: str) -> Metric | None:
        return next((metric for metric in self.metrics if metric.name == name), None)
