"""Protocols of boxes and instances against their evaluators written out plainly, pair by pair, and by hand."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from refseg_cli.data import masks
from refseg_cli.evaluation.instances import count_boxes, count_masks, of_mask
from refseg_cli.metrics.concepts import figure
from refseg_cli.metrics.counts import Counts, concatenate
from refseg_cli.metrics.instance_protocols import TWENTIETHS
from refseg_cli.metrics.instances import box_overlaps, count_matches
from refseg_cli.metrics.intervals import differences, estimates
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import ratios, scores
from refseg_cli.records import Detection

CANVAS = 24
sides = st.tuples(*[st.integers(0, 4)] * 2, *[st.integers(0, 4)] * 2)  # x, y, width, height; some without area
levels = st.sampled_from([0.0, 0.4999, 0.5, 0.6999, 0.7, 1.0])


@st.composite
def drawn_phrases(draw):
    """(true boxes, [(box, score)]): none on either side, the truth itself, and anything."""
    true = draw(st.lists(sides, max_size=3))
    boxes = draw(st.one_of(st.lists(sides, max_size=4), st.just(true), st.just([])))
    return true, [(box, draw(levels)) for box in boxes]


# The evaluators, written out


def exact_iou(a, b, kind: str) -> Fraction:
    """In whole numbers, pixel by pixel where edges are pixels; 0 of nothing."""
    edge = 1 if kind == "inclusive" else 0
    span = [sorted((start, start + length)) for start, length in ((a[0], a[2]), (a[1], a[3]))]
    other = [sorted((start, start + length)) for start, length in ((b[0], b[2]), (b[1], b[3]))]
    inter, area, area_b, around = 1, 1, 1, 1
    for (low, high), (low_b, high_b) in zip(span, other, strict=True):
        inter *= max(0, min(high, high_b) - max(low, low_b) + edge)
        area *= high - low + edge
        area_b *= high_b - low_b + edge
        around *= max(high, high_b) - min(low, low_b)
    union = area + area_b - inter
    iou = Fraction(inter, union) if union else Fraction(0)
    if kind != "generalised" or not around:
        return iou
    return iou - Fraction(around - union, around)


def rec(phrases, kind: str) -> float | None:
    """Of phrases with one target: whether the surest box overlaps by half."""
    right = []
    for true, found in phrases:
        if len(true) != 1:
            continue
        if not found:
            right.append(0.0)
            continue
        best = max(range(len(found)), key=lambda i: (found[i][1], -i))
        overlap = exact_iou(found[best][0], true[0], kind)
        right.append(float(overlap > Fraction(1, 2) if kind == "inclusive" else overlap >= Fraction(1, 2)))
    return sum(right) / len(right) if right else None


def grec(phrases, kind: str) -> dict[str, float | None]:
    f1s, none, some = [], [], []
    for true, found in phrases:
        sure = [(-score, i) for i, (_, score) in enumerate(found) if score >= 0.7]
        boxes = [found[i][0] for _, i in sorted(sure)]
        if not true:
            none.append(float(not boxes))
            f1s.append(float(not boxes))
            continue
        some.append(float(bool(boxes)))
        left, right = set(range(len(boxes))), set(range(len(true)))
        pairs = 0
        while left and right:
            value, i, j = max((exact_iou(boxes[i], true[j], kind), -i, -j) for i, j in itertools.product(left, right))
            if value < Fraction(1, 2):
                break
            pairs += 1
            left.remove(-i)
            right.remove(-j)
        f1s.append(2 * pairs / (2 * pairs + len(boxes) - pairs + len(true) - pairs))
    mean = lambda values: sum(values) / len(values) if values else None  # noqa: E731
    return {"F1": mean([float(f1 == 1) for f1 in f1s]), "N-acc": mean(none), "T-acc": mean(some)}


def pixels_of(box) -> frozenset:
    x, y, width, height = box
    return frozenset((row, column) for row in range(y, y + height) for column in range(x, x + width))


def sa_co(phrases) -> dict[str, float | None]:
    """Every assignment tried; one threshold after the other."""
    f1s = []
    presence = {"TP": 0, "FN": 0, "FP": 0, "TN": 0}
    matches = []
    for true, found in phrases:
        sure = [box for box, score in found if score >= 0.5]
        presence[{(1, 1): "TP", (1, 0): "FN", (0, 1): "FP", (0, 0): "TN"}[bool(true), bool(sure)]] += 1
        if not true:
            continue
        best = max(assignments(sure, true), key=math.fsum)
        matches.append((best, len(sure), len(true)))
    for threshold in np.linspace(0.5, 0.95, 10):
        tp = sum(value >= threshold for best, _, _ in matches for value in best)
        fp, fn = sum(p for _, p, _ in matches) - tp, sum(t for _, _, t in matches) - tp
        precision, recall = tp / (tp + fp + 1e-4), tp / (tp + fn + 1e-4)
        f1s.append(2 * precision * recall / (precision + recall + 1e-4))
    tp, fn, fp, tn = presence.values()
    mcc = (tp * tn - fp * fn) / (((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)) ** 0.5 + 1e-6)
    pm_f1 = sum(f1s) / 10 if matches else None
    il_mcc = mcc if tp + fn and fp + tn else None
    cg_f1 = sum(f1 * mcc for f1 in f1s) / 10 if pm_f1 is not None and il_mcc is not None else None
    return {"cgF1": cg_f1, "pmF1": pm_f1, "IL_MCC": il_mcc}


def assignments(sure: list, true: list) -> list[list[float]]:
    """The IoUs of the pairs, of every way to pair all that can be paired."""
    ious = np.array([[iou_of(pixels_of(p), pixels_of(t)) for t in true] for p in sure]).reshape(len(sure), len(true))
    short = ious if len(sure) <= len(true) else ious.T
    orders = itertools.permutations(range(short.shape[1]), short.shape[0])
    return [sorted(short[i, j] for i, j in enumerate(order)) for order in orders]


def iou_of(a: frozenset, b: frozenset) -> float:
    return len(a & b) / len(a | b) if a | b else 0.0


# Ours


def detection(box, score) -> Detection:
    mask = np.zeros((CANVAS, CANVAS), dtype=bool)
    for row, column in pixels_of(box):
        mask[row, column] = True
    return Detection(box, score, masks.encode(mask))


def counts_of(phrases, name: str) -> Counts:
    matching = PROTOCOLS[name].matching
    rows = []
    for true, found in phrases:
        said = [detection(*one) for one in found]
        if matching.of == "boxes":
            rows.append(count_boxes(said, true, matching))
        else:
            rows.append(count_masks(said, [detection(box, 1).rle for box in true], matching))
    table = np.array(rows, dtype=np.int64).reshape(len(phrases), len(matching.thresholds), 3)
    has = np.array([bool(true) for true, _ in phrases], dtype=bool)
    return Counts(*table[:, 0].T, has, table[:, 0, 1] > 0, further=table[:, 1:, 0])


def table_of(phrases, name: str) -> dict[str, float | None]:
    return scores(counts_of(phrases, name), PROTOCOLS[name]).table()


def same(found: dict, expected: dict) -> None:
    assert list(found) == list(expected)
    for metric, value in expected.items():
        assert found[metric] == (None if value is None else pytest.approx(100 * value, abs=1e-9)), metric


@pytest.mark.parametrize(
    ("name", "kind"), [("rec", "iou"), ("rec-inclusive", "inclusive"), ("rec-giou", "generalised")]
)
def test_rec_equals_the_evaluator_written_out(name, kind):
    @settings(deadline=None, max_examples=80)
    @given(st.lists(drawn_phrases(), max_size=8))
    def check(phrases):
        same(table_of(phrases, name), {"Acc@0.5": rec(phrases, kind)})

    check()


@pytest.mark.parametrize(("name", "kind"), [("grec", "generalised"), ("grec-iou", "iou")])
def test_grec_equals_the_evaluator_written_out(name, kind):
    @settings(deadline=None, max_examples=80)
    @given(st.lists(drawn_phrases(), max_size=8))
    def check(phrases):
        same(table_of(phrases, name), grec(phrases, kind))

    check()


def apart(phrase) -> bool:
    """Whether one assignment is best: with several, which pairs are counted is anybody's choice, the official too."""
    true, found = phrase
    sure = [box for box, score in found if score >= 0.5]
    sums = {tuple(values): math.fsum(values) for values in assignments(sure, true)}
    return sum(value > max(sums.values()) - 1e-9 for value in sums.values()) == 1


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(drawn_phrases().filter(apart), max_size=6))
def test_sa_co_equals_the_evaluator_written_out(phrases):
    same(table_of(phrases, "sa-co"), sa_co(phrases))


# By hand

ONE, FAR = (0, 0, 4, 4), (20, 20, 4, 4)
HALF = (0, 0, 4, 2)  # 8 of 16 pixels: exactly one half


def test_what_is_predicted_where_there_is_nothing_and_nothing_where_there_is():
    empty, alarm, missed, right = ([], []), ([], [(ONE, 1.0)]), ([ONE], []), ([ONE], [(ONE, 1.0)])
    same(table_of([empty, alarm, missed, right], "grec"), {"F1": 0.5, "N-acc": 0.5, "T-acc": 0.5})
    same(table_of([empty, alarm, missed, right], "rec"), {"Acc@0.5": 0.5})
    # TP, TN, FP and FN are 1 each: no correlation. Of two true instances one is found, by all thresholds.
    found = table_of([empty, alarm, missed, right], "sa-co")
    p, r = 1 / 1.0001, 1 / 2.0001
    same(found, {"cgF1": 0, "pmF1": 2 * p * r / (p + r + 1e-4), "IL_MCC": 0})
    same(table_of([empty], "sa-co"), {"cgF1": None, "pmF1": None, "IL_MCC": None})
    same(table_of([], "grec"), {"F1": None, "N-acc": None, "T-acc": None})


def test_both_empty_is_a_true_negative_of_presence_only():
    right, empty = ([ONE], [(ONE, 1.0)]), ([], [])
    one, more = (table_of([right] + [empty] * n, "sa-co") for n in (1, 3))
    assert one["pmF1"] == more["pmF1"]
    assert one["IL_MCC"] == pytest.approx(100, abs=1e-3)
    assert more["IL_MCC"] > one["IL_MCC"]  # by its epsilon alone


@pytest.mark.parametrize(("name", "passes"), [("rec", True), ("rec-inclusive", True), ("rec-giou", True)])
def test_exactly_one_half(name, passes):
    """8 of 16 pixels; with the edges of the box (5 x 3 of 5 x 5) 15 of 25."""
    assert table_of([([ONE], [(HALF, 1.0)])], name)["Acc@0.5"] == 100 * passes


def test_an_inclusive_box_must_have_more_than_one_half():
    """9 x 4 pixels of 9 x 8, edges included."""
    whole, half = (0, 0, 8, 7), (0, 0, 8, 3)
    assert table_of([([whole], [(half, 1.0)])], "rec-inclusive")["Acc@0.5"] == 0
    assert table_of([([whole], [((0, 0, 8, 4), 1.0)])], "rec-inclusive")["Acc@0.5"] == 100


def test_the_two_readings_and_the_generalised_one_part():
    """5 x 1 in 5 x 2 and a pixel beside it: plain 5/11, inclusive 12/22, generalised 5/11 - 1/12."""
    assert box_overlaps([(0, 0, 2, 1)], [(0, 0, 1, 2)], "iou").item() == 1 / 3
    assert box_overlaps([(0, 0, 2, 1)], [(0, 0, 1, 2)], "inclusive").item() == 4 / 8
    assert box_overlaps([(0, 0, 2, 1)], [(0, 0, 1, 2)], "generalised").item() == 1 / 3 - 1 / 4
    assert box_overlaps([ONE], [FAR], "generalised").item() == -(24 * 24 - 32) / (24 * 24)
    assert box_overlaps([(3, 3, 0, 0)], [(3, 3, 0, 0)], "generalised").item() == 0
    assert box_overlaps([], [ONE], "iou").shape == (0, 1)


@pytest.mark.parametrize(("score", "expected"), [(0.7, 100), (0.6999, 0)])
def test_boxes_count_from_their_score_on(score, expected):
    found = table_of([([ONE], [(ONE, score)])], "grec")
    assert (found["F1"], found["T-acc"]) == (expected, expected)


@pytest.mark.parametrize("threshold", TWENTIETHS)
def test_an_overlap_of_exactly_each_threshold_counts(threshold):
    """As COCO's numbers have it, and not a bit below."""
    matching = PROTOCOLS["sa-co"].matching
    assert matching.thresholds == tuple(np.linspace(0.5, 0.95, 10))
    one = replace(matching, thresholds=(threshold,))
    at = np.array([[threshold]])
    assert count_matches(at, np.ones(1), one) == ((1, 1, 1),)
    assert count_matches(np.nextafter(at, 0), np.ones(1), one) == ((0, 1, 1),)


def test_greedy_takes_the_largest_first_and_optimal_the_largest_sum():
    overlaps, sure = np.array([[0.9, 0.8], [0.8, 0.1]]), np.ones(2)
    (greedy,) = count_matches(overlaps, sure, PROTOCOLS["grec"].matching)
    assert greedy == (1, 2, 2)
    assert count_matches(overlaps, sure, PROTOCOLS["sa-co"].matching)[0] == (2, 2, 2)


def test_rec_reads_the_surest_box_and_the_first_of_equally_sure_ones():
    assert table_of([([ONE], [(FAR, 0.5), (ONE, 0.7)])], "rec")["Acc@0.5"] == 100
    assert table_of([([ONE], [(FAR, 0.7), (ONE, 0.7)])], "rec")["Acc@0.5"] == 0
    assert table_of([([ONE, FAR], [(ONE, 1.0)]), ([], [(ONE, 1.0)])], "rec")["Acc@0.5"] is None


def test_a_mask_is_one_instance_and_an_empty_one_none():
    mask = np.zeros((5, 6), dtype=bool)
    assert of_mask(masks.encode(mask)) == ()
    mask[1:3, 2:6] = True
    (found,) = of_mask(masks.encode(mask))
    assert (found.box, found.score, found.rle) == ((2, 1, 4, 2), 1.0, masks.encode(mask))


# Concepts in tables, intervals and comparisons


def drawn(seed: int, n: int = 80) -> list:
    rng = np.random.default_rng(seed)
    places = [(6 * i, 0, 5, 5) for i in range(2)]
    phrases = []
    for _ in range(n):
        true = places[: int(rng.integers(0, 3))]
        found = [((x + int(rng.integers(0, 3)), y, w, h), float(rng.random())) for x, y, w, h in places]
        phrases.append((true, found[: int(rng.integers(0, 3))]))
    return phrases


@pytest.fixture(scope="module")
def many() -> Counts:
    return counts_of(drawn(0), "sa-co")


def test_rows_of_the_table_are_scores_of_the_rows_and_order_changes_no_bit(many):
    table, keep = ratios(many, PROTOCOLS["sa-co"]), np.arange(80) % 3 > 0
    expected = scores(many.rows(keep), PROTOCOLS["sa-co"]).values
    np.testing.assert_array_equal(table.values(keep), list(expected.values()))
    order = np.random.default_rng(1).permutation(80)
    assert scores(many.rows(order), PROTOCOLS["sa-co"]).table() == scores(many, PROTOCOLS["sa-co"]).table()
    parts = [many.rows(np.arange(80) < 30), many.rows(np.arange(80) >= 30)]
    assert scores(concatenate(parts), PROTOCOLS["sa-co"]).table() == scores(many, PROTOCOLS["sa-co"]).table()


def test_an_interval_is_what_leaving_out_each_picture_changes(many):
    images, protocol = np.arange(80) // 2, PROTOCOLS["sa-co"]
    (found,) = estimates([(ratios(many, protocol), None)], images)
    for name, value in scores(many, protocol).values.items():
        without = [scores(many.rows(images != i), protocol).values[name] for i in range(40)]
        each = value - np.array(without)
        estimate = found[name]
        assert estimate.value == value
        assert estimate.images == 40 if name != "pmF1" else estimate.images <= 40
        pictures = 40 if name != "pmF1" else len({i for i in range(40) if many.target[images == i].any()})
        spread = math.sqrt((pictures - 1) / pictures * (each**2).sum())
        assert (estimate.high - estimate.low) / 2 > 1.9 * spread
        assert (estimate.high - estimate.low) / 2 < 2.3 * spread
        assert (estimate.high + estimate.low) / 2 == pytest.approx(value)


def test_few_pictures_of_either_kind_have_no_interval(many):
    (found,) = estimates([(ratios(many, PROTOCOLS["sa-co"]), None)], np.arange(80) // 9)
    assert all(math.isnan(estimate.low) for estimate in found.values())


def test_perfect_answers_have_an_interval_with_a_width():
    phrases = [([ONE], [(ONE, 1.0)]), ([], [])] * 20
    (found,) = estimates([(ratios(counts_of(phrases, "sa-co"), PROTOCOLS["sa-co"]), None)], np.arange(40))
    assert all(0.8 < estimate.low < 0.99 <= estimate.high for estimate in found.values())


def test_a_comparison_with_itself_and_with_others(many):
    protocol, images = PROTOCOLS["sa-co"], np.arange(80)
    true = [true for true, _ in drawn(0)]
    better = counts_of([(t, [(box, 1.0) for box in t]) for t in true], "sa-co")
    itself = differences(ratios(many, protocol), ratios(many, protocol), images, swaps=200)
    gained = differences(ratios(many, protocol), ratios(better, protocol), images, swaps=200)
    back = differences(ratios(better, protocol), ratios(many, protocol), images, swaps=200)
    for name, one in itself.items():
        assert (one.value, one.p) == (0, 1)
        assert 0 < gained[name].low < gained[name].value
        assert gained[name].p == 1 / 201
        assert back[name].value == -gained[name].value


def test_p_of_few_pictures_is_over_all_swaps():
    """Three pictures that differ: the swaps that reach as far are all or none of them."""
    worse = [([ONE], [])] * 3 + [([ONE], [(ONE, 1.0)])] * 8 + [([], [])] * 12
    better = [([ONE], [(ONE, 1.0)])] * 11 + [([], [])] * 12
    tables = [ratios(counts_of(phrases, "sa-co"), PROTOCOLS["sa-co"]) for phrases in (worse, better)]
    found = differences(*tables, np.arange(23))
    assert {d.p for d in found.values()} == {2 / 8}


def test_nothing_over_nothing_is_undefined():
    assert math.isnan(figure("pmF1", np.zeros(16)))
    assert math.isnan(figure("cgF1", np.array([1, 0, 0, 0, 1, 1, *[1] * 10], dtype=float)))
    assert figure("IL_MCC", np.array([1, 0, 1, 0, 1, 1, *[1] * 10], dtype=float)) == 0  # all of one answer
