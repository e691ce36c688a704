"""Logits on their way to where masks are compared, against interpolation written out."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from refseg_cli.config import DataConfig
from refseg_cli.data import masks
from refseg_cli.data.placement import place
from refseg_cli.evaluation.grids import count_views, true_masks, values_at
from refseg_cli.metrics.protocols import PROTOCOLS, REFSEG
from refseg_cli.metrics.rules import View
from refseg_cli.records import Batch, Prediction, Sample, Thresholds
from refseg_cli.segmenters.inference import postprocess


def batch(count: int, size: tuple[int, int], content: tuple[float, ...], whole: tuple[int, int]) -> Batch:
    """One picture of `size` at `content` (top, left, height, width) in an input of `whole` pixels."""
    return Batch(
        images=torch.zeros(1, 3, *whole),
        tokens=torch.zeros(count, 2, dtype=torch.int64),
        attention_mask=torch.ones(count, 2, dtype=torch.bool),
        image_index=torch.zeros(count, dtype=torch.int64),
        masks=torch.zeros(count, 1, *whole),
        sizes=torch.tensor([size]),
        content=torch.tensor([content]),
    )


def only(logits: torch.Tensor, of: Batch, protocol: str) -> torch.Tensor:
    """The values of a batch that comes in one piece."""
    ((rows, values),) = values_at(Prediction(logits[:, None]), of, PROTOCOLS[protocol].grid)
    assert rows.tolist() == list(range(len(of)))
    return values


def linear(row: list[float], to: int, *, corners: bool) -> list[float]:
    """A row of numbers at `to` places between its first and its last, or at the centres of `to` equal parts."""
    n = len(row)
    places = [i * (n - 1) / (to - 1) if corners else (i + 0.5) * n / to - 0.5 for i in range(to)]
    return np.interp(np.clip(places, 0, n - 1), range(n), row).tolist()


def cubic(row: list[float], place: float, *, outside: float | None) -> float:
    """Cubic convolution (a = -0.75); beyond the row the nearest number, or `outside`."""
    first = int(np.floor(place))
    total = 0.0
    for i in range(first - 1, first + 3):
        d = abs(place - i)
        near = 1.25 * d**3 - 2.25 * d**2 + 1
        far = -0.75 * d**3 + 3.75 * d**2 - 6 * d + 3
        value = row[min(max(i, 0), len(row) - 1)] if outside is None or 0 <= i < len(row) else outside
        total += (near if d <= 1 else far) * value
    return total


ROW = [-1.0, 2.0, 0.5, -3.0]


def sigmoid(values: list[float]) -> list[float]:
    return (1 / (1 + np.exp(-np.array(values)))).tolist()


@pytest.mark.parametrize(("protocol", "corners"), [("lavt", True), ("rela", False)])
def test_at_the_input_logits_are_resized_once(protocol, corners):
    logits = torch.tensor([ROW]).expand(1, 3, 4)
    found = only(logits, batch(1, (9, 7), (0, 0, 6, 8), (6, 8)), protocol)
    assert found.shape == (1, 6, 8)
    for line in found[0]:
        assert line.tolist() == pytest.approx(linear(ROW, 8, corners=corners), abs=1e-6)


def test_where_the_corners_lie_decides_how_many_pixels_are_inside():
    """Two logits spread over six pixels: four are above zero with aligned corners, three with aligned edges."""
    logits = torch.tensor([[[-1.0, 1.9]]])
    views = [PROTOCOLS["lavt"].view(0.5), PROTOCOLS["rela"].view(0.5)]
    counts = count_views(Prediction(logits[:, None]), batch(1, (1, 6), (0, 0, 1, 6), (1, 6)), views, [np.zeros((1, 6))])
    assert counts[0, :, 1].tolist() == [4, 3]


def test_vlt_turns_to_probabilities_first_and_goes_by_the_input():
    logits = torch.tensor([ROW]).expand(2, 4, 4)
    found = only(logits, batch(2, (5, 10), (0, 0, 8, 8), (8, 8)), "vlt")
    at_input = linear(sigmoid(ROW), 8, corners=False)
    assert found.shape == (2, 5, 10)
    assert found[1, 3].tolist() == pytest.approx(linear(at_input, 10, corners=False), abs=1e-6)


def test_vlt_cuts_the_letterbox_off_at_input_size():
    """Eight columns, of which the picture has the middle four."""
    logits = torch.tensor([ROW]).expand(1, 4, 4)
    found = only(logits, batch(1, (8, 4), (0, 2, 8, 4), (8, 8)), "vlt")
    at_input = linear(sigmoid(ROW), 8, corners=False)
    assert found[0, 5].tolist() == pytest.approx(at_input[2:6], abs=1e-6)


def test_lisa_resizes_logits_by_the_input_as_segment_anything_does():
    """Eight columns, of which the picture has the first four."""
    logits = torch.tensor([ROW]).expand(1, 4, 4)
    found = only(logits, batch(1, (8, 9), (0, 0, 8, 4), (8, 8)), "lisa")
    at_input = linear(ROW, 8, corners=False)
    assert found.shape == (1, 8, 9)
    assert found[0, 5].tolist() == pytest.approx(linear(at_input[:4], 9, corners=False), abs=1e-6)


def test_cgformer_turns_to_probabilities_between_the_steps():
    logits = torch.tensor([ROW]).expand(1, 4, 4)
    found = only(logits, batch(1, (7, 11), (0, 0, 8, 8), (8, 8)), "cgformer")
    at_input = sigmoid(linear(ROW, 8, corners=True))
    expected = [cubic(at_input, i * 7 / 10, outside=None) for i in range(11)]
    assert found[0, 2].tolist() == pytest.approx(expected, abs=1e-5)


def test_cris_reads_beyond_the_content_and_zeros_beyond_the_input():
    logits = torch.tensor([ROW]).expand(1, 4, 4)
    inside = only(logits, batch(1, (8, 6), (0, 2, 8, 3), (8, 8)), "cris")
    at_input = [cubic(sigmoid(ROW), i * 3 / 7, outside=None) for i in range(8)]
    places = [2 + (i + 0.5) * 3 / 6 - 0.5 for i in range(6)]  # of the picture's columns in the input
    assert inside[0, 4].tolist() == pytest.approx([cubic(at_input, x, outside=0.0) for x in places], abs=1e-5)
    whole = only(logits, batch(1, (8, 16), (0, 0, 8, 8), (8, 8)), "cris")
    edge = [cubic(at_input, (i + 0.5) / 2 - 0.5, outside=0.0) for i in range(16)]
    assert whole[0, 4].tolist() == pytest.approx(edge, abs=1e-5)


def test_cris_brings_back_what_cris_warped_in():
    """Twelve columns in sixteen: pixel i of the picture lies at 4/3 i of the input."""
    logits = torch.tensor([ROW]).expand(1, 4, 4)
    placed = place((6, 12), DataConfig(size=(16, 16), resize="warp"))
    content = (placed.top, placed.left, placed.height, placed.width)
    found = only(logits, batch(1, (6, 12), content, (16, 16)), "cris")
    at_input = [cubic(sigmoid(ROW), i * 3 / 15, outside=None) for i in range(16)]
    expected = [cubic(at_input, i * 4 / 3, outside=0.0) for i in range(12)]
    assert found[0, 3].tolist() == pytest.approx(expected, abs=1e-5)
    of_vlt = only(logits, batch(1, (6, 12), content, (16, 16)), "vlt")
    smooth = linear(sigmoid(ROW), 16, corners=False)
    assert of_vlt[0, 3].tolist() == pytest.approx(np.interp(np.arange(12) * 4 / 3, range(16), smooth), abs=1e-5)


def test_an_output_of_input_size_stays_as_it_is():
    logits = torch.randn(2, 8, 8)
    of = batch(2, (8, 8), (0, 0, 8, 8), (8, 8))
    assert torch.equal(only(logits, of, "lavt"), logits)
    for name in ("vlt", "cgformer", "cris"):
        torch.testing.assert_close(only(logits, of, name), logits.sigmoid(), atol=1e-5, rtol=0)


def test_a_logit_of_exactly_zero_is_foreground_to_gsva_alone():
    logits = torch.tensor([[[0.0, -0.0, 1e-30, -1e-30]]])
    of, views = batch(1, (1, 4), (0, 0, 1, 4), (1, 4)), [PROTOCOLS[name].view(0.5) for name in ("gsva", "lisa")]
    counts = count_views(Prediction(logits[:, None]), of, views, [np.ones((1, 4), dtype=bool)])
    assert counts[0, :, 1].tolist() == [3, 1]


def test_r_refcoco_counts_targets_at_original_size_and_false_alarms_at_the_inputs():
    logits = torch.tensor([ROW]).expand(2, 4, 4)
    of = replace(batch(2, (3, 11), (0, 0, 8, 8), (8, 8)), has_target=torch.tensor([True, False]))
    views = [PROTOCOLS[name].view(0.5) for name in ("r-refcoco", "lavt")]
    truths = [np.ones((3, 11), dtype=bool), np.zeros((3, 11), dtype=bool)]
    counts = count_views(Prediction(logits[:, None]), of, views, truths)
    at_input = linear(ROW, 8, corners=True)
    at_original = linear(at_input, 11, corners=True)
    inside, alarm = 3 * sum(value > 0 for value in at_original), 8 * sum(value > 0 for value in at_input)
    assert counts[:, 0].tolist() == [[inside, inside, 33], [0, alarm, 0]]
    assert counts[:, 1].tolist() == [[alarm, alarm, 64], [0, alarm, 0]]


@pytest.mark.parametrize("content", [(0, 0, 8, 8), (2, 0, 4, 8)])
def test_refsegs_view_is_what_predict_shows(content):
    torch.manual_seed(0)
    of, logits = batch(3, (11, 13), content, (8, 8)), torch.randn(3, 1, 4, 4)
    for threshold in (0.3, 0.5, 0.8):
        shown = postprocess(Prediction(logits), of, Thresholds(mask=threshold))
        truths = [np.ones((11, 13), dtype=bool)] * 3
        counts = count_views(Prediction(logits), of, [REFSEG.view(threshold)], truths)
        assert counts[:, 0].tolist() == [[d.raw.sum(), d.raw.sum(), 143] for d in shown]


def test_thresholds_of_one_grid_share_its_values():
    torch.manual_seed(1)
    of, logits = batch(2, (9, 9), (0, 0, 8, 8), (8, 8)), torch.randn(2, 1, 4, 4)
    views = [View(REFSEG.grid, t) for t in (0.2, 0.5, 0.9)]
    truths = [np.random.default_rng(i).random((9, 9)) > 0.5 for i in range(2)]
    counts = count_views(Prediction(logits), of, views, truths)
    probabilities = only(logits[:, 0], of, "refseg").sigmoid().numpy()
    for n in range(2):
        for v, t in enumerate((0.2, 0.5, 0.9)):
            inside = probabilities[n] > t
            assert counts[n, v].tolist() == [(inside & truths[n]).sum(), inside.sum(), truths[n].sum()]


def test_at_the_input_the_truth_is_resized_and_pictures_do_not_mix():
    two = replace(
        batch(3, (5, 5), (0, 0, 8, 8), (8, 8)),
        images=torch.zeros(2, 3, 8, 8),
        image_index=torch.tensor([0, 0, 1]),
        sizes=torch.tensor([(5, 5), (3, 9)]),
        content=torch.tensor([(0, 0, 8, 8), (0, 0, 8, 8)]),
    )
    logits = torch.stack([torch.full((1, 4, 4), value) for value in (9.0, -9.0, 9.0)])
    truths = [np.ones((5, 5), dtype=bool), np.zeros((5, 5), dtype=bool), np.arange(27).reshape(3, 9) % 9 < 3]
    views = [PROTOCOLS[name].view(0.5) for name in ("lavt", "refseg", "vlt")]
    counts = count_views(Prediction(logits), two, views, truths)
    assert counts[:, 0].tolist() == [[64, 64, 64], [0, 0, 0], [24, 64, 24]]
    assert counts[:, 1].tolist() == counts[:, 2].tolist() == [[25, 25, 25], [0, 0, 0], [9, 27, 9]]


def test_lavt_sees_the_truth_through_pillow():
    """640 x 427 pixels squashed to 480 x 480, and set into a letterbox."""
    truth = np.random.default_rng(0).random((427, 640)) < 0.5
    for content in ((0, 0, 480, 480), (80, 0, 320, 480)):
        of = batch(1, (427, 640), content, (480, 480))
        counts = count_views(Prediction(torch.full((1, 1, 2, 2), 9.0)), of, [PROTOCOLS["lavt"].view(0.5)], [truth])
        seen = Image.fromarray(truth.astype(np.uint8)).resize(content[:1:-1], Image.Resampling.NEAREST)
        assert counts[0, 0].tolist() == [np.sum(seen), 480 * 480, np.sum(seen)]
    columns = ((np.arange(480) + 0.5) * 640 / 480).astype(int)
    assert np.sum(seen) != truth[((np.arange(320) + 0.5) * 427 / 320).astype(int)][:, columns].sum()


def test_rela_leaves_crowds_out_of_the_truth():
    whole, one = np.ones((4, 4), dtype=bool), np.eye(4, dtype=bool)
    sample = Sample(1, 1, 1, "val", "x", masks.encode(whole), 2, without_crowds=masks.encode(one))
    of = replace(batch(1, (4, 4), (0, 0, 8, 8), (8, 8)), samples=(sample,))
    views = [PROTOCOLS[name].view(0.5) for name in ("rela", "lavt", "refseg")]
    counts = count_views(Prediction(torch.full((1, 1, 2, 2), 9.0)), of, views, [whole])
    assert counts[0, :, 2].tolist() == [16, 64, 16]


def test_equal_targets_are_decoded_once():
    rle = masks.encode(np.eye(4, dtype=bool))
    samples = [Sample(1, 1, i, "val", "x", rle, 1) for i in range(3)]
    first, second, third = true_masks(samples)
    assert first is second is third
    np.testing.assert_array_equal(first, np.eye(4, dtype=bool))
