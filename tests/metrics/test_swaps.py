"""The test of no difference against every swap written out in exact fractions, and its ties."""

from __future__ import annotations

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli.metrics import swaps
from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.intervals import Difference, differences
from refseg_cli.metrics.scores import ratios


def of_ious(ious: list[list[int]], pixels: int = 10) -> tuple[Counts, np.ndarray]:
    """Masks that lie within targets of so many pixels, `ious` of them right; a list for each picture."""
    hits = np.array([n for picture in ious for n in picture])
    n = len(hits)
    counts = Counts(hits, hits, np.full(n, pixels), np.ones(n, bool), np.ones(n, bool))
    return counts, np.repeat(np.arange(len(ious)), [len(picture) for picture in ious])


def compared(a: list[list[int]], b: list[list[int]], pixels: int = 10, **kwargs: int) -> dict[str, Difference]:
    (one, images), (other, _) = of_ious(a, pixels), of_ious(b, pixels)
    return differences(ratios(one), ratios(other), images, **kwargs)


def by_fractions(a: Counts, b: Counts, images: np.ndarray, name: str) -> float:
    """p of cIoU or gIoU (all with targets), every swap of pictures scored anew without any rounding."""

    def score(rows: list[tuple[int, int]]) -> Fraction:
        if name == "cIoU":
            return Fraction(sum(i for i, _ in rows), sum(u for _, u in rows))
        return sum((Fraction(i, u) for i, u in rows), Fraction(0)) / len(rows)

    one, other = (list(zip(c.intersection.tolist(), c.union.tolist(), strict=True)) for c in (a, b))
    gaps = []
    for swapped in itertools.product((False, True), repeat=int(images.max()) + 1):
        pairs = [(q, p) if swapped[image] else (p, q) for p, q, image in zip(one, other, images, strict=True)]
        x, y = [p for p, _ in pairs], [q for _, q in pairs]
        gap = score(y) - score(x)
        if name == "cIoU":  # what is tested is the difference without its denominator
            gap *= sum(u for _, u in x) * sum(u for _, u in y)
        gaps.append(abs(gap))
    return float(Fraction(sum(gap >= gaps[0] for gap in gaps), len(gaps)))


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_equal_to_every_swap_in_exact_fractions(data):
    pictures = data.draw(st.integers(1, 6))
    images = np.array([*range(pictures), *data.draw(st.lists(st.integers(0, pictures - 1), max_size=6))])
    n = len(images)
    target = np.array(data.draw(st.lists(st.sampled_from([2, 3, 6, 12]), min_size=n, max_size=n)))
    models = []
    for _ in range(2):
        right = np.array(data.draw(st.lists(st.integers(1, 12), min_size=n, max_size=n)))
        right = np.minimum(right, target)
        more = np.array(data.draw(st.lists(st.sampled_from([0, 1, 6]), min_size=n, max_size=n)))
        models.append(Counts(right, right + more, target, np.ones(n, bool), np.ones(n, bool)))
    found = differences(ratios(models[0]), ratios(models[1]), images)
    for name in ("cIoU", "gIoU"):
        assert found[name].p == by_fractions(*models, images, name), name


def test_the_same_ious_in_another_order_tie():
    """0.1 + 0.2 + 0.3 is not 0.3 + 0.2 + 0.1 in floating point; with that, p was 0.0002."""
    found = compared([[1, 2, 3]] * 3, [[3, 2, 1]] * 3)
    assert found["gIoU"].value == 0
    assert {d.p for d in found.values() if not math.isnan(d.p)} == {1.0}
    many = compared([[1, 2, 3]] * 50, [[3, 2, 1]] * 50)
    assert (many["gIoU"].p, many["mIoU"].p, many["cIoU"].p) == (1, 1, 1)


def test_sums_that_are_equal_as_fractions_tie():
    """1/3 + 1/6 and 1/2 + 0: no two of these IoUs are alike, and thirds are no whole number of bits."""
    found = compared([[4, 2]] * 40, [[6, 0]] * 40, pixels=12)
    assert found["gIoU"].p == 1
    assert compared([[4, 2]] * 40, [[7, 0]] * 40, pixels=12)["gIoU"].p == 1 / 10_001
    # +1/3, +1/6 and -1/2 on pictures of their own: none of the eight swaps is nearer than what was seen
    assert compared([[0], [0], [6]], [[4], [2], [0]], pixels=12)["gIoU"].p == 1


def test_a_gain_on_every_picture_is_as_sure_as_their_number_allows():
    for pictures, p in ((1, 1.0), (2, 0.5), (3, 0.25), (10, 2 / 1024), (13, 2 / 8192)):
        found = compared([[5]] * pictures, [[8]] * pictures)
        assert found["gIoU"].p == found["cIoU"].p == p
    assert compared([[5]] * 14, [[8]] * 14)["gIoU"].p == pytest.approx(1 / 10_001, abs=5 / 10_001)
    assert compared([[5]] * 40, [[8]] * 40, swaps=99)["gIoU"].p == 1 / 100
    # pictures that do not differ say nothing
    assert compared([[5]] * 3 + [[2]] * 60, [[8]] * 3 + [[2]] * 60)["gIoU"].p == 0.25


def test_a_swap_of_the_models_changes_nothing():
    rng = np.random.default_rng(0)
    a, b = ([[int(n)] for n in rng.integers(0, 11, 40)] for _ in range(2))
    assert [d.p for d in compared(a, b).values()] == pytest.approx([d.p for d in compared(b, a).values()], nan_ok=True)


def test_random_swaps_come_near_all_of_them():
    rng = np.random.default_rng(3)
    a = [[int(n)] for n in rng.integers(0, 8, 12)]
    b = [[int(n)] for n in rng.integers(2, 11, 12)]
    exact, drawn = compared(a, b, swaps=4096), compared(a, b, swaps=4095)
    for name in ("cIoU", "gIoU"):
        p = exact[name].p
        assert 0.005 < p < 0.5
        assert drawn[name].p != p
        assert drawn[name].p == pytest.approx(p, abs=4 * math.sqrt(p * (1 - p) / 4095))


def drawn(n: int, seed: int) -> Counts:
    rng = np.random.default_rng(seed)
    has = rng.random(n) > 0.3
    target = np.where(has, rng.integers(1, 200, n), 0)
    predicted = rng.integers(0, 200, n) * (rng.random(n) > 0.2)
    return Counts((np.minimum(target, predicted) * rng.random(n)).astype(int), predicted, target, has, predicted > 0)


def test_the_same_seed_gives_the_same_interval_however_the_work_is_cut(monkeypatch):
    b = drawn(300, 2)
    less = (b.intersection * np.random.default_rng(1).uniform(0.8, 1.3, 300)).astype(int)
    a = Counts(np.minimum(less, np.minimum(b.predicted, b.target)), b.predicted, b.target, b.has_target, b.says_target)
    images = np.arange(300) // 5
    asked = {"swaps": 500, "seed": 7}
    whole = differences(ratios(a), ratios(b), images, **asked)
    for block in (60 * 37, 1):
        monkeypatch.setattr(swaps, "BLOCK", block)
        assert differences(ratios(a), ratios(b), images, **asked) == whole
    other = differences(ratios(a), ratios(b), images, swaps=500, seed=8)
    assert other["gIoU"].p != whole["gIoU"].p


@pytest.mark.parametrize("pictures", [3, 64, 130])
def test_each_picture_is_swapped_in_half_of_the_cases_and_on_its_own(pictures):
    chosen = np.concatenate(list(swaps._random_subsets(pictures, 4000, 0)))
    assert chosen.shape == (4000, pictures)
    assert set(np.unique(chosen)) == {0, 1}
    assert np.abs(chosen.mean(0) - 0.5).max() < 0.04
    together = np.corrcoef(chosen.T) - np.eye(pictures)
    assert np.abs(together).max() < 0.09


def test_what_one_model_leaves_undefined_has_no_p():
    none = Counts([0, 0], [0, 0], [0, 0], [False, False], [False, False])
    some = Counts([0, 0], [3, 0], [0, 0], [False, False], [True, False])
    found = differences(ratios(none), ratios(some), np.arange(2))
    assert math.isnan(found["cIoU"].p)
    assert found["N-acc"].p == 1
    assert all(math.isnan(d.p) for d in differences(ratios(some), ratios(some), np.arange(2), swaps=0).values())
