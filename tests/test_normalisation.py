"""Batches in bytes to the floats that models take, the same whatever a picture has beside it."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from batches import batch_of
from normalising import network_input, small_input
from pictures import instance, picture

from refseg_cli.config import DataConfig, TextConfig
from refseg_cli.data import transforms
from refseg_cli.data.loader import Pick, StepDataset, batch_for
from refseg_cli.data.pictures import decode_image
from refseg_cli.data.placement import place
from refseg_cli.data.text import Tokenizer, build_tokenizer
from refseg_cli.normalisation import Normalisation, normalised
from refseg_cli.records import Batch, Record
from refseg_cli.segmenters.passes import joined

SHAPES = [(40, 64), (64, 30), (20, 20), (64, 48)]  # in an input of 48 x 64: padded in all ways, and not at all
DATA = DataConfig(size=(48, 64), small=(12, 16), fill=(0.2514, 0.5, 0.3111), flip=0.5, jitter=0.3, objects=True)
STEP = tuple(Pick(image, (0, 1)) for image in range(len(SHAPES)))


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer(TextConfig(), ["left", "dog"])


@pytest.fixture(scope="module")
def records() -> list[Record]:
    return [
        picture(n, "train", size, (instance(n, size, 2, 3, 10, 12),), [("left", (0,)), ("dog", ())])
        for n, size in enumerate(SHAPES)
    ]


def loaded(records: list[Record], tokenizer: Tokenizer, *, epoch: int | None = None, **settings: object) -> Batch:
    config = replace(DATA, **settings)  # type: ignore[arg-type]
    augment = None if epoch is None else (7, epoch)
    return StepDataset(records, tokenizer, config, augment=augment)[STEP]  # type: ignore[arg-type]


def test_a_batch_is_in_bytes_until_it_is_on_its_device(records: list[Record], tokenizer: Tokenizer) -> None:
    batch = loaded(records, tokenizer, epoch=0)
    for pixels in (batch.images, batch.small):
        assert pixels is not None
        assert pixels.dtype == torch.uint8
        assert pixels.is_contiguous(memory_format=torch.channels_last)
    for masks in (batch.masks, batch.objects):
        assert masks is not None
        assert masks.dtype == torch.uint8
    there = batch.to("cpu")
    assert there.normalisation == ()
    for name in ("images", "small", "masks", "objects"):
        assert getattr(there, name).dtype == torch.float32
        assert getattr(there, name).shape == getattr(batch, name).shape
    assert torch.equal(there.masks.byte(), batch.masks)  # type: ignore[union-attr, arg-type]
    again = there.to("cpu")
    for part in fields(Batch):
        assert getattr(again, part.name) is getattr(there, part.name), part.name


def test_floats_stay_what_they_are() -> None:
    batch = replace(batch_of(1, 2), masks=torch.rand(3, 1, 4, 8).double())
    there = batch.to("cpu")
    assert there.images is batch.images
    assert there.masks is batch.masks


@pytest.mark.parametrize("resize", ["letterbox", "squash", "warp"])
def test_evaluation_sees_each_picture_as_decoded_resized_and_normalised(
    records: list[Record], tokenizer: Tokenizer, resize: str
) -> None:
    """To the last bit, the padding included; by itself, a picture of test_loader.py is that of plain arithmetic."""
    batch = loaded(records, tokenizer, resize=resize).to("cpu")
    config = replace(DATA, resize=resize)  # type: ignore[arg-type]
    assert batch.small is not None
    for n, record in enumerate(records):
        image, lying = decode_image(record.image), place(SHAPES[n], config)
        assert torch.equal(batch.images[n], network_input(image, lying, config))
        assert torch.equal(batch.small[n], small_input(image, lying, config))
        if resize == "letterbox" and not lying.fills(config.size):
            around = torch.ones(config.size, dtype=torch.bool)
            around[lying.box()] = False
            colour = (torch.tensor(config.fill) - torch.tensor(config.mean)) / torch.tensor(config.std)
            assert torch.equal(batch.images[n][:, around], colour[:, None].expand(-1, int(around.sum())))


def test_pictures_lit_apart_are_those_of_batches_of_one(records: list[Record], tokenizer: Tokenizer) -> None:
    dataset = StepDataset(records, tokenizer, replace(DATA, shrink=0.5), augment=(7, 1))  # type: ignore[arg-type]
    batch = dataset[STEP].to("cpu")
    assert len({one.light for one in dataset[STEP].normalisation}) == len(SHAPES)
    for n, pick in enumerate(STEP):
        alone = dataset[(pick,)].to("cpu")
        assert torch.equal(batch.images[n], alone.images[0])
        assert torch.equal(batch.small[n], alone.small[0])  # type: ignore[index]


def test_light_stops_at_black_and_white(records: list[Record], tokenizer: Tokenizer) -> None:
    how = Normalisation((0.5, 0.4, 0.3), (0.1, 0.2, 0.3), (1.5, 2.0), (1.0, 0.0, 0.5), (slice(0, 1), slice(1, 3)), None)
    pixels = torch.tensor([0, 255, 128], dtype=torch.uint8).expand(1, 3, 1, 3)
    found = normalised(pixels, [how], [how.inside])
    # A colour c becomes 2 (c - 0.5) + 0.75, and what is beyond black or white stays there.
    mean, std = torch.tensor(how.mean)[:, None], torch.tensor(how.std)[:, None]
    seen = torch.tensor([[1.0, 1.0, 0.7539216], [0.0, 1.0, 0.7539216], [0.75, 1.0, 0.7539216]])
    torch.testing.assert_close(found[0, :, 0], (seen - mean) / std)


def test_a_part_of_a_batch_keeps_its_pictures_light_and_padding(records: list[Record], tokenizer: Tokenizer) -> None:
    batch = loaded(records, tokenizer, epoch=2)
    whole, part = batch.to("cpu"), batch.part(torch.tensor([2, 3, 7])).to("cpu")
    assert torch.equal(part.images, whole.images[[1, 3]])
    assert torch.equal(part.small, whole.small[[1, 3]])  # type: ignore[index, arg-type]
    assert torch.equal(part.masks, whole.masks[[2, 3, 7]])  # type: ignore[index, arg-type]


def test_joined_batches_keep_their_pictures_padding(tokenizer: Tokenizer) -> None:
    rng = np.random.default_rng(0)
    pictures = [torch.from_numpy(rng.integers(0, 256, (3, *size), dtype=np.uint8)) for size in SHAPES]
    each = [batch_for(pixels, ["dog"], tokenizer, DATA) for pixels in pictures]
    together = joined(each).to("cpu")
    for n, one in enumerate(each):
        assert torch.equal(together.images[n], one.to("cpu").images[0])
        assert torch.equal(together.small[n], one.to("cpu").small[0])  # type: ignore[index]


def test_pinning_takes_every_tensor_along(
    records: list[Record], tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What torch's DataLoader does, and not unless a batch has a method of that name."""
    copies = list[torch.Tensor]()
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: copies.append(self.clone()) or copies[-1])
    batch = loaded(records, tokenizer, epoch=0)
    pinned = batch.pin_memory()
    for part in fields(Batch):
        given, taken = getattr(batch, part.name), getattr(pinned, part.name)
        if isinstance(given, torch.Tensor):
            assert any(taken is copy for copy in copies), part.name
            assert torch.equal(taken, given), part.name
        else:
            assert taken is given, part.name


def test_resized_pictures_do_not_depend_on_how_they_lie_in_memory() -> None:
    """Decoders have channels last, where torch is twice as fast; an array of somebody else's may have them first."""
    image = torch.from_numpy(np.random.default_rng(1).integers(0, 256, (3, 50, 70), dtype=np.uint8))
    last = image.permute(1, 2, 0).contiguous().permute(2, 0, 1)
    for config in (DATA, replace(DATA, smooth=False), replace(DATA, resize="squash"), replace(DATA, resize="warp")):
        lying = place((50, 70), config)
        first_found, last_found = (transforms.to_input(one, lying, config) for one in (image, last))
        assert torch.equal(first_found, last_found)
