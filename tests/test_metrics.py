"""Metrics against counts that can be done by hand, a reading in sets of pixels and exact fractions, and identities."""

from __future__ import annotations

import math
from dataclasses import fields
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from refseg_cli import metrics
from refseg_cli.metrics import Counts, count_pixels

GRID = 5  # masks are subsets of a 5 x 5 picture
HERE, THERE = True, False


def row(
    intersection: int, predicted: int, target: int, has_target: bool | None = None, says_target: bool | None = None
):
    """One expression; the flags follow from the pixels unless they are given."""
    return (
        intersection,
        predicted + target - intersection,
        predicted,
        target,
        target > 0 if has_target is None else has_target,
        predicted > 0 if says_target is None else says_target,
    )


def counts_of(*rows: tuple) -> Counts:
    columns = zip(*rows, strict=True) if rows else [[] for _ in fields(Counts)]
    return Counts(*map(list, columns))


HIT = row(intersection=6, predicted=8, target=8)  # 6 / 10
MISSED = row(intersection=0, predicted=0, target=5)
ELSEWHERE = row(intersection=0, predicted=3, target=4)
RIGHT_NONE = row(intersection=0, predicted=0, target=0)
FALSE_ALARM = row(intersection=0, predicted=7, target=0)
EMPTY_TARGET_EMPTY = row(intersection=0, predicted=0, target=0, has_target=True)  # annotated, but without a pixel
EMPTY_TARGET_PREDICTED = row(intersection=0, predicted=2, target=0, has_target=True)
NAN = math.nan


@pytest.mark.parametrize(
    ("rows", "cIoU", "mIoU", "gIoU", "pr50", "n_acc", "t_acc"),
    [
        pytest.param([], NAN, NAN, NAN, NAN, NAN, NAN, id="nothing at all"),
        pytest.param([HIT], 6 / 10, 6 / 10, 6 / 10, 1, NAN, 1, id="one hit"),
        pytest.param([MISSED], 0, 0, 0, 0, NAN, 0, id="a missed target is a zero, and its pixels are in the union"),
        pytest.param([HIT, MISSED], 6 / 15, 3 / 10, 3 / 10, 1 / 2, NAN, 1 / 2, id="hit, missed"),
        pytest.param([ELSEWHERE], 0, 0, 0, 0, NAN, 1, id="T-acc does not ask where"),
        pytest.param([RIGHT_NONE], NAN, NAN, 1, NAN, 1, NAN, id="no target, none said: no pixel anywhere"),
        pytest.param([FALSE_ALARM], 0, NAN, 0, NAN, 0, NAN, id="no target, one said"),
        pytest.param([RIGHT_NONE, FALSE_ALARM], 0, NAN, 1 / 2, NAN, 1 / 2, NAN, id="one of two none's"),
        pytest.param([HIT, RIGHT_NONE], 6 / 10, 6 / 10, 8 / 10, 1, 1, 1, id="a right none leaves cIoU and mIoU alone"),
        pytest.param([HIT, FALSE_ALARM], 6 / 17, 6 / 10, 3 / 10, 1, 0, 1, id="a false alarm enters cIoU's union only"),
        pytest.param([EMPTY_TARGET_EMPTY], NAN, 0, 0, 0, NAN, 0, id="0/0 of a target without pixels is 0"),
        pytest.param([EMPTY_TARGET_PREDICTED], 0, 0, 0, 0, NAN, 1, id="a target without pixels, predicted somewhere"),
        pytest.param(
            [HIT, MISSED, ELSEWHERE, RIGHT_NONE, FALSE_ALARM, EMPTY_TARGET_EMPTY, EMPTY_TARGET_PREDICTED],
            6 / (10 + 5 + 7 + 7 + 2),
            0.6 / 5,
            1.6 / 7,
            1 / 5,
            1 / 2,
            3 / 5,
            id="all together",
        ),
    ],
)
def test_hand_counted(rows, cIoU, mIoU, gIoU, pr50, n_acc, t_acc):
    scores = metrics.scores(counts_of(*rows))
    expected = {"cIoU": cIoU, "mIoU": mIoU, "gIoU": gIoU, "Pr@0.5": pr50, "N-acc": n_acc, "T-acc": t_acc}
    table = scores.table()
    for name, value in expected.items():
        assert table[name] == (None if math.isnan(value) else pytest.approx(100 * value, abs=1e-12)), name
    assert scores.expressions == len(rows)
    assert scores.no_target == sum(not has_target for *_, has_target, _ in rows)


def test_undefined_is_nan_in_scores_and_none_in_the_table():
    scores = metrics.scores(counts_of())
    assert math.isnan(scores.overall_iou)
    assert all(math.isnan(share) for share in scores.precision.values())
    assert set(scores.table().values()) == {None}


def test_the_names_are_those_of_the_papers_in_their_order():
    expected = ["cIoU", "mIoU", "gIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc"]
    assert list(metrics.scores(counts_of(HIT)).table()) == expected


@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
@pytest.mark.parametrize("scale", [1, 3, 7, 123_457, 10_000_000_019])
def test_precision_is_strict_and_exact_at_the_threshold(tenths, scale):
    at = row(intersection=tenths * scale, predicted=10 * scale, target=tenths * scale)
    above = row(intersection=tenths * scale + 1, predicted=10 * scale, target=tenths * scale + 1)
    below = row(intersection=tenths * scale - 1, predicted=10 * scale, target=tenths * scale - 1)
    assert metrics.precision_at(counts_of(at, below), tenths / 10) == 0
    assert metrics.precision_at(counts_of(above), tenths / 10) == 1


def test_an_empty_mask_is_no_target_even_where_the_model_says_otherwise():
    """6.4.1 looks for foreground pixels; a head that says "target" over an empty mask found nothing."""
    says = counts_of(row(0, 0, 0, says_target=True), row(0, 0, 4, says_target=True))
    assert metrics.no_target_accuracy(says) == 1
    assert metrics.target_accuracy(says) == 0


def test_concatenate_of_nothing_is_empty_and_of_integers():
    empty = metrics.concatenate([])
    assert len(empty) == 0
    assert empty.union.dtype == np.int64
    assert empty.has_target.dtype == np.bool_


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ((3, 3, 2, 4, HERE, HERE), "expression 1 has an intersection"),
        ((-1, 7, 2, 4, HERE, HERE), "expression 1 has an intersection"),
        ((1, 6, 2, 4, HERE, HERE), "expression 1 has a union"),
        ((0, 6, 2, 4, THERE, HERE), "expression 1 has target pixels but no target"),
        ((0, 6, 2, 4, HERE, THERE), "expression 1 has predicted pixels where the model says no target"),
    ],
)
def test_counts_that_no_masks_have_are_refused(broken, message):
    with pytest.raises(ValueError, match=message):
        counts_of(HIT, broken)


def test_columns_of_other_shapes_or_of_ratios_are_refused():
    one, two = [1], [1, 1]
    with pytest.raises(ValueError, match="differ in shape"):
        Counts(one, one, one, two, [True], [True])
    with pytest.raises(ValueError, match="differ in shape"):
        Counts([one], [one], [one], [one], [[True]], [[True]])
    with pytest.raises(TypeError, match="float64"):
        Counts(one, one, one, np.array([0.5]), [True], [True])
    with pytest.raises(TypeError, match="int64"):
        Counts(one, one, one, one, [1], [True])


def test_count_pixels_by_hand():
    predicted = np.array([[1, 1, 0], [0, 1, 0]], dtype=bool)
    target = np.array([[0, 1, 1], [0, 1, 0]], dtype=bool)
    assert count_pixels(predicted, target) == (2, 4, 3, 3)
    assert count_pixels(predicted, np.zeros_like(target)) == (0, 3, 3, 0)
    with pytest.raises(ValueError, match=r"\(2, 3\)"):
        count_pixels(predicted, target[:1])


# The same text read once more, naively: pixels are members of sets, ratios are exact fractions, None is undefined.

pixel_sets = st.integers(0, 2 ** (GRID * GRID) - 1).map(  # each bit is a pixel; far faster to draw than sets
    lambda bits: {divmod(place, GRID) for place in range(GRID * GRID) if bits >> place & 1}
)


@st.composite
def answers(draw):
    """(predicted set, true set, has a target, the model says so), with every empty case likely."""
    has_target, says_target = draw(st.booleans()), draw(st.booleans())
    true = draw(pixel_sets) if has_target else set()
    predicted = draw(st.one_of(pixel_sets, st.just(true))) if says_target else set()
    return predicted, true, has_target, says_target


def as_mask(pixels: set[tuple[int, int]]) -> np.ndarray:
    mask = np.zeros((GRID, GRID), dtype=bool)
    for y, x in pixels:
        mask[y, x] = True
    return mask


def counts_from(samples: list) -> Counts:
    return counts_of(*((*count_pixels(as_mask(p), as_mask(g)), has, says) for p, g, has, says in samples))


def mean(values: list) -> Fraction | None:
    return sum(values, Fraction(0)) / len(values) if values else None


def naive(samples: list) -> dict[str, Fraction | None]:
    with_target, without = [], []
    total_intersection = total_union = 0
    for predicted, true, has_target, _ in samples:
        total_intersection += len(predicted & true)
        total_union += len(predicted | true)
        if has_target:
            overlap = Fraction(len(predicted & true), len(predicted | true)) if predicted | true else Fraction(0)
            with_target.append((overlap, bool(predicted)))
        else:
            without.append(Fraction(not predicted))
    overlaps = [overlap for overlap, _ in with_target]
    table = {
        "cIoU": Fraction(total_intersection, total_union) if total_union else None,
        "mIoU": mean(overlaps),
        "gIoU": mean(overlaps + without),
        "N-acc": mean(without),
        "T-acc": mean([Fraction(found) for _, found in with_target]),
    }
    for tenths in (5, 6, 7, 8, 9):
        table[f"Pr@0.{tenths}"] = mean([Fraction(overlap > Fraction(tenths, 10)) for overlap in overlaps])
    return table


@settings(deadline=None)
@given(st.lists(answers(), max_size=12))
def test_equal_to_the_naive_reading(samples):
    table = metrics.scores(counts_from(samples)).table()
    expected = naive(samples)
    assert table.keys() == expected.keys()
    for name, share in expected.items():
        assert table[name] == (None if share is None else pytest.approx(float(100 * share), abs=1e-11)), name


@settings(deadline=None)
@given(st.lists(answers(), max_size=12), st.randoms(use_true_random=False))
def test_the_order_of_expressions_changes_no_bit(samples, random):
    shuffled = random.sample(samples, len(samples))
    assert metrics.scores(counts_from(shuffled)).table() == metrics.scores(counts_from(samples)).table()


def test_the_order_of_many_expressions_changes_no_bit():
    """Added up in plain double precision, a thousand IoUs give another sum in another order."""
    rows = [row(intersection=i % 97, predicted=97 + i % 13, target=97 + i % 7) for i in range(1000)]
    by_iou = sorted(rows, key=lambda r: r[0] / r[1])
    assert metrics.scores(counts_of(*rows)).table() == metrics.scores(counts_of(*by_iou)).table()


@settings(deadline=None)
@given(st.lists(answers(), max_size=8), st.integers(1, 5))
def test_repeating_every_expression_changes_no_score(samples, times):
    once, often = counts_from(samples), metrics.concatenate([counts_from(samples)] * times)
    assert len(often) == times * len(once)
    expected = {name: None if v is None else pytest.approx(v) for name, v in metrics.scores(once).table().items()}
    assert metrics.scores(often).table() == expected


@settings(deadline=None)
@given(st.lists(answers(), max_size=8), st.integers(2, 50))
def test_larger_pixels_change_no_score(samples, factor):
    """Every mask enlarged `factor` times in area: ratios of counts stay what they are, to the last bit."""
    counts = counts_from(samples)
    larger = Counts(
        *(getattr(counts, name) * factor for name in ("intersection", "union", "predicted", "target")),
        counts.has_target,
        counts.says_target,
    )
    assert metrics.scores(larger).table() == metrics.scores(counts).table()


@settings(deadline=None)
@given(st.lists(answers(), max_size=12), st.lists(answers(), max_size=12))
def test_concatenate_is_the_counts_of_both(first, second):
    joined = metrics.concatenate([counts_from(first), counts_from(second)])
    for f in fields(Counts):
        np.testing.assert_array_equal(getattr(joined, f.name), getattr(counts_from(first + second), f.name))


@settings(deadline=None)
@given(st.lists(answers(), min_size=1, max_size=12))
def test_identities(samples):
    scores = metrics.scores(counts_from(samples))
    n, none = scores.expressions, scores.no_target
    found = 0 if n == none else scores.mean_iou * (n - none)
    rejected = 0 if none == 0 else scores.no_target_accuracy * none
    assert scores.generalized_iou * n == pytest.approx(found + rejected)
    if none == 0:
        assert scores.generalized_iou == scores.mean_iou
        assert math.isnan(scores.no_target_accuracy)
    if none == n:
        assert scores.generalized_iou == scores.no_target_accuracy
        assert math.isnan(scores.mean_iou)
        assert math.isnan(scores.target_accuracy)
    falling = list(scores.precision.values())
    assert falling == sorted(falling, reverse=True) or none == n
    for share in (scores.overall_iou, scores.mean_iou, scores.generalized_iou, *falling):
        assert math.isnan(share) or 0 <= share <= 1


@settings(deadline=None)
@given(st.lists(answers(), min_size=1, max_size=12))
def test_the_truth_itself_scores_one_wherever_a_score_is_defined(samples):
    perfect = [(true, true, has_target, has_target) for _, true, has_target, _ in samples if true or not has_target]
    assert set(metrics.scores(counts_from(perfect)).table().values()) <= {100.0, None}


@settings(deadline=None)
@given(st.lists(answers(), min_size=1, max_size=12))
def test_an_emptied_answer_raises_no_score_but_those_of_no_target(samples):
    """Answering nothing must not pay on expressions with a target (it did, where 0/0 counted as 1)."""
    with_target = [s for s in samples if s[2]]
    silent = [(set(), true, has, False) for _, true, has, _ in with_target]
    table = metrics.scores(counts_from(silent)).table()
    assert all(value in (0.0, None) for value in table.values())


@settings(deadline=None)
@given(pixel_sets, pixel_sets)
def test_masks_may_change_places_and_be_mirrored(predicted, true):
    p, g = as_mask(predicted), as_mask(true)
    counted = count_pixels(p, g)
    assert counted == (len(predicted & true), len(predicted | true), len(predicted), len(true))
    swapped = count_pixels(g, p)
    assert (swapped.intersection, swapped.union) == (counted.intersection, counted.union)
    assert (swapped.predicted, swapped.target) == (counted.target, counted.predicted)
    assert count_pixels(p[:, ::-1], g[:, ::-1]) == counted == count_pixels(p.T, g.T)


def test_the_vector_of_the_grefcoco_evaluator():
    """Ten expressions as gRefCOCO's evaluator scores them, where its rules and the thesis' text agree.

    They differ in three rules: an IoU of exactly X (a hit there, none here), the pixels of a suppressed mask (in the
    union there; here there are none), and an empty mask that the head calls a target (wrong there, right here).
    """
    ious = [(8, 8), (4, 8), (6, 8), (7, 10), (0, 8)]
    said = [row(i, predicted=u, target=i) if i else row(0, predicted=4, target=4) for i, u in ious]
    silent = [row(0, 0, 8), row(0, 0, 8)]
    none = [RIGHT_NONE, row(0, 0, 0, says_target=True), row(0, predicted=4, target=0)]
    table = metrics.scores(counts_of(*said, *silent, *none)).table()
    assert table["cIoU"] == pytest.approx(100 * 25 / 62)
    assert table["T-acc"] == pytest.approx(71.42857142857143)
    assert table["gIoU"] == pytest.approx(39.5 + 10)  # the empty mask is one right answer more in ten
    assert table["N-acc"] == pytest.approx(100 * 2 / 3)
    assert table["Pr@0.7"] == pytest.approx(100 * 2 / 7)  # 8/8 and 6/8; 7/10 is not higher than 0.7
    assert table["Pr@0.8"] == table["Pr@0.9"] == pytest.approx(100 / 7)
