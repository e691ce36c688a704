"""Every protocol's rules by hand, the empty cases first."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from rows import NAN, counts_of, row

from refseg_cli.metrics.exact import exact_sum
from refseg_cli.metrics.protocols import PROTOCOLS, REFSEG
from refseg_cli.metrics.scores import ratios, sample_iou, scores

HIT = row(intersection=6, predicted=8, target=8)  # 6 / 10
MISSED = row(intersection=0, predicted=0, target=5)
ELSEWHERE = row(intersection=0, predicted=3, target=4)
RIGHT_NONE = row(intersection=0, predicted=0, target=0)
FALSE_ALARM = row(intersection=0, predicted=7, target=0)
EMPTY_TARGET_EMPTY = row(intersection=0, predicted=0, target=0, has_target=True)  # annotated, but without a pixel
EMPTY_TARGET_PREDICTED = row(intersection=0, predicted=2, target=0, has_target=True)


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
def test_refseg_by_hand(rows, cIoU, mIoU, gIoU, pr50, n_acc, t_acc):
    found = scores(counts_of(*rows))
    expected = {"cIoU": cIoU, "mIoU": mIoU, "gIoU": gIoU, "Pr@0.5": pr50, "N-acc": n_acc, "T-acc": t_acc}
    table = found.table()
    for name, value in expected.items():
        assert table[name] == (None if math.isnan(value) else pytest.approx(100 * value, abs=1e-12)), name
    assert found.expressions == len(rows)
    assert found.no_target == sum(not r[3] for r in rows)


HEAD_SAYS_YES, HEAD_SAYS_NO = 0.5, 0.4999  # the argmax of two: a tie is a target
SMALL, LARGE = 49, 50  # pixels


@pytest.mark.parametrize(
    ("protocol", "sample", "iou"),
    [
        # nothing predicted where nothing is: each repository's own answer
        ("lavt", RIGHT_NONE, 0),
        ("cris", RIGHT_NONE, 0),
        ("cgformer", RIGHT_NONE, 0),
        ("vlt", RIGHT_NONE, 1),
        ("asda", RIGHT_NONE, 1),
        ("rela", RIGHT_NONE, 1),
        ("mmdet", RIGHT_NONE, 0),
        ("phrasecut", RIGHT_NONE, 0),
        ("phrasecut", EMPTY_TARGET_EMPTY, 0),
        ("phrasecut", HIT, 0.6),
        ("lisa", RIGHT_NONE, 1),
        ("thesis", RIGHT_NONE, 1),
        ("thesis-50pix", RIGHT_NONE, 1),
        # a mask where nothing is
        ("lavt", FALSE_ALARM, 0),
        ("cris", FALSE_ALARM, 0),
        ("vlt", FALSE_ALARM, 1e-10 / (7 + 1e-10)),
        ("rela", row(0, LARGE, 0), 0),
        ("rela", row(0, SMALL, 0), 1),
        ("thesis", row(0, LARGE, 0), 0),
        ("thesis", row(0, SMALL, 0), 1),
        ("lisa", FALSE_ALARM, 0),
        # a no-target head: ReLA's evaluator hears nothing else, the thesis looks at what is left of the mask
        ("rela", row(0, 0, 0, p_target=HEAD_SAYS_YES), 0),
        ("rela", row(0, 900, 0, p_target=HEAD_SAYS_NO), 1),
        ("thesis", row(0, 0, 0, p_target=HEAD_SAYS_YES), 1),
        ("thesis", row(0, 900, 0, p_target=HEAD_SAYS_NO), 1),
        ("thesis", row(0, SMALL, 0, p_target=HEAD_SAYS_YES), 0),
        ("thesis-50pix", row(0, 900, 0, p_target=HEAD_SAYS_NO), 0),
        ("thesis-50pix", row(0, SMALL, 0, p_target=HEAD_SAYS_YES), 1),
        # GSVA's reject token, and without one an empty mask; a rejected target is asked again
        ("gsva", RIGHT_NONE, 1),
        ("gsva", FALSE_ALARM, 0),
        ("gsva", row(0, 0, 0, p_target=HEAD_SAYS_YES), 0),
        ("gsva", row(0, 900, 0, p_target=HEAD_SAYS_NO), 1),
        ("gsva", row(6, 8, 8, p_target=HEAD_SAYS_NO), 6 / (10 + 1e-8)),
        ("gsva", row(6, 8, 8, p_target=HEAD_SAYS_YES), 6 / (10 + 1e-8)),
        ("gsva", MISSED, 0),
        ("gsva", EMPTY_TARGET_EMPTY, 1),
        ("gsva", EMPTY_TARGET_PREDICTED, 0),
        # a target
        ("lavt", HIT, 0.6),
        ("cris", HIT, 6 / (10 + 1e-6)),
        ("cgformer", HIT, 6 / (10 + 1e-6)),
        ("vlt", HIT, (6 + 1e-10) / (10 + 1e-10)),
        ("lisa", HIT, 6 / (10 + 1e-5)),
        ("rela", HIT, 0),  # eight pixels are fewer than fifty, and there is no head
        ("rela", row(6, 8, 8, p_target=HEAD_SAYS_YES), 0.6),
        ("rela", row(6, 8, 8, p_target=HEAD_SAYS_NO), 0),
        ("rela", row(60, 80, 80), 0.6),
        ("thesis", row(60, 80, 80), 0.6),
        ("thesis", HIT, 0),
        # a target annotated without a pixel
        ("lavt", EMPTY_TARGET_EMPTY, 0),
        ("vlt", EMPTY_TARGET_EMPTY, 1),
        ("lisa", EMPTY_TARGET_EMPTY, 1),
        ("thesis", EMPTY_TARGET_EMPTY, 0),
        ("rela", row(0, 0, 0, has_target=True, p_target=HEAD_SAYS_YES), 0),
    ],
)
def test_one_sample_by_hand(protocol, sample, iou):
    assert sample_iou(counts_of(sample), PROTOCOLS[protocol]).tolist() == [iou]


def test_the_union_of_a_denied_target_is_where_protocols_part():
    """Four pixels predicted, eight true, none shared, and the head denies it: 12 in ReLA's union, 8 in the thesis'."""
    found = counts_of(row(0, 4, 8, p_target=HEAD_SAYS_NO), row(5, 5, 5, p_target=HEAD_SAYS_YES))
    assert scores(found, PROTOCOLS["rela"]).values["cIoU"] == 5 / (12 + 5)
    assert scores(found, PROTOCOLS["thesis"]).values["cIoU"] == 5 / (8 + 5)
    assert scores(found, PROTOCOLS["cgformer"]).values["oIoU"] == 5 / (12 + 5)


def test_gsva_by_hand():
    """A hit, a rejected target whose mask is the same hit, two no-targets: one rejected, one with seven pixels."""
    rows = [
        row(6, 8, 8, p_target=HEAD_SAYS_YES),
        row(6, 8, 8, p_target=HEAD_SAYS_NO),
        row(0, 5, 0, p_target=HEAD_SAYS_NO),
        row(0, 7, 0, p_target=HEAD_SAYS_YES),
    ]
    found = scores(counts_of(*rows), PROTOCOLS["gsva"]).values
    assert found["gIoU"] == pytest.approx((0.6 + 0.6 + 1 + 0) / 4)
    assert (found["cIoU"], found["N-acc"], found["T-acc"]) == (12 / 27, 1 / 2, 1 / 2)
    elsewhere = scores(counts_of(*rows), PROTOCOLS["gsva-zom"]).values
    assert {**elsewhere, "cIoU": 12 / 27} == found
    assert elsewhere["cIoU"] == 12 / 20
    assert scores(counts_of(*rows), PROTOCOLS["rela"]).values["gIoU"] == pytest.approx((0.6 + 0 + 1 + 0) / 4)


def test_an_empty_truth_is_no_target_to_gsva_however_it_was_annotated():
    found = scores(counts_of(EMPTY_TARGET_EMPTY, EMPTY_TARGET_PREDICTED, HIT), PROTOCOLS["gsva"]).values
    assert (found["N-acc"], found["T-acc"], found["cIoU"]) == (1 / 2, 1, 6 / (10 + 2))


def test_ref_zom_by_hand():
    """Targets alone make the IoUs, and a single pixel is a false alarm, whatever a head says of it."""
    rows = [
        row(6, 8, 8, says_target=False, p_target=HEAD_SAYS_NO),
        MISSED,
        row(0, 0, 0, says_target=True, p_target=HEAD_SAYS_YES),
        row(0, 1, 0, says_target=False, p_target=HEAD_SAYS_NO),
    ]
    found = scores(counts_of(*rows), PROTOCOLS["ref-zom"]).values
    assert (found["oIoU"], found["mIoU"], found["Acc"]) == (6 / 15, 0.6 / 2, 1 / 2)
    assert (found["Pr@0.6"], found["Pr@0.7"]) == (1 / 2, 0)
    none = scores(counts_of(RIGHT_NONE, FALSE_ALARM), PROTOCOLS["ref-zom"]).values
    assert none["Acc"] == 1 / 2
    assert all(math.isnan(value) for name, value in none.items() if name != "Acc")


def test_cohd_by_hand():
    """Two of three no-targets found and one target denied: precision 2/3, recall 2/3, and so F2."""
    says, denies = HEAD_SAYS_YES, HEAD_SAYS_NO
    rows = [row(0, 0, 0, p_target=p) for p in (denies, denies, says)]
    rows += [row(6, 8, 8, p_target=p) for p in (denies, says)]
    found = scores(counts_of(*rows), PROTOCOLS["cohd"]).values
    assert (found["F2"], found["N+T-acc"]) == (10 / 15, 7 / 6)
    assert {name: found[name] for name in scores(counts_of(*rows), PROTOCOLS["rela"]).values} == scores(
        counts_of(*rows), PROTOCOLS["rela"]
    ).values
    for alone, f2 in (([HIT], 0), ([row(6, 8, 8, p_target=says)], NAN), ([RIGHT_NONE], 1), ([row(0, 90, 0)], 0)):
        values = scores(counts_of(*alone), PROTOCOLS["cohd"]).values
        assert math.isnan(values["N+T-acc"])
        assert values["F2"] == f2 or (math.isnan(f2) and math.isnan(values["F2"]))


def test_r_refcoco_by_hand():
    """Three references: hits and a false alarm; a miss and a right none; no-target phrases alone, one of two right."""
    hit, more = row(6, 8, 8), row(4, 6, 8)
    rows = [hit, row(0, 7, 0), more, RIGHT_NONE, MISSED, RIGHT_NONE, FALSE_ALARM]
    references = np.array([3, 3, 3, 1, 1, 2, 2])
    found = scores(counts_of(*rows), PROTOCOLS["r-refcoco"], references).values
    assert found["mRR"] == pytest.approx((0 / 1 + 1 / 1 + 1 / 2) / 3)
    assert found["rIoU"] == pytest.approx((10 / (10 + 10 + 7) + 0 / 5 + 0 / 7) / 3)
    assert found["mIoU"] == pytest.approx(((6 / 10 + 4 / 10) / 2 + 0) / 2)
    assert found["oIoU"] == 10 / 25
    alone = scores(counts_of(hit), PROTOCOLS["r-refcoco"], np.array([5])).values
    assert (math.isnan(alone["mRR"]), alone["rIoU"]) == (True, 0.6)
    silent = scores(counts_of(RIGHT_NONE, EMPTY_TARGET_EMPTY), PROTOCOLS["r-refcoco"], np.array([5, 5])).values
    assert (silent["mRR"], silent["mIoU"], math.isnan(silent["rIoU"])) == (1, 0, True)
    assert all(math.isnan(v) for v in scores(counts_of(), PROTOCOLS["r-refcoco"], np.zeros(0)).values.values())


def test_relas_evaluator_to_the_last_digit():
    """The published evaluator's output on ten samples (goldens/README-lavt-rela-cris.md, section 5)."""
    yes, no = 0.9, 0.1
    samples = [
        row(8, 8, 8, p_target=yes),
        row(4, 4, 8, p_target=yes),
        row(6, 6, 8, p_target=yes),
        row(7, 7, 10, p_target=yes),
        row(0, 0, 8, p_target=yes),
        row(4, 4, 8, p_target=no),
        row(0, 4, 4, p_target=no),
        row(0, 4, 0, p_target=no),
        row(0, 0, 0, p_target=yes),
        row(0, 4, 0, p_target=yes),
    ]
    found = scores(counts_of(*samples), PROTOCOLS["rela"])
    table = found.table()
    assert table["gIoU"] == 39.5
    assert table["cIoU"] == 40.32258064516129
    assert found.values["T-acc"] == 0.7142857142857143
    assert found.values["N-acc"] == 0.3333333333333333
    assert table["Pr@0.7"] == 42.857142857142854
    assert table["Pr@0.8"] == table["Pr@0.9"] == 14.285714285714286
    # Where it divides by zero, or reports 0 without any sample to divide by, the metric is undefined here.
    alone = scores(counts_of(*samples[7:]), PROTOCOLS["rela"]).table()
    assert (alone["T-acc"], alone["Pr@0.7"]) == (None, None)


@pytest.mark.parametrize(
    ("protocol", "tenths", "passes"),
    [
        # strict, and tenths are the doubles that 5/10 .. 9/10 divide to
        *(("refseg", tenths, False) for tenths in (5, 6, 7, 8, 9)),
        *(("phrasecut", tenths, False) for tenths in (5, 6, 7, 8, 9)),
        *(("thesis", tenths, False) for tenths in (7, 8, 9)),
        *(("lavt", tenths, True) for tenths in (5, 6, 7, 8, 9)),
        *(("ref-zom", tenths, True) for tenths in (5, 6, 7, 8, 9)),
        *(("rela", tenths, True) for tenths in (7, 8, 9)),
        # single precision: 0.7 and 0.9 are rounded down, 0.6 and 0.8 up, 0.5 not at all
        *((name, tenths, tenths in (7, 9)) for name in ("cris", "cgformer") for tenths in (5, 6, 7, 8, 9)),
        # the smoothing lifts every tenth by more than the rounding of the thresholds
        *(("vlt", tenths, True) for tenths in (5, 6, 7, 8, 9)),
    ],
)
def test_an_iou_of_exactly_x(protocol, tenths, passes):
    at = counts_of(row(100 * tenths, 1000, 100 * tenths, says_target=True))
    found = scores(at, PROTOCOLS[protocol]).values[f"Pr@0.{tenths}"]
    assert found == float(passes)


@pytest.mark.parametrize("scale", [1, 3, 7, 123_457, 10_000_000_019])
@pytest.mark.parametrize("tenths", [5, 6, 7, 8, 9])
def test_precision_is_exact_at_any_number_of_pixels(tenths, scale):
    at = row(tenths * scale, 10 * scale, tenths * scale)
    above = row(tenths * scale + 1, 10 * scale, tenths * scale + 1)
    below = row(tenths * scale - 1, 10 * scale, tenths * scale - 1)
    name = f"Pr@0.{tenths}"
    assert scores(counts_of(at, below)).values[name] == 0
    assert scores(counts_of(above)).values[name] == 1
    inclusive = replace(REFSEG, strict=False)
    assert scores(counts_of(at, above), inclusive).values[name] == 1
    assert scores(counts_of(below), inclusive).values[name] == 0


def test_an_empty_mask_is_no_target_even_where_the_model_says_otherwise():
    """6.4.1 looks for foreground pixels; a head that says "target" over an empty mask found nothing."""
    says = counts_of(row(0, 0, 0, says_target=True), row(0, 0, 4, says_target=True))
    found = scores(says).values
    assert (found["N-acc"], found["T-acc"]) == (1, 0)


def test_refseg_follows_the_models_own_decision():
    denied = counts_of(row(6, 8, 8, says_target=False), row(0, 9, 0, says_target=False))
    found = scores(denied).values
    assert (found["cIoU"], found["gIoU"], found["N-acc"], found["T-acc"]) == (0, 0.5, 1, 0)


def test_the_names_are_those_of_the_papers_in_their_order():
    fifths = ["Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9"]
    expected = ["cIoU", "mIoU", "gIoU", *fifths, "N-acc", "T-acc"]
    assert list(scores(counts_of(HIT)).table()) == expected
    assert list(scores(counts_of(HIT), PROTOCOLS["cris"]).table()) == ["IoU", *fifths]
    for protocol in PROTOCOLS.values():
        names = [metric.name for metric in protocol.metrics]
        assert len(set(names)) == len(names)
        assert set(protocol.headline) <= set(names)


@pytest.mark.parametrize("n", [0, 1, 2, 3, 1000, 4097])
@pytest.mark.parametrize("spread", [0, 1, 20, 200])
def test_exact_sums_are_those_of_fsum(n, spread):
    """Of fractions, of numbers of either sign, and of many magnitudes; 0.1 ten times is 1."""
    rng = np.random.default_rng(n + spread)
    values = rng.normal(size=n) * 10.0 ** -rng.uniform(0, spread, n)
    for column in (values, np.abs(values), values**2, -values, np.zeros(n), np.full(n, 0.1), rng.random(n) / 3):
        assert exact_sum(column) == math.fsum(column.tolist())
    assert exact_sum(np.array([1e16, 1.0, -1e16])) == 1.0


def test_flags_are_held_as_flags():
    table = ratios(counts_of(*(row(7, 9, 8) for _ in range(100))))
    held = {id(column): column.nbytes for column in (*table.numerators, *table.denominators)}
    assert sum(held.values()) <= 100 * (3 * 8 + 20)  # IoU, intersection, union; a byte for each flag
