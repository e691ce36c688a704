"""Masks of many pictures at the network's size against masks that are decoded and resized one by one."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from pycocotools import mask as coco
from torch.nn import functional as F

from refseg_cli.config import DataConfig
from refseg_cli.data import masks, sampling, transforms
from refseg_cli.data.placement import Placement, place
from refseg_cli.data.sampling import Asked
from refseg_cli.records import Rle

INPUT = (24, 32)
SIDES = st.integers(1, 60)
PICTURES = st.lists(st.tuples(SIDES, SIDES, st.integers(0, 11), st.booleans(), st.integers(0, 99)), max_size=4)


def one_by_one(asked: Asked, whole: np.ndarray) -> torch.Tensor:
    """The same of decoded masks (k, h, w), with torch's own `nearest-exact`."""
    found = torch.zeros(len(asked.unions), *INPUT, dtype=torch.uint8)
    rows, columns = asked.placement.box()
    box = (rows.stop - rows.start, columns.stop - columns.start)
    for mask, union in zip(found, asked.unions, strict=True):
        for one in union:
            pixels = torch.from_numpy(whole[one].astype(np.uint8))[None, None]
            mask[rows, columns] |= F.interpolate(pixels, box, mode="nearest-exact")[0, 0]
    return found.flip(-1) if asked.mirrored else found


@given(PICTURES, st.sampled_from(["letterbox", "squash"]), st.floats(0.2, 1), st.floats(0, 1))
def test_masks_are_those_of_decoded_ones(
    drawn: list[tuple[int, int, int, bool, int]], resize: Literal["letterbox", "squash"], scale: float, at: float
) -> None:
    config, asked, expected = DataConfig(size=INPUT, resize=resize), [], [torch.zeros(0, *INPUT, dtype=torch.uint8)]
    for h, w, count, mirrored, seed in drawn:
        rng = np.random.default_rng(seed)
        whole = rng.random((count, h, w)) < rng.random((count, 1, 1)) * 1.4 - 0.2  # empty and full ones among them
        unions = [tuple(np.flatnonzero(rng.random(count) < share)) for share in (0, 0.2, 1)]
        lies = place((h, w), config).shrunk(scale, (at, 1 - at), INPUT)
        asked.append(Asked([masks.encode(mask) for mask in whole], unions, (h, w), lies, mirrored))
        expected.append(one_by_one(asked[-1], whole))
    assert torch.equal(torch.from_numpy(sampling.united(asked, INPUT)), torch.cat(expected))


def test_runs_of_no_pixel_are_passed_over() -> None:
    """Shards made before `masks.from_segmentation` saw to it have them; they may come at both ends."""
    lies = Placement(0, 0, 4, 4)
    for counts in ([2, 3, 0, 3, 8], [0, 0, 4, 12, 0], [0, 16, 0, 0], [16, 0]):
        rle = Rle((4, 4), coco.frPyObjects({"size": [4, 4], "counts": counts}, 4, 4)["counts"])
        found = sampling.united([Asked([rle], [(0,)], (4, 4), lies)], (4, 4))
        np.testing.assert_array_equal(found[0], masks.decode(rle))


@pytest.mark.parametrize("resize", ["squash", "warp"])
def test_masks_that_cannot_be_sampled_are_told(resize: Literal["squash", "warp"]) -> None:
    config = DataConfig(size=INPUT, resize=resize)
    wide = masks.encode(np.ones((4, 5), bool))
    sound = Asked([masks.encode(np.ones((4, 4), bool))], [(0,)], (4, 4), place((4, 4), config))
    for rle, reason in (
        (wide, "a mask of 5x4 pixels"),
        (Rle((4, 4), wide.counts), "do not add up"),
        (Rle((4, 4), b"~~"), "damaged RLE string"),
    ):
        with pytest.raises(ValueError, match=reason):
            transforms.masks_to_input([sound, replace(sound, rles=[rle])], config)
        transforms.masks_to_input([sound, replace(sound, rles=[rle], unions=[()])], config)  # which nobody asks for
