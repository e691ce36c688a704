"""Records to batches. The order of an epoch is a function of (seed, epoch) alone, so a run resumes at any step.

Axes: I images, N expressions, H W network input.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from refseg_cli.config import DataConfig
from refseg_cli.data import masks, text, transforms
from refseg_cli.data.pictures import decode_image
from refseg_cli.data.placement import Placement, place
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Expression, PhraseField, Record, Sample

if TYPE_CHECKING:
    from refseg_cli.data.shards import Shards


@dataclass(frozen=True, slots=True)
class Pick:
    """One image of a step and which of its expressions take part.

    clip: the first of the clip's images, of a frame that is looked at together with those beside it in the step: they
    have the same expressions, and one of them draws lots for all.
    """

    image: int
    expressions: tuple[int, ...]
    clip: int | None = None


Step = tuple[Pick, ...]


def grouped_steps(counts: np.ndarray, *, batch_images: int, phrases: int, rng: np.random.Generator) -> list[Step]:
    """Shuffled images, each with up to `phrases` of its expressions (0: all of them).

    counts: (images,) expressions of each image. Images without expressions are left out.
    """
    order = rng.permutation(np.flatnonzero(counts))
    picks = []
    for image in order:
        chosen = rng.permutation(int(counts[image]))
        picks.append(Pick(int(image), tuple(int(e) for e in (chosen[:phrases] if phrases else chosen))))
    return [tuple(picks[i : i + batch_images]) for i in range(0, len(picks), batch_images)]


def contrastive_steps(
    targets: Sequence[Sequence[int]], *, batch: int, same: int, different: int, rng: np.random.Generator
) -> list[Step]:
    """VLT's batches (thesis 4.2.5, Fig. 4.11): an initial sample, at most `same` expressions of its object (S_SO), at
    most `different` of other objects in its image (S_DO), and expressions of other images (DI) up to `batch`.

    Every expression is drawn once an epoch as initial or DI sample; the companions come on top of that.

    Args:
        targets: for each image, an id of the referred object for each expression.
    """
    queue = [(i, e) for i, ids in enumerate(targets) for e in range(len(ids))]
    rng.shuffle(queue)
    steps: list[Step] = []
    while queue:
        image, first = queue.pop()
        ids = targets[image]
        others = rng.permutation([e for e in range(len(ids)) if e != first]).astype(int)
        so = [int(e) for e in others if ids[e] == ids[first]][:same]
        do = [int(e) for e in others if ids[e] != ids[first]][:different]
        picks, used, postponed = [Pick(image, (first, *so, *do))], {image}, []
        size = len(picks[0].expressions)
        while queue and size < batch:
            entry = queue.pop()
            if entry[0] in used:
                postponed.append(entry)
                continue
            used.add(entry[0])
            picks.append(Pick(entry[0], (entry[1],)))
            size += 1
        queue.extend(reversed(postponed))
        steps.append(tuple(picks))
    return steps


@dataclass(frozen=True, slots=True)
class Share:
    """What one of several processes does of a step that they take together.

    weight: of its loss, so that the mean over processes is the mean over all the step's expressions.
    expressions: of the whole step.
    """

    step: Step
    weight: float
    expressions: int


def dealt(step: Step, processes: int) -> tuple[Step, ...]:
    """A step's images, dealt out as evenly as they go, in their order; fewer parts where there are fewer images."""
    parts = np.array_split(np.arange(len(step)), processes)
    return tuple(step[part[0] : part[-1] + 1] for part in parts if len(part))


def share_of(parts: Sequence[Step], process: int, processes: int) -> Share:
    """The part of `process`. Where there are too few, it repeats an image for nothing: nobody may stay away."""
    counts = [sum(len(pick.expressions) for pick in part) for part in parts]
    if process < len(parts):
        return Share(parts[process], processes * counts[process] / sum(counts), sum(counts))
    return Share(parts[0][:1], 0.0, sum(counts))


def sequential_steps(counts: np.ndarray, *, batch_images: int, phrases: int = 64) -> list[Step]:
    """Every image in order with all its expressions, at most `phrases` per image and step (memory)."""
    picks = []
    for image in np.flatnonzero(counts):
        wanted = range(int(counts[image]))
        picks += [Pick(int(image), tuple(wanted[i : i + phrases])) for i in range(0, len(wanted), phrases)]
    return [tuple(picks[i : i + batch_images]) for i in range(0, len(picks), batch_images)]


class StepDataset(Dataset[Batch]):
    """Turns a `Step` into a `Batch`; the index of this map-style dataset is the step itself.

    Args:
        field: which form of a sentence is asked.
        augment: (seed, epoch) for training: flips, jitter, scale; None for evaluation, which keeps `Batch.samples`.
        unknown: as in `TextConfig`.
        shuffle_phrases: deal the phrases of a step out anew: a control that cannot learn language.
    """

    def __init__(
        self,
        shards: Shards,
        tokenizer: Tokenizer,
        config: DataConfig,
        *,
        field: PhraseField = "sent",
        augment: tuple[int, int] | None = None,
        unknown: float = 0.0,
        shuffle_phrases: bool = False,
    ) -> None:
        self.shards, self.tokenizer, self.config = shards, tokenizer, config
        self.field, self.augment, self.unknown, self.shuffle_phrases = field, augment, unknown, shuffle_phrases

    def __getitem__(self, step: Step) -> Batch:
        parts = [self._image(pick) for pick in step]
        frames, phrase_index = phrases_of(step)
        phrases = [phrase for part in parts[::frames] for phrase in part.phrases]
        if self.shuffle_phrases:
            rng = np.random.default_rng((*(self.augment or ()), *(pick.image for pick in step)))
            phrases = [phrases[i] for i in rng.permutation(len(phrases))]
        tokens, attention_mask = self.tokenizer.encode(phrases)
        repeats = torch.tensor([len(part.phrases) for part in parts])
        return Batch(
            images=torch.stack([part.image for part in parts]),
            tokens=tokens if phrase_index is None else tokens[phrase_index],
            attention_mask=attention_mask if phrase_index is None else attention_mask[phrase_index],
            image_index=torch.repeat_interleave(torch.arange(len(parts)), repeats),
            frames=frames,
            phrase_index=phrase_index,
            masks=torch.cat([part.masks for part in parts])[:, None],
            has_target=torch.cat([part.has_target for part in parts]),
            categories=torch.stack([p.categories for p in parts]) if self._wants_categories else None,  # type: ignore[misc]
            target_id=_distinct([(i // frames, t) for i, part in enumerate(parts) for t in part.things]),
            sizes=torch.tensor([part.size for part in parts]),
            content=torch.stack([_as_row(part.placement) for part in parts]),
            samples=tuple(sample for part in parts for sample in part.samples),
        )

    def _image(self, pick: Pick) -> _ImagePart:
        record = self.shards[pick.image]
        size = (record.height, record.width)
        image = decode_image(record.image, record.file_name, orientation=record.orientation, size=size)
        placement = place(size, self.config)
        lots = pick.image if pick.clip is None else pick.clip
        rng = None if self.augment is None else np.random.default_rng((*self.augment, lots))
        if rng is not None and self.config.shrink < 1:
            scale, *at = rng.uniform((self.config.shrink, 0, 0), 1)
            placement = placement.shrunk(scale, (at[0], at[1]), self.config.size)
        pixels = transforms.to_input(image, placement, self.config)
        expressions = [record.expressions[e] for e in pick.expressions]
        targets = [tuple(sorted(e.targets)) for e in expressions]
        target_masks = self._targets(record, targets, placement)
        categories = self._categories(record, placement) if self._wants_categories else None
        phrases = [e.phrase(self.field) for e in expressions]
        samples: tuple[Sample, ...] = ()
        if rng is None:
            samples = tuple(_sample(record, e, self.field) for e in expressions)
        else:
            if rng.random() < self.config.flip:
                pixels, target_masks = pixels.flip(-1), target_masks.flip(-1)
                categories = None if categories is None else categories.flip(-1)
                phrases = [transforms.swap_sides(p) for p in phrases]
                placement = Placement(
                    placement.top,
                    self.config.size[1] - placement.left - placement.width,
                    placement.height,
                    placement.width,
                )
            if self.unknown:
                phrases = [text.with_unknown_words(p, self.unknown, rng) for p in phrases]
            if self.config.jitter:
                pixels = transforms.jitter(pixels, self.config.jitter, rng)
        return _ImagePart(
            image=transforms.normalise(pixels, self.config),
            masks=target_masks,
            categories=categories,
            has_target=torch.tensor([bool(t) for t in targets]),
            phrases=phrases,
            things=targets if pick.clip is None else _things(record, targets),
            size=size,
            placement=placement,
            samples=samples,
        )

    def _targets(self, record: Record, targets: Sequence[tuple[int, ...]], placement: Placement) -> Tensor:
        """(K, H, W): the union of each expression's instances, every instance decoded and resized once."""
        wanted = sorted({t for ids in targets for t in ids})
        decoded = [torch.from_numpy(masks.decode(record.instances[t].rle)) for t in wanted]
        fitted = transforms.masks_to_input(torch.stack(decoded), placement, self.config) if decoded else None
        union = torch.zeros(len(targets), *self.config.size)
        for row, ids in enumerate(targets):
            if fitted is not None and ids:
                union[row] = fitted[[wanted.index(t) for t in ids]].amax(0)
        return union

    @property
    def _wants_categories(self) -> bool:
        return self.config.category_map and self.augment is not None

    def _categories(self, record: Record, placement: Placement) -> Tensor:
        """(H, W) int64: category ids; where objects overlap, the smaller one."""
        canvas = torch.zeros(self.config.size, dtype=torch.int64)
        objects = sorted(record.instances, key=lambda i: -i.box[2] * i.box[3])
        if objects:
            decoded = torch.stack([torch.from_numpy(masks.decode(i.rle)) for i in objects])
            for mask, instance in zip(transforms.masks_to_input(decoded, placement, self.config), objects, strict=True):
                canvas[mask > 0.5] = instance.category_id
        return canvas


@dataclass(frozen=True, slots=True)
class _ImagePart:
    """What one image contributes to a batch.  things: what tells one expression's targets from another's."""

    image: Tensor
    masks: Tensor
    categories: Tensor | None
    has_target: Tensor
    phrases: list[str]
    things: list[tuple[int, ...]]
    size: tuple[int, int]
    placement: Placement
    samples: tuple[Sample, ...]


def phrases_of(step: Step) -> tuple[int, Tensor | None]:
    """`Batch.frames` and `Batch.phrase_index` of a step."""
    if step[0].clip is None:
        return 1, None
    clips = [list(picks) for _, picks in groupby(step, key=lambda pick: pick.clip)]
    numbers, first = list[Tensor](), 0
    for picks in clips:
        count = len(picks[0].expressions)
        numbers += [torch.arange(first, first + count)] * len(picks)
        first += count
    return len(clips[0]), torch.cat(numbers)


def _things(record: Record, targets: Sequence[tuple[int, ...]]) -> list[tuple[int, ...]]:
    """Each expression's targets by what they are called in all frames of a clip."""
    return [tuple(sorted(record.instances[t].ann_id for t in ids)) for ids in targets]


def _sample(record: Record, expression: Expression, field: PhraseField) -> Sample:
    objects = [record.instances[t] for t in expression.targets]
    crowds = any(instance.iscrowd for instance in objects)
    return Sample(
        image_id=record.image_id,
        ref_id=expression.ref_id,
        sent_id=expression.sent_id,
        split=record.split,
        text=expression.phrase(field),
        target=masks.targets(record, expression),
        instance_count=len(objects),
        categories=tuple(sorted({instance.category for instance in objects})),
        without_crowds=masks.targets_without_crowds(record, expression) if crowds else None,
        ignored=expression.ignored,
        boxes=tuple(instance.box for instance in objects),
    )


def _distinct(keys: Sequence[tuple[int, tuple[int, ...]]]) -> Tensor:
    """(N,) int64: equal keys get equal numbers."""
    numbers: dict[tuple[int, tuple[int, ...]], int] = {}
    return torch.tensor([numbers.setdefault(key, len(numbers)) for key in keys], dtype=torch.int64)


def _as_row(placement: Placement) -> Tensor:
    return torch.tensor([placement.top, placement.left, placement.height, placement.width], dtype=torch.float32)


def iterate(
    dataset: StepDataset, steps: Sequence[Step], *, workers: int = 0, pin_memory: bool = False
) -> Iterator[Batch]:
    """The batches of `steps` in order, prepared ahead by `workers` processes.

    Raises:
        RefsegError: a shard or a picture in it is damaged.
    """
    loader = DataLoader(
        _Told(dataset),
        sampler=steps,  # any iterable of indices will do
        batch_size=None,
        num_workers=min(workers, len(steps)),
        pin_memory=pin_memory,
        prefetch_factor=4 if workers and steps else None,
        generator=torch.Generator(),  # its own, so that starting it leaves the run's random numbers alone
    )
    for batch in loader:
        if isinstance(batch, RefsegError):
            raise batch
        yield batch


class _Told(Dataset["Batch | RefsegError"]):
    """A dataset whose errors are items: raised in a worker, they would come out as text with its traceback."""

    def __init__(self, dataset: StepDataset) -> None:
        self.dataset = dataset

    def __getitem__(self, step: Step) -> Batch | RefsegError:
        try:
            return self.dataset[step]
        except RefsegError as error:
            return error


def batch_for(image: Tensor, phrases: Sequence[str], tokenizer: Tokenizer, config: DataConfig) -> Batch:
    """A batch without annotations: one decoded image (3, h, w) uint8 and its phrases."""
    return replace(batch_of_frames([image], phrases, tokenizer, config), phrase_index=None)


def batch_of_frames(
    frames: Sequence[Tensor], phrases: Sequence[str], tokenizer: Tokenizer, config: DataConfig
) -> Batch:
    """A batch without annotations: a clip's frames (3, h, w) uint8, and the phrases about it, asked of each frame."""
    f, size = len(frames), (int(frames[0].shape[1]), int(frames[0].shape[2]))
    placement = place(size, config)
    tokens, attention_mask = tokenizer.encode(phrases)
    images = [transforms.normalise(transforms.to_input(frame, placement, config), config) for frame in frames]
    return Batch(
        images=torch.stack(images),
        tokens=tokens.repeat(f, 1),
        attention_mask=attention_mask.repeat(f, 1),
        image_index=torch.arange(f).repeat_interleave(len(phrases)),
        frames=f,
        phrase_index=torch.arange(len(phrases)).repeat(f),
        sizes=torch.tensor([size] * f),
        content=torch.stack([_as_row(placement)] * f),
    )
