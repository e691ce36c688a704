"""Every protocol against its evaluator written out plainly (naive.py), and what holds for any answers."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import EVALUATORS, Sample, r_refcoco
from rows import NAN, counts_of, row

from refseg_cli.metrics.counts import Counts, concatenate
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import ratios, scores

GRID = 8  # 64 pixels, so that fifty can be passed
bits = st.one_of(st.integers(0, 2**64 - 1), st.sampled_from([0, 1, 2**49 - 1, 2**50 - 1, 2**64 - 1]))
pixel_sets = bits.map(lambda number: frozenset(place for place in range(GRID * GRID) if number >> place & 1))
heads = st.one_of(st.none(), st.sampled_from([0.0, 0.4999, 0.5, 0.75, 1.0]))


@st.composite
def drawn_samples(draw):
    has_target = draw(st.booleans())
    true = draw(pixel_sets) if has_target else frozenset()
    return Sample(draw(st.one_of(pixel_sets, st.just(true))), true, has_target, draw(heads))


def counts_from(samples: list[Sample]) -> Counts:
    return counts_of(
        *(
            row(
                len(s.predicted & s.true),
                len(s.predicted),
                len(s.true),
                s.has_target,
                bool(s.predicted),
                NAN if s.p_target is None else s.p_target,
            )
            for s in samples
        )
    )


PIXELS = [name for name, protocol in PROTOCOLS.items() if not protocol.matching]  # the others: test_instances.py


@pytest.mark.parametrize("name", [name for name in PIXELS if name != "refseg"])
def test_equal_to_the_evaluator_written_out(name):
    assert set(EVALUATORS) == set(PIXELS) - {"refseg"}

    @settings(deadline=None, max_examples=60)
    @given(st.lists(drawn_samples(), max_size=12))
    def check(samples):
        table = scores(counts_from(samples), PROTOCOLS[name]).table()
        expected = EVALUATORS[name](samples)
        assert list(table) == list(expected)
        for metric, value in expected.items():
            assert table[metric] == (None if value is None else pytest.approx(100 * value, abs=1e-9)), metric

    check()


@settings(deadline=None)
@given(st.lists(st.tuples(drawn_samples(), st.integers(0, 4)), max_size=14))
def test_r_refcoco_reference_by_reference(drawn):
    samples, references = [s for s, _ in drawn], [r for _, r in drawn]
    table = scores(counts_from(samples), PROTOCOLS["r-refcoco"], np.array(references, dtype=np.int64)).table()
    for metric, value in r_refcoco(samples, references).items():
        assert table[metric] == (None if value is None else pytest.approx(100 * value, abs=1e-9)), metric


@settings(deadline=None)
@given(st.lists(drawn_samples(), max_size=12))
def test_refseg_with_its_defaults_is_the_thesis_without_the_fifty_pixels(samples):
    """An answer of one pixel is an answer; the head, where there is one, is heard at 0.5."""
    counts = counts_from(samples)
    says = np.where(counts.has_head, counts.p_target >= 0.5, True) & (counts.predicted >= 1)
    ours = scores(replace(counts, says_target=says)).values
    thesis = PROTOCOLS["thesis"]
    theirs = scores(counts, replace(thesis, absence=replace(thesis.absence, pixels=1))).values
    for name, value in theirs.items():
        assert ours[name] == value or (math.isnan(ours[name]) and math.isnan(value)), name


@pytest.mark.parametrize("name", PROTOCOLS)
def test_the_order_of_many_expressions_changes_no_bit(name):
    """Added up in plain double precision, a thousand IoUs give another sum in nearly every other order."""
    rows = [row(i % 97, 97 + i % 13, 97 + i % 7, p_target=(i % 11) / 10) for i in range(1000)]
    counts, rng = counts_of(*rows), np.random.default_rng(0)
    expected = scores(counts, PROTOCOLS[name]).table()
    for _ in range(20):
        assert scores(counts.rows(rng.permutation(1000)), PROTOCOLS[name]).table() == expected


def test_the_order_of_a_references_phrases_changes_no_bit():
    rows = [row(i % 97, 97 + i % 13, 97 + i % 7) if i % 3 else row(0, i % 5, 0) for i in range(1000)]
    counts, references, rng = counts_of(*rows), np.arange(1000) // 9, np.random.default_rng(0)
    expected = scores(counts, PROTOCOLS["r-refcoco"], references).table()
    for _ in range(20):
        order = rng.permutation(1000)
        assert scores(counts.rows(order), PROTOCOLS["r-refcoco"], references[order]).table() == expected


@settings(deadline=None)
@given(st.lists(drawn_samples(), max_size=8), st.integers(1, 5), st.sampled_from(PIXELS))
def test_repeating_every_expression_changes_no_score(samples, times, name):
    once, often = counts_from(samples), concatenate([counts_from(samples)] * times)
    assert len(often) == times * len(once)
    expected = scores(once, PROTOCOLS[name]).table()
    known = {metric: None if v is None else pytest.approx(v) for metric, v in expected.items()}
    assert scores(often, PROTOCOLS[name]).table() == known


@settings(deadline=None)
@given(st.lists(drawn_samples(), min_size=1, max_size=12))
def test_identities(samples):
    counts = counts_from(samples)
    found = scores(counts)
    values, n, none = found.values, found.expressions, found.no_target
    with_target = 0 if n == none else values["mIoU"] * (n - none)
    rejected = 0 if none == 0 else values["N-acc"] * none
    assert values["gIoU"] * n == pytest.approx(with_target + rejected)
    if none == 0:
        assert values["gIoU"] == values["mIoU"]
        assert math.isnan(values["N-acc"])
    if none == n:
        assert values["gIoU"] == values["N-acc"]
        assert math.isnan(values["mIoU"])
    falling = [value for name, value in values.items() if name.startswith("Pr@")]
    assert falling == sorted(falling, reverse=True) or none == n
    assert all(math.isnan(value) or 0 <= value <= 1 for value in values.values())


@settings(deadline=None)
@given(st.lists(drawn_samples(), min_size=1, max_size=12))
def test_the_truth_itself_scores_one_wherever_a_score_is_defined(samples):
    perfect = [Sample(s.true, s.true, s.has_target) for s in samples if s.true or not s.has_target]
    assert set(scores(counts_from(perfect)).table().values()) <= {100.0, None}


@settings(deadline=None)
@given(st.lists(drawn_samples(), min_size=1, max_size=12))
def test_saying_nothing_pays_on_no_expression_with_a_target(samples):
    """It did, where 0/0 counted as 1."""
    silent = [Sample(frozenset(), s.true, s.has_target) for s in samples if s.has_target]
    assert all(value in (0.0, None) for value in scores(counts_from(silent)).table().values())


@settings(deadline=None)
@given(st.lists(drawn_samples(), max_size=12), st.data())
def test_rows_of_the_table_are_scores_of_the_rows(samples, data):
    """Slices read the same table as the whole."""
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=len(samples), max_size=len(samples))), dtype=bool)
    counts = counts_from(samples)
    name = data.draw(st.sampled_from(list(PROTOCOLS)))
    table = ratios(counts, PROTOCOLS[name])
    expected = scores(counts.rows(keep), PROTOCOLS[name]).values
    np.testing.assert_array_equal(table.values(keep), list(expected.values()))
