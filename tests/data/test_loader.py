"""Batches: grouped by image, in an order that depends on the seed alone, flipped with their phrases."""

from __future__ import annotations

import io
from collections import Counter
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pictures
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

from refseg_cli.config import DataConfig, TextConfig
from refseg_cli.data import loader, masks, transforms
from refseg_cli.data.loader import Pick, StepDataset
from refseg_cli.data.pictures import decode_image
from refseg_cli.data.placement import Placement
from refseg_cli.data.placement import place as place_in
from refseg_cli.data.shards import Shards, open_shards
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.errors import RefsegError
from refseg_cli.records import Batch, Expression, PhraseField

COUNTS = np.array([3, 0, 1, 5, 2])
PLAIN = DataConfig(size=(64, 64), resize="squash", workers=0)


@pytest.fixture(scope="module")
def shards(scenes: Path) -> Shards:
    return open_shards(str(scenes), "train")


@pytest.fixture(scope="module")
def tokenizer(shards: Shards) -> Tokenizer:
    phrases = [e.text for i in range(len(shards)) for e in shards[i].expressions]
    return build_tokenizer(TextConfig(max_tokens=16), phrases)


def test_every_expression_comes_once_an_epoch() -> None:
    steps = loader.grouped_steps(COUNTS, np.arange(5), batch_images=2, phrases=0, rng=np.random.default_rng(0))
    seen = Counter((p.image, e) for step in steps for p in step for e in p.expressions)
    assert seen == Counter((i, e) for i, n in enumerate(COUNTS) for e in range(n))
    assert [len(step) for step in steps] == [2, 2]


def test_phrases_an_image_are_limited_and_vary_between_epochs() -> None:
    counts = np.full(30, 9)
    first, second = (
        loader.grouped_steps(counts, np.arange(30), batch_images=4, phrases=2, rng=np.random.default_rng((0, epoch)))
        for epoch in (0, 1)
    )
    assert all(len(p.expressions) == len(set(p.expressions)) == 2 for step in first for p in step)
    assert first != second
    assert first == loader.grouped_steps(
        counts, np.arange(30), batch_images=4, phrases=2, rng=np.random.default_rng((0, 0))
    )


@pytest.mark.parametrize("kind", ["grouped", "contrastive"])
def test_a_shuffled_order_keeps_to_a_window_of_row_groups(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loader, "WINDOW", 4)
    groups = np.repeat(np.arange(10), 8)
    rng = np.random.default_rng(0)
    if kind == "grouped":
        steps = loader.grouped_steps(np.ones(80, int), groups, batch_images=1, phrases=0, rng=rng)
    else:
        steps = loader.contrastive_steps([[0]] * 80, groups, batch=1, same=0, different=0, rng=rng)
    images = [step[0].image for step in steps]
    assert sorted(images) == list(range(80))
    begun = [groups[image] for image in images]
    ends = {group: len(begun) - begun[::-1].index(group) for group in set(begun)}
    open_groups = [sum(begun.index(group) <= n < ends[group] for group in ends) for n in range(80)]
    assert max(open_groups) <= 4
    assert images[:32] != sorted(images[:32])
    assert begun[:8] != [begun[0]] * 8  # within a window, groups are mixed
    assert begun[:32] != sorted(begun[:32])


def test_contrastive_batch_has_the_three_kinds_of_companions() -> None:
    targets = [[0, 0, 0, 1, 1, 2]] * 6
    steps = loader.contrastive_steps(targets, np.arange(6), batch=6, same=1, different=2, rng=np.random.default_rng(0))
    for step in steps[:-4]:
        first, *rest = step
        ids = [targets[first.image][e] for e in first.expressions]
        assert sum(i == ids[0] for i in ids[1:]) <= 1  # N_SO
        assert sum(i != ids[0] for i in ids[1:]) <= 2  # N_DO
        assert len({p.image for p in step}) == len(step)
        assert all(len(p.expressions) == 1 for p in rest)  # DI
    drawn = Counter((p.image, p.expressions[0]) for step in steps for p in step)
    assert drawn == Counter((i, e) for i in range(6) for e in range(6))


def test_evaluation_goes_through_everything_in_order() -> None:
    steps = loader.sequential_steps(COUNTS, batch_images=2, phrases=4)
    assert steps == [
        (Pick(0, (0, 1, 2)), Pick(2, (0,))),
        (Pick(3, (0, 1, 2, 3)), Pick(3, (4,))),
        (Pick(4, (0, 1)),),
    ]


def test_batch_is_grouped_and_its_masks_are_the_annotation(shards: Shards, tokenizer: Tokenizer) -> None:
    batch = StepDataset(shards, tokenizer, PLAIN)[(Pick(1, (0, 2)), Pick(0, (1,)))]
    assert batch.image_index.tolist() == [0, 0, 1]
    assert batch.images.shape == (2, 3, 64, 64)
    for n, (image, expression) in enumerate([(1, 0), (1, 2), (0, 1)]):
        record = shards[image]
        target = record.expressions[expression]
        union = masks.union([record.instances[t].rle for t in target.targets], (record.height, record.width))
        assert batch.samples[n].target == union
        assert batch.samples[n].text == target.text
        assert bool(batch.has_target[n]) == bool(target.targets)  # type: ignore[index]
        whole = torch.from_numpy(masks.decode(union))[None, None]
        expected = F.interpolate(whole, (64, 64), mode="nearest-exact")[0]
        assert torch.equal(batch.masks[n], expected)  # type: ignore[index]


def test_same_targets_share_an_id_within_their_image_only(shards: Shards, tokenizer: Tokenizer) -> None:
    counts = shards.expression_counts
    batch = StepDataset(shards, tokenizer, PLAIN)[tuple(Pick(i, tuple(range(int(counts[i])))) for i in (0, 1))]
    keys = [(i, tuple(sorted(e.targets))) for i in (0, 1) for e in shards[i].expressions]
    ids = batch.target_id.tolist()  # type: ignore[union-attr]
    for a in range(len(keys)):
        for b in range(len(keys)):
            assert (ids[a] == ids[b]) == (keys[a] == keys[b])
    assert shards.target_ids()[0] == ids[: int(counts[0])]


def test_flip_mirrors_picture_mask_and_phrase(shards: Shards, tokenizer: Tokenizer) -> None:
    side = next(
        (i, e)
        for i in range(len(shards))
        for e, expression in enumerate(shards[i].expressions)
        if "left" in expression.text.split() and expression.targets
    )
    step = (Pick(side[0], (side[1],)),)
    straight = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0))[step]
    mirrored = StepDataset(shards, tokenizer, replace(PLAIN, flip=1.0), augment=(0, 0))[step]
    torch.testing.assert_close(mirrored.images, straight.images.flip(-1))
    assert torch.equal(mirrored.masks, straight.masks.flip(-1))  # type: ignore[union-attr, arg-type]
    swapped = transforms.swap_sides(shards[side[0]].expressions[side[1]].text)
    assert torch.equal(mirrored.tokens, tokenizer.encode([swapped])[0])


def test_phrases_are_asked_as_they_were_typed_where_the_recipe_says_so() -> None:
    one, *_ = pictures.records("val")
    said = (Expression("mans hat", 1, 1, (0,), "Man's hat !"), Expression("left dog", 1, 2, (1,)))
    record = replace(one, expressions=said)
    tokenizer = build_tokenizer(TextConfig(), ["mans hat Man's hat ! left right dog"])
    step = (Pick(0, (0, 1)),)
    for field, phrases in (("sent", ["mans hat", "left dog"]), ("raw", ["Man's hat !", "left dog"])):
        dataset = StepDataset([record], tokenizer, PLAIN, field=field)  # type: ignore[arg-type]
        assert torch.equal(dataset[step].tokens, tokenizer.encode(phrases)[0])
        assert [sample.text for sample in dataset[step].samples] == phrases
    flipped = replace(PLAIN, flip=1.0)
    mirrored = StepDataset([record], tokenizer, flipped, augment=(0, 0), field="raw")  # type: ignore[arg-type]
    assert torch.equal(mirrored[step].tokens, tokenizer.encode(["Man's hat !", "right dog"])[0])


def test_a_warped_picture_is_mirrored_with_its_place(tokenizer: Tokenizer) -> None:
    record = pictures.records("val")[1]  # 20 x 40 pixels
    step = (Pick(0, (0,)),)
    warp = replace(PLAIN, resize="warp")
    straight = StepDataset([record], tokenizer, warp, augment=(0, 0))[step]  # type: ignore[arg-type]
    mirrored = StepDataset([record], tokenizer, replace(warp, flip=1.0), augment=(0, 0))[step]  # type: ignore[arg-type]
    assert torch.equal(mirrored.masks, straight.masks.flip(-1))  # type: ignore[arg-type, union-attr]
    for batch in (straight, mirrored):
        placed = Placement(*batch.content[0].tolist())  # type: ignore[index]
        back = transforms.to_original(batch.masks[:, 0], placed, (64, 64), (20, 40)) > 0.5  # type: ignore[index]
        target = torch.from_numpy(masks.decode(record.instances[0].rle)).bool()
        assert torch.equal(back[0], target if batch is straight else target.flip(-1))


def test_the_whole_input_is_mirrored_not_the_picture_in_its_place(tokenizer: Tokenizer) -> None:
    record, step = pictures.records("val")[1], (Pick(0, (0,)),)  # 20 x 40 pixels
    for epoch in range(3):
        straight, mirrored = (
            StepDataset([record], tokenizer, replace(PLAIN, shrink=0.5, flip=flip), augment=(0, epoch))[step]  # type: ignore[arg-type]
            for flip in (0.0, 1.0)
        )
        top, left, height, width = straight.content[0].tolist()  # type: ignore[index]
        assert mirrored.content[0].tolist() == [top, 64 - left - width, height, width]  # type: ignore[index]
        assert torch.equal(mirrored.masks, straight.masks.flip(-1))  # type: ignore[arg-type, union-attr]
        torch.testing.assert_close(mirrored.images, straight.images.flip(-1), atol=0.03, rtol=0)


@pytest.mark.parametrize("flip", [0.0, 1.0])
@pytest.mark.parametrize("resize", ["letterbox", "squash"])
def test_a_picture_shown_smaller_takes_its_masks_along(tokenizer: Tokenizer, resize: str, flip: float) -> None:
    record = pictures.records("val")[1]  # 20 x 40 pixels
    step = (Pick(0, (0,)),)
    shrunk = replace(PLAIN, resize=resize, shrink=0.5, flip=flip)  # type: ignore[arg-type]
    target = torch.from_numpy(masks.decode(record.instances[0].rle)).bool()
    target = target.flip(-1) if flip else target
    seen = set()
    for epoch in range(8):
        batch = StepDataset([record], tokenizer, shrunk, augment=(0, epoch))[step].to("cpu")  # type: ignore[arg-type]
        placed = Placement(*batch.content[0].tolist())  # type: ignore[index]
        assert 0.5 <= placed.width / 64 <= 1
        rows, columns = placed.box()
        assert 0 <= rows.start < rows.stop <= 64
        assert 0 <= columns.start < columns.stop <= 64
        outside = torch.ones(64, 64, dtype=torch.bool)
        outside[rows, columns] = False
        assert batch.images[0][:, outside].std(1).max() < 1e-6  # nothing but padding there
        assert not batch.masks[0, 0][outside].any()  # type: ignore[index]
        back = transforms.to_original(batch.masks[:, 0] * 2 - 1, placed, (64, 64), (20, 40))[0] > 0  # type: ignore[index]
        assert (back != target).sum() <= 0.1 * target.numel()
        seen.add(placed)
    assert len(seen) == 8
    whole = StepDataset([record], tokenizer, replace(shrunk), augment=None)[step]  # type: ignore[arg-type]
    assert whole.content[0].tolist()[3] == 64  # type: ignore[index]


@pytest.mark.parametrize(("jitter", "rounding"), [(0.0, 0.0), (0.3, 2e-6)])
@pytest.mark.parametrize("resize", ["letterbox", "squash", "warp"])
def test_augmented_batches_are_those_of_plain_arithmetic(
    shards: Shards, tokenizer: Tokenizer, resize: str, jitter: float, rounding: float
) -> None:
    """One step after the other, on floats, without anything in place; light and normalisation are one map there."""
    config = DataConfig(size=(48, 64), resize=resize, flip=0.5, jitter=jitter, fill=(0.2, 0.5, 0.7))  # type: ignore[arg-type]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    mirrored = set()
    for place in range(6):
        record, rng = shards[place], np.random.default_rng((5, 1, place))
        size = (record.height, record.width)
        lying = place_in(size, config)
        batch = StepDataset(shards, tokenizer, config, augment=(5, 1))[(Pick(place, (0,)),)].to("cpu")
        image = decode_image(record.image)
        mask = np.zeros((1, *size), np.uint8)
        for t in record.expressions[0].targets:
            mask[0] |= masks.decode(record.instances[t].rle)
        pixels, target = fitted(image, torch.from_numpy(mask), lying, config)
        flip = rng.random() < 0.5
        mirrored.add(flip)
        brightness, contrast = 1 + rng.uniform(-jitter, jitter, 2) if jitter else (1, 1)
        pixels, target = (pixels.flip(-1), target.flip(-1)) if flip else (pixels, target)
        pixels = ((pixels - 0.5) * contrast + 0.5 * brightness).clamp(0, 1) if jitter else pixels
        assert float((batch.images[0] - (pixels - mean) / std).abs().max()) <= rounding
        assert torch.equal(batch.masks[0], target)  # type: ignore[index]
    assert mirrored == {False, True}


def fitted(image: torch.Tensor, mask: torch.Tensor, lying: Placement, config: DataConfig) -> tuple[torch.Tensor, ...]:
    """(3, H, W) in [0, 1] and (1, H, W)."""
    fill = torch.tensor(config.fill).view(3, 1, 1)
    if config.resize == "warp":
        of_input = lying.inverse((image.shape[1], image.shape[2]), config.size)
        pixels = transforms.resample(image.float() - 255 * fill, of_input, config.size, mode="bicubic", padding="zeros")
        target = transforms.resample(mask.float(), of_input, config.size, mode="bilinear", padding="zeros")
        return (pixels + 255 * fill).round().clamp(0, 255) / 255, target
    inner = (int(lying.height), int(lying.width))
    pixels, target = fill.expand(3, *config.size).clone(), torch.zeros(1, *config.size)
    resized = F.interpolate(image[None], inner, mode="bilinear", antialias=True)[0]
    pixels[:, *lying.box()] = resized.float() / 255
    target[:, *lying.box()] = F.interpolate(mask[None], inner, mode="nearest-exact")[0].float()
    return pixels, target


def test_a_mask_of_another_size_than_its_picture_is_named(tokenizer: Tokenizer) -> None:
    record = pictures.records("val")[1]
    wrong = replace(record.instances[0], rle=masks.encode(np.ones((40, 20), bool)))
    dataset = StepDataset([record, replace(record, file_name="2.png", instances=(wrong,))], tokenizer, PLAIN)  # type: ignore[arg-type]
    with pytest.raises(RefsegError, match=r"2\.png: a mask of 20x40 pixels, the picture has 40x20"):
        dataset[(Pick(0, (0,)), Pick(1, (0,)))]


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("resize", ["letterbox", "warp"])
def test_a_damaged_mask_is_named_when_training_comes_to_it(
    tmp_path: Path, tokenizer: Tokenizer, resize: str, workers: int
) -> None:
    """Its shard is sound, and training reads masks as they are stored."""
    sound, record, *_ = pictures.records("val")
    damaged = replace(record.instances[0], rle=replace(record.instances[0].rle, counts=b"~~"))
    pictures.write_split(tmp_path, "val", [sound, replace(record, instances=(damaged, *record.instances[1:]))])
    split = open_shards(str(tmp_path), "val").for_training()
    config = replace(PLAIN, resize=resize)  # type: ignore[arg-type]
    batches = loader.iterate(
        StepDataset(split, tokenizer, config, augment=(0, 0)), [(Pick(0, (0,)), Pick(1, (0,)))], workers=workers
    )
    with pytest.raises(RefsegError, match=f"{record.file_name}: damaged RLE string, the picture has 40x20") as caught:
        next(batches)
    assert caught.value.hint == "prepare the data again"


@pytest.mark.parametrize("field", ["sent", "raw"])
def test_training_sees_in_what_it_reads_what_is_in_whole_records(
    shards: Shards, tokenizer: Tokenizer, field: PhraseField
) -> None:
    config = replace(PLAIN, flip=0.5, jitter=0.2, objects=True, category_map=True)
    step = tuple(Pick(image, tuple(range(len(shards[image].expressions)))) for image in range(6))
    whole, lean = (
        StepDataset(split, tokenizer, config, field=field, augment=(0, 0))[step]
        for split in (shards, shards.for_training())
    )
    for part in fields(Batch):
        found, expected = getattr(lean, part.name), getattr(whole, part.name)
        assert torch.equal(found, expected) if isinstance(expected, torch.Tensor) else found == expected, part.name


def test_workers_do_not_change_the_batches(shards: Shards, tokenizer: Tokenizer) -> None:
    dataset = StepDataset(shards, tokenizer, replace(PLAIN, flip=0.5, jitter=0.2), augment=(3, 1))
    steps = loader.grouped_steps(
        shards.expression_counts, shards.row_groups(), batch_images=3, phrases=2, rng=np.random.default_rng(0)
    )
    for a, b in zip(loader.iterate(dataset, steps), loader.iterate(dataset, steps, workers=2), strict=True):
        assert torch.equal(a.images, b.images)
        assert torch.equal(a.tokens, b.tokens)


def test_loading_leaves_the_random_state_alone(shards: Shards, tokenizer: Tokenizer) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    next(loader.iterate(StepDataset(shards, tokenizer, PLAIN), [(Pick(0, (0,)),)]))
    assert torch.equal(torch.get_rng_state(), before)


def test_shuffled_phrases_are_the_same_ones_elsewhere(shards: Shards, tokenizer: Tokenizer) -> None:
    step = tuple(Pick(i, (0, 1, 2)) for i in range(4))
    straight = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0))[step]
    shuffled = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0), shuffle_phrases=True)[step]
    assert not torch.equal(straight.tokens, shuffled.tokens)
    assert sorted(straight.tokens.tolist()) == sorted(shuffled.tokens.tolist())
    assert torch.equal(straight.masks, shuffled.masks)  # type: ignore[arg-type]


def test_category_map_names_the_objects_pixels(shards: Shards, tokenizer: Tokenizer) -> None:
    record = shards[0]
    config = replace(PLAIN, size=(record.height, record.width), category_map=True)
    batch = StepDataset(shards, tokenizer, config, augment=(0, 0))[(Pick(0, (0,)),)]
    expected = np.zeros((record.height, record.width), dtype=int)
    for instance in record.instances:  # scenes' masks are visible parts, which do not overlap
        expected[masks.decode(instance.rle).astype(bool)] = instance.category_id
    assert np.array_equal(batch.categories[0].numpy(), expected)  # type: ignore[index]
    assert StepDataset(shards, tokenizer, config)[(Pick(0, (0,)),)].categories is None


def test_smaller_object_wins_where_objects_overlap(tokenizer: Tokenizer) -> None:
    from refseg_cli.records import Instance, Record

    def instance(number: int, rows: slice, columns: slice) -> Instance:
        mask = np.zeros((32, 32), dtype=np.uint8)
        mask[rows, columns] = 1
        box = (columns.start, rows.start, columns.stop - columns.start, rows.stop - rows.start)
        return Instance(number, number, "thing", box, masks.encode(mask.astype(bool)))

    picture = io.BytesIO()
    Image.new("RGB", (32, 32)).save(picture, "PNG")
    small, large = instance(1, slice(8, 16), slice(8, 16)), instance(2, slice(0, 32), slice(0, 32))
    for order in ((small, large), (large, small)):
        record = Record(1, "x.png", "train", 32, 32, picture.getvalue(), order, (Expression("dog", 1, 1, (0,)),))
        config = replace(PLAIN, size=(32, 32), category_map=True)
        batch = StepDataset([record], tokenizer, config, augment=(0, 0))[(Pick(0, (0,)),)]  # type: ignore[arg-type]
        assert batch.categories is not None
        assert batch.categories[0, 10, 10] == 1
        assert batch.categories[0, 20, 20] == 2


def test_unknown_words_come_on_top_of_what_is_said(shards: Shards, tokenizer: Tokenizer) -> None:
    step = (Pick(0, (0, 1, 2)), Pick(1, (0, 1)))
    plain = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0))[step]
    noisy = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0), unknown=1.0)[step]
    unknown = tokenizer.pipeline.token_to_id("[UNK]")
    for row, other in zip(plain.tokens.tolist(), noisy.tokens.tolist(), strict=True):
        assert 1 <= other.count(unknown) <= 3
        assert [t for t in other if t != unknown and t] == [t for t in row if t]
    again = StepDataset(shards, tokenizer, PLAIN, augment=(0, 0), unknown=1.0)[step]
    assert torch.equal(noisy.tokens, again.tokens)
    evaluated = StepDataset(shards, tokenizer, PLAIN, unknown=1.0)[step]
    assert unknown not in evaluated.tokens


def test_a_second_smaller_picture_goes_with_the_first(shards: Shards, tokenizer: Tokenizer) -> None:
    """Flipped and lit alike."""
    step = (Pick(0, (0,)), Pick(1, (0,)))
    config = replace(PLAIN, small=(16, 16), flip=0.5, jitter=0.2)
    assert StepDataset(shards, tokenizer, PLAIN)[step].small is None
    for seed in range(4):
        batch = StepDataset(shards, tokenizer, config, augment=(seed, 0))[step].to("cpu")
        assert batch.small is not None
        assert batch.small.shape == (2, 3, 16, 16)
        shrunk = torch.nn.functional.adaptive_avg_pool2d(batch.images, 16)
        assert float((shrunk - batch.small).abs().mean()) < 0.1
    alone = loader.batch_for(torch.zeros(3, 9, 9, dtype=torch.uint8), ["a"], tokenizer, config)
    assert alone.small is not None
    assert alone.small.shape == (1, 3, 16, 16)


def test_objects_are_the_targets_one_by_one(shards: Shards, tokenizer: Tokenizer) -> None:
    """In training alone; together they are the masks, whichever way round."""
    step = tuple(Pick(image, tuple(range(len(shards[image].expressions)))) for image in range(6))
    config = replace(PLAIN, objects=True, flip=0.5)
    assert StepDataset(shards, tokenizer, config)[step].objects is None
    assert StepDataset(shards, tokenizer, PLAIN, augment=(0, 0))[step].objects is None
    batch = StepDataset(shards, tokenizer, config, augment=(0, 0))[step]
    assert batch.objects is not None
    assert batch.object_of is not None
    assert batch.masks is not None
    expressions = [shards[pick.image].expressions[e] for pick in step for e in pick.expressions]
    assert batch.object_of.tolist() == [n for n, e in enumerate(expressions) for _ in e.targets]
    assert {len(e.targets) for e in expressions} >= {0, 1, 2}
    for n in range(len(batch)):
        union = (batch.objects * (batch.object_of == n)[:, None, None]).amax(0)
        assert torch.equal(union, batch.masks[n, 0])


def test_a_batch_without_any_target_has_no_objects(shards: Shards, tokenizer: Tokenizer) -> None:
    image, none = next(
        (i, e) for i in range(len(shards)) for e, said in enumerate(shards[i].expressions) if not said.targets
    )
    batch = StepDataset(shards, tokenizer, replace(PLAIN, objects=True), augment=(0, 0))[(Pick(image, (none,)),)]
    assert batch.objects is not None
    assert batch.object_of is not None
    assert (batch.objects.shape, batch.object_of.shape) == ((0, 64, 64), (0,))
