"""Records to batches. The order of an epoch is a function of (seed, epoch) alone, so a run resumes at any step.

Axes: I images, N expressions, H W network input.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
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
from refseg_cli.data.sampling import Asked
from refseg_cli.data.text import Tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.normalisation import Light, Normalisation
from refseg_cli.records import Batch, Expression, PhraseField, Record, Sample

if TYPE_CHECKING:
    from refseg_cli.data.shards import Shards

WINDOW = 32  # row groups that are shuffled together


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


def shuffled(groups: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """(n,) 0 .. n-1 at random, but for this: the row groups are put into windows at random, one window after the other.

    So a reader that keeps a window reads each group once. Up to `WINDOW` groups are shuffled as a whole.

    groups: (n,) the row group of each.
    """
    names, which = np.unique(groups, return_inverse=True)
    windows = rng.permutation(len(names)) * -(-len(names) // WINDOW) // max(1, len(names))
    order = rng.permutation(len(groups))
    return order[np.argsort(windows[which[order]], kind="stable")]


def grouped_steps(
    counts: np.ndarray, groups: np.ndarray, *, batch_images: int, phrases: int, rng: np.random.Generator
) -> list[Step]:
    """Shuffled images, each with up to `phrases` of its expressions (0: all of them).

    Args:
        counts: (images,) expressions of each image. Images without expressions are left out.
        groups: (images,) the row group of each.
    """
    order = shuffled(groups, rng)
    picks = []
    for image in order[counts[order] > 0]:
        chosen = rng.permutation(int(counts[image]))
        picks.append(Pick(int(image), tuple(int(e) for e in (chosen[:phrases] if phrases else chosen))))
    return [tuple(picks[i : i + batch_images]) for i in range(0, len(picks), batch_images)]


def contrastive_steps(
    targets: Sequence[Sequence[int]],
    groups: np.ndarray,
    *,
    batch: int,
    same: int,
    different: int,
    rng: np.random.Generator,
) -> list[Step]:
    """VLT's batches (thesis 4.2.5, Fig. 4.11): an initial sample, at most `same` expressions of its object (S_SO), at
    most `different` of other objects in its image (S_DO), and expressions of other images (DI) up to `batch`.

    Every expression is drawn once an epoch as initial or DI sample; the companions come on top of that.

    Args:
        targets: for each image, an id of the referred object for each expression.
        groups: (images,) the row group of each.
    """
    entries = [(i, e) for i, ids in enumerate(targets) for e in range(len(ids))]
    order = shuffled(groups[[i for i, _ in entries]], rng)
    queue = [entries[n] for n in order]
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
        shards: for training, those of `for_training` will do.
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
        views = [self._view(pick) for pick in step]
        images, small = _inputs(map(self._decoded, views), [(v.placement, v.mirrored) for v in views], self.config)
        frames, phrase_index = phrases_of(step)
        phrases = [phrase for view in views[::frames] for phrase in view.phrases]
        if self.shuffle_phrases:
            rng = np.random.default_rng((*(self.augment or ()), *(pick.image for pick in step)))
            phrases = [phrases[i] for i in rng.permutation(len(phrases))]
        tokens, attention_mask = self.tokenizer.encode(phrases)
        targets = [ids for view in views for ids in view.targets]
        training = self.augment is not None
        objects, object_of = self._objects(views) if training and self.config.objects else (None, None)
        return Batch(
            images=images,
            tokens=tokens if phrase_index is None else tokens[phrase_index],
            attention_mask=attention_mask if phrase_index is None else attention_mask[phrase_index],
            image_index=_tensor([i for i, view in enumerate(views) for _ in view.targets], np.int64),
            frames=frames,
            phrase_index=phrase_index,
            masks=self._fitted(views, [view.targets for view in views])[:, None],
            has_target=_tensor([bool(ids) for ids in targets], np.bool_),
            categories=torch.stack([*map(self._categories, views)]) if training and self.config.category_map else None,
            small=small,
            objects=objects,
            object_of=object_of,
            target_id=_distinct([(i // frames, thing) for i, view in enumerate(views) for thing in view.things]),
            sizes=_tensor([view.size for view in views], np.int64),
            content=_content([view.lies_at(self.config.size) for view in views]),
            samples=() if training else tuple(sample for view in views for sample in view.samples(self.field)),
            normalisation=[view.normalisation(self.config) for view in views],
        )

    def _view(self, pick: Pick) -> _View:
        """How a picture is looked at; in training that is drawn by lots."""
        record = self.shards[pick.image]
        placement = place((record.height, record.width), self.config)
        expressions = [record.expressions[e] for e in pick.expressions]
        targets = [tuple(sorted(expression.targets)) for expression in expressions]
        phrases = [expression.phrase(self.field) for expression in expressions]
        if self.augment is None:
            return _View(record, pick, targets, phrases, placement)
        rng = np.random.default_rng((*self.augment, pick.image if pick.clip is None else pick.clip))
        if self.config.shrink < 1:
            scale, *at = rng.uniform((self.config.shrink, 0, 0), 1)
            placement = placement.shrunk(scale, (at[0], at[1]), self.config.size)
        mirrored = rng.random() < self.config.flip
        if mirrored:
            phrases = [transforms.swap_sides(p) for p in phrases]
        if self.unknown:
            phrases = [text.with_unknown_words(p, self.unknown, rng) for p in phrases]
        light = transforms.drawn_light(self.config.jitter, rng) if self.config.jitter else None
        return _View(record, pick, targets, phrases, placement, mirrored, light)

    def _decoded(self, view: _View) -> Tensor:
        record = view.record
        return decode_image(record.image, record.file_name, orientation=record.orientation, size=view.size)

    def _fitted(self, views: Sequence[_View], unions: Sequence[Sequence[tuple[int, ...]]]) -> Tensor:
        """(K, H, W), as `transforms.masks_to_input`: of each view these unions of its record's instances.

        Raises:
            RefsegError: a mask is damaged, or of another size than its picture.
        """
        asked = [view.asked(wanted) for view, wanted in zip(views, unions, strict=True)]
        try:
            return transforms.masks_to_input(asked, self.config)
        except ValueError:
            for view, one in zip(views, asked, strict=True):
                try:
                    transforms.masks_to_input([one], self.config)
                except ValueError as error:
                    height, width = view.size
                    raise RefsegError(
                        f"{view.record.file_name}: {error}, the picture has {width}x{height}",
                        hint="prepare the data again",
                    ) from error
            raise

    def _objects(self, views: Sequence[_View]) -> tuple[Tensor, Tensor]:
        """`Batch.objects` and `Batch.object_of`."""
        targets = [ids for view in views for ids in view.targets]
        owners = [n for n, ids in enumerate(targets) for _ in ids]
        apart = [[(t,) for ids in view.targets for t in ids] for view in views]
        return self._fitted(views, apart), _tensor(owners, np.int64)

    def _categories(self, view: _View) -> Tensor:
        """(H, W) int64: category ids; where objects overlap, the smaller one."""
        canvas, instances = torch.zeros(self.config.size, dtype=torch.int64), view.record.instances
        largest_first = sorted(range(len(instances)), key=lambda i: -instances[i].box[2] * instances[i].box[3])
        for mask, i in zip(self._fitted([view], [[(i,) for i in largest_first]]), largest_first, strict=True):
            canvas[mask > 0.5] = instances[i].category_id
        return canvas


@dataclass(frozen=True, slots=True)
class _View:
    """What a batch shows of one picture, and how.

    targets: of each expression, in ascending order.  placement: before it is mirrored.
    """

    record: Record
    pick: Pick
    targets: list[tuple[int, ...]]
    phrases: list[str]
    placement: Placement
    mirrored: bool = False
    light: Light | None = None

    @property
    def size(self) -> tuple[int, int]:
        return self.record.height, self.record.width

    @property
    def things(self) -> list[tuple[int, ...]]:
        """What tells one expression's targets from another's: of a clip, what they are called in all its frames."""
        if self.pick.clip is None:
            return self.targets
        return [tuple(sorted(self.record.instances[t].ann_id for t in ids)) for ids in self.targets]

    def asked(self, unions: Sequence[tuple[int, ...]]) -> Asked:
        """For unions of instances as they lie in the input."""
        rles = [instance.rle for instance in self.record.instances]
        return Asked(rles, unions, self.size, self.placement, self.mirrored)

    def lies_at(self, input_size: tuple[int, int]) -> Placement:
        return self.placement.mirrored(input_size) if self.mirrored else self.placement

    def normalisation(self, config: DataConfig) -> Normalisation:
        return transforms.normalisation_of(self.placement, config, self.light, self.mirrored)

    def samples(self, field: PhraseField) -> list[Sample]:
        return [_sample(self.record, self.record.expressions[e], field) for e in self.pick.expressions]


def _inputs(
    pictures: Iterable[Tensor], places: Sequence[tuple[Placement, bool]], config: DataConfig
) -> tuple[Tensor, Tensor | None]:
    """`Batch.images` and `Batch.small`, in bytes, of pictures (3, h, w) uint8.

    places: of each, before it is mirrored, and whether it is.
    """
    images, small = (_room(len(places), size) for size in (config.size, config.small))
    for n, (picture, (placement, mirrored)) in enumerate(zip(pictures, places, strict=True)):
        images[n] = transforms.to_input(picture, placement, config, mirrored)
        if (second := transforms.to_small(picture, placement, config, mirrored)) is not None:
            small[n] = second
    return images, small if small.numel() else None


def _room(count: int, size: tuple[int, int]) -> Tensor:
    """(count, 3, *size) uint8, channels last in memory, as decoders have them."""
    return torch.empty(count, *size, 3, dtype=torch.uint8).permute(0, 3, 1, 2)


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
    return _tensor([numbers.setdefault(key, len(numbers)) for key in keys], np.int64)


def _content(placements: Sequence[Placement]) -> Tensor:
    """`Batch.content`."""
    return _tensor([(p.top, p.left, p.height, p.width) for p in placements], np.float32)


def _tensor(values: Sequence[object], kind: type[np.generic]) -> Tensor:
    """By way of NumPy: torch alone takes three times as long for a list."""
    return torch.from_numpy(np.array(values, kind))


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
    images, small = _inputs(frames, [(placement, False)] * f, config)
    return Batch(
        images=images,
        small=small,
        tokens=tokens.repeat(f, 1),
        attention_mask=attention_mask.repeat(f, 1),
        image_index=torch.arange(f).repeat_interleave(len(phrases)),
        frames=f,
        phrase_index=torch.arange(len(phrases)).repeat(f),
        sizes=torch.tensor([size] * f),
        content=_content([placement] * f),
        normalisation=[transforms.normalisation_of(placement, config)] * f,
    )
