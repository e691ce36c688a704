"""The nouns that flow between the rooms: Record -> Batch -> Prediction -> masks.

Axes: I images in a batch, N expressions in a batch (N >= I), L tokens, H W network input, h w network output.
Nothing here imports torch at run time, so that `prepare` can do without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import TYPE_CHECKING, Any, Literal

from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    import numpy as np
    import torch
    from torch import Tensor

    from refseg_cli.normalisation import Normalisation


@dataclass(frozen=True, slots=True)
class Rle:
    """A binary mask in COCO's compressed run-length encoding (column-major runs).

    size: (height, width) in pixels.  counts: the compressed string as bytes.
    """

    size: tuple[int, int]
    counts: bytes


@dataclass(frozen=True, slots=True)
class Instance:
    """One annotated object of an image.  box: (x, y, width, height) in pixels, as annotated."""

    ann_id: int
    category_id: int
    category: str
    box: tuple[float, float, float, float]
    rle: Rle
    iscrowd: bool = False


@dataclass(frozen=True, slots=True)
class Detection:
    """One object that a model found for a phrase.

    box: (x, y, width, height) in pixels of the picture.  score: how sure it is of it, as a rule in [0, 1].
    rle: its mask at the picture's size; None where only the box is known.
    """

    box: tuple[float, float, float, float]
    score: float = 1.0
    rle: Rle | None = None


# The two forms in which the REFER files have a sentence: cleaned, and as it was typed.
PhraseField = Literal["sent", "raw"]


@dataclass(frozen=True, slots=True)
class Expression:
    """One phrase.

    text:    REFER's `sent`: lower case, in RefCOCOg also without punctuation.
    raw:     REFER's `raw`: as the annotator typed it; equal to `text` where the source has one form only.
    targets: positions in `Record.instances`; none for a no-target expression.
    ignored: pixels that count for nothing, neither as target nor as background; None for none. No target has any.
    """

    text: str
    ref_id: int
    sent_id: int
    targets: tuple[int, ...]
    raw: str = ""
    ignored: Rle | None = None

    def __post_init__(self) -> None:
        if not self.raw.strip():
            object.__setattr__(self, "raw", self.text)

    def phrase(self, form: PhraseField) -> str:
        """The form that a recipe's `text.field` asks for."""
        return self.raw if form == "raw" else self.text


@dataclass(frozen=True, slots=True)
class Record:
    """One image with all its expressions of one split.

    image: the file's bytes as found, never re-encoded.  height, width: pixels of the picture.
    orientation: EXIF's number (1 to 8) by which the pixels that the file stores are turned to be the picture that
                 height, width, masks and boxes are of; 1: as stored.
    clip:        of a frame of a video, the video's name; empty for a picture. All frames of a clip have the same
                 expressions in the same order, each with those of its targets that the frame shows; instances with the
                 same ann_id are one thing.
    frame:       the frame's place among all frames of its video, from 0; a frame that could not be used leaves a gap.
    """

    image_id: int
    file_name: str
    split: str
    height: int
    width: int
    image: bytes = field(repr=False)
    instances: tuple[Instance, ...]
    expressions: tuple[Expression, ...]
    orientation: int = 1
    clip: str = ""
    frame: int = 0


@dataclass(frozen=True, slots=True)
class Sample:
    """What evaluation must know of one expression.

    text: the phrase as it is asked, see `Expression.phrase`.
    target: union of the target instances at original size; an all-zero mask where there is no target.
    categories: names of the target instances' categories, each once, in alphabetical order.
    without_crowds: `target` without crowd annotations, see `masks.targets_without_crowds`; None where it is the same.
    ignored: as in `Expression`.
    boxes: of the target instances, (x, y, width, height) in pixels.
    """

    image_id: int
    ref_id: int
    sent_id: int
    split: str
    text: str
    target: Rle
    instance_count: int
    categories: tuple[str, ...] = ()
    without_crowds: Rle | None = None
    ignored: Rle | None = None
    boxes: tuple[tuple[float, float, float, float], ...] = ()


@dataclass(frozen=True, slots=True)
class Batch:
    """Images with their expressions, grouped: expression n belongs to image `image_index[n]`.

    The loader gives pictures and masks in bytes; `to` makes the floats of them that a model takes, on its device.

    images:         (I, 3, H, W) float32, RGB, normalised with the recipe's mean and std; uint8 before
    tokens:         (N, L) int64, padded on the right with the tokeniser's pad id
    attention_mask: (N, L) bool, True at real tokens
    image_index:    (N,) int64, ascending
    frames:         images that follow each other and are one clip; 1: pictures. All clips of a batch have as many
    phrase_index:   (N,) int64, equal exactly where two expressions are one phrase about one clip, and so have the same
                    tokens; from 0, in the order in which they come. None where each is a phrase of its own
    masks:          (N, 1, H, W) float32 in {0, 1}, union of the targets in network coordinates; uint8 before; with
                    `data.resize` `warp` float32 from the first, as edges lie between 0 and 1; None without annotations
    has_target:     (N,) bool; None without annotations
    target_id:      (N,) int64, equal exactly where two expressions of the batch have the same targets in the
                    same image, or show the same things of a clip; None without annotations
    small:          (I, 3, h, w), the same pictures at `data.small`'s size; None unless the recipe asks for it
    objects:        (T, H, W) as `masks`, the targets of all expressions one by one; None unless the recipe's
                    `data.objects` asks for it
    object_of:      (T,) int64, the expression that each of them is a target of
    categories:     (I, H, W) int64, category id of the annotated object at each pixel, 0 elsewhere; None unless the
                    recipe's `data.category_map` asks for it
    sizes:          (I, 2) int64, original (height, width) in pixels
    content:        (I, 4) float32, (top, left, height, width) of the picture inside the H x W input (letterbox), in
                    pixels between their edges; whole numbers unless the recipe's `data.resize` is `warp`
    samples:        N entries for evaluation; empty without annotations
    normalisation:  I entries, how bytes of `images` and `small` become floats; empty where they are floats
    """

    images: Tensor
    tokens: Tensor
    attention_mask: Tensor
    image_index: Tensor
    frames: int = 1
    phrase_index: Tensor | None = None
    masks: Tensor | None = None
    has_target: Tensor | None = None
    target_id: Tensor | None = None
    categories: Tensor | None = None
    small: Tensor | None = None
    objects: Tensor | None = None
    object_of: Tensor | None = None
    sizes: Tensor | None = None
    content: Tensor | None = None
    samples: Sequence[Sample] = ()
    normalisation: Sequence[Normalisation] = ()

    def __len__(self) -> int:
        return self.tokens.shape[0]

    def part(self, rows: slice | Tensor) -> Batch:
        """The batch of some of its expressions and the images that they are of.

        rows: a stretch of them, or their numbers, ascending; of clips all of a phrase's or none.
        """
        images, index = self.image_index[rows].unique(return_inverse=True)
        phrases = None if self.phrase_index is None else self.phrase_index[rows].unique(return_inverse=True)[1]
        samples = self.samples[rows] if isinstance(rows, slice) else [self.samples[i] for i in rows if self.samples]

        def of(values: Tensor | None, chosen: Tensor | slice) -> Tensor | None:
            return None if values is None else values[chosen]

        return replace(
            self,
            images=self.images[images],
            tokens=self.tokens[rows],
            attention_mask=self.attention_mask[rows],
            image_index=index,
            phrase_index=phrases,
            small=of(self.small, images),
            masks=of(self.masks, rows),
            has_target=of(self.has_target, rows),
            target_id=of(self.target_id, rows),
            categories=of(self.categories, images),
            sizes=of(self.sizes, images),
            content=of(self.content, images),
            samples=samples,
            normalisation=[self.normalisation[i] for i in images.tolist() if self.normalisation],
        )

    def to(self, device: torch.device | str, *, non_blocking: bool = True) -> Batch:
        """The same batch with every tensor on `device`, pictures and masks in float32: what models and losses take."""
        moved = self._with(lambda tensor: tensor.to(device, non_blocking=non_blocking))
        floats: dict[str, Any] = {}
        for name in ("masks", "objects"):
            masks = getattr(moved, name)
            if masks is not None and not masks.is_floating_point():
                floats[name] = masks.float()
        if how := self.normalisation:
            from refseg_cli.normalisation import normalised

            floats["images"] = normalised(moved.images, how, [one.inside for one in how])
            if moved.small is not None:
                floats["small"] = normalised(moved.small, how, [one.inside_small for one in how])
            floats["normalisation"] = ()
        return replace(moved, **floats)

    def pin_memory(self) -> Batch:
        """The same batch in memory that a GPU reads by itself, as torch's DataLoader asks for it."""
        return self._with(lambda tensor: tensor.pin_memory())

    def _with(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """The batch of its tensors after a change."""
        changed: dict[str, Any] = {}
        for f in fields(self):
            value = getattr(self, f.name)
            if hasattr(value, "to"):
                changed[f.name] = change(value)
        return replace(self, **changed)


@dataclass(frozen=True, slots=True)
class Prediction:
    """What a model says of a batch; the same in training and evaluation.

    mask_logits:  (N, 1, h, w) raw logits, positive inside the target, in network coordinates
    exists_logit: (N,) raw logit, positive when a target is present; None for models without a no-target head
    aux:          named tensors for losses and visualisation only. Those that a person can look at stand in the model
                  class's table `EXPLAIN`, name -> MapKind, which says how they are drawn
    """

    mask_logits: Tensor
    exists_logit: Tensor | None = None
    aux: dict[str, Tensor] = field(default_factory=dict)


# How a tensor of `Prediction.aux` is drawn; q queries, regions, stages or grid cells, which may be missing. n is I
# where the phrase has no part in it:
#   map      (n, [q,] h, w) over the picture in network coordinates, any range: from its lowest to its highest value
#   logits   (n, [q,] h, w) the same, drawn as probabilities
#   words    (n, [q,] t) weights over the tokens; t is their number L, or L + 1 with the whole sentence as the last
#   word_map (n, t, h, w) a map for each token
#   weights  (n, q) or (n, q, 1) one weight each
MapKind = Literal["map", "logits", "words", "word_map", "weights"]


@dataclass(frozen=True, slots=True)
class Explanation:
    """One of `Prediction.aux`'s maps for one expression, ready to be drawn.

    values: float32; map and word_map (q, h, w) in the picture's own frame, any range; logits the same as probabilities;
            words (q, t); weights (q,). Padding is left out.
    rows:   which of the model's queries (of a word_map: tokens) these are; (0,) where it has no such axis.  of: how
            many there are in all.
    words:  the tokens: t of them for words, q for a word_map; else empty.
    """

    name: str
    kind: MapKind
    values: np.ndarray
    rows: tuple[int, ...]
    of: int
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Thresholds:
    """Where scores become decisions.

    mask:       a pixel belongs to the mask if its probability is above this.
    exists:     a target is reported if the no-target head's probability of one is at least this; for models without
                that head the head counts as 1.
    min_pixels: masks with fewer pixels at original size count as no target (the thesis' 50-pixel rule, 6.4).
    """

    mask: float = 0.5
    exists: float = 0.5
    min_pixels: int = 1

    def __post_init__(self) -> None:
        for name in ("mask", "exists"):
            if not 0 <= getattr(self, name) <= 1:
                raise RefsegError(f"{name}: {getattr(self, name):g} is not a probability", hint="from 0 to 1")
        if self.min_pixels < 0:
            raise RefsegError(f"min_pixels: {self.min_pixels} is not a number of pixels", hint="from 0")
