"""What is made of answers: every protocol's figures, slices, curves; and two models against each other."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import fields, replace

import numpy as np
import pytest

from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.analysis import analyse, compare, compare_by_split, table_of, unfit
from refseg_cli.evaluation.answers import NO_MASK, About, Answer, Answers, collect, concatenate, writing_records
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Thresholds

ABOUT = About(
    dataset="scenes", model="m", thresholds=Thresholds(), mask_thresholds=(0.3, 0.6), views={"lavt": 0, "vlt": 1}
)


def answers(n: int = 60, seed: int = 0, *, head: bool = True, split: str = "val", skill: float = 0.5) -> Answers:
    """Three expressions a picture, a third of them without a target."""
    rng = np.random.default_rng(seed)
    rows = []
    for i in range(n):
        has = i % 3 != 0
        target = 100 * has * (1 + i % 5)
        predicted = int(rng.integers(0, 400))
        says = bool(predicted >= 1 and rng.random() < 0.9)
        shared = int(min(predicted, target) * min(1.0, skill + rng.random() / 2))
        kept = (shared, predicted) if says else (0, 0)
        rows.append(
            Answer(
                image_id=i // 3,
                ref_id=i,
                sent_id=i,
                split=split,
                text=("left dog", "two red cats", "nothing")[i % 3],
                instance_count=(0, 1, 2)[i % 3],
                has_target=has,
                says_target=says,
                p_target=float(rng.random()),
                intersection=kept[0],
                union=kept[1] + target - kept[0],
                predicted=kept[1],
                target=target,
                mask=NO_MASK,
                has_head=head,
                categories=(("dog",), ("cat",), ())[i % 3],
                raw_intersection=shared,
                raw_predicted=predicted,
                curve=(shared, predicted, shared // 2, predicted // 2),
                views=(shared, predicted, target, shared, predicted, target),
            )
        )
    return collect(ABOUT, rows)


def test_r_refcoco_needs_references_of_both_kinds():
    found = answers()
    other = replace(found.about, views={"r-refcoco": 0})
    apart, together = replace(found, about=other), replace(found, about=other, ref_id=found.image_id)
    assert unfit(apart, PROTOCOLS["r-refcoco"]) == "no reference has phrases both with and without a target"
    assert unfit(together, PROTOCOLS["r-refcoco"]) is None
    assert unfit(apart, PROTOCOLS["refseg"]) is None
    # Each reference is a picture here, so that its figures are means over pictures.
    estimate = analyse(together, ("r-refcoco",)).scores["r-refcoco"]["rIoU"]
    assert (estimate.count, estimate.images) == (20, 20)
    assert 0 <= estimate.low < estimate.value < estimate.high <= 1


def test_every_protocol_is_scored_as_it_is_alone():
    found = answers()
    names = ("refseg", "thesis", "thesis-50pix", "lavt", "vlt")
    result = analyse(found, names)
    assert list(result.scores) == list(names)
    for name in names:
        protocol = PROTOCOLS[name]
        expected = scores(found.counts(protocol), protocol).values
        assert {metric: e.value for metric, e in result.scores[name].items()} == pytest.approx(expected, nan_ok=True)
        main = result.scores[name][protocol.headline[0]]
        assert main.low <= main.value <= main.high
    assert (result.expressions, result.images, result.no_target) == (60, 20, 20)


def test_slices_are_the_headline_of_refseg_on_their_rows():
    found = answers()
    slices = {(part.group, part.name): part for part in analyse(found).slices}
    multi = slices["targets", "multi"]
    rows = np.flatnonzero(found.instance_count == 2)
    expected = scores(found.rows(rows).counts()).values
    assert (multi.expressions, multi.images) == (20, 20)
    assert set(multi.scores) == {"cIoU", "gIoU", "N-acc", "T-acc"}
    assert multi.scores["gIoU"].value == pytest.approx(expected["gIoU"])
    assert math.isnan(multi.scores["N-acc"].value)
    assert slices["category", "cat"].expressions == 20
    assert analyse(found, slices=False).slices == ()


def test_phrasecut_subsets_are_scored_by_its_protocol():
    found = answers()
    (other,) = {part.name for part in analyse(found, ("phrasecut",)).subsets} - {"c_coco", "i_single", "i_multi"}
    assert other == "t_obj"
    subsets = {part.name: part for part in analyse(found, ("refseg", "phrasecut")).subsets}
    rows = found.rows(np.flatnonzero(found.instance_count == 2))
    protocol = PROTOCOLS["phrasecut"]
    expected = scores(rows.counts(protocol), protocol).values
    assert {name: e.value for name, e in subsets["i_multi"].scores.items()} == pytest.approx(expected)
    assert expected["Pr@0.5"] > 0
    assert analyse(found, ("refseg",)).subsets == ()
    assert analyse(found, ("phrasecut",), slices=False).subsets == ()


def test_curves_come_from_what_was_counted():
    found = answers()
    result = analyse(found, intervals=False)
    assert result.no_target_curve.score == "probability"
    assert result.mask_curve.thresholds.tolist() == [0.3, 0.6]
    expected = [scores(found.counts_at(i)).values["gIoU"] for i in range(2)]
    assert result.mask_curve.g_iou.tolist() == pytest.approx(expected)
    assert result.reliability.counts.sum() == 60
    headless = analyse(answers(head=False), intervals=False)
    assert headless.no_target_curve.score == "pixels"
    assert headless.reliability is None
    plain = analyse(found, intervals=False, curves=False)
    assert (plain.no_target_curve, plain.mask_curve, plain.reliability) == (None, None, None)


def test_finished_masks_have_no_curves_but_every_protocol_of_the_original_size():
    finished = replace(answers(), about=replace(ABOUT, finished=True, mask_thresholds=(), views={}))
    result = analyse(finished, ("cris", "cgformer", "thesis"), intervals=False)
    assert (result.no_target_curve, result.mask_curve) == (None, None)
    assert result.scores["cris"]["IoU"].value > 0


def test_a_protocol_that_was_not_counted_is_refused():
    with pytest.raises(RefsegError, match="not counted as the protocol 'rela'"):
        table_of(answers(), PROTOCOLS["rela"])


def test_no_answers_have_no_scores():
    result = analyse(concatenate(ABOUT, []), ("refseg", "lavt"))
    assert result.expressions == 0
    assert all(math.isnan(e.value) for table in result.scores.values() for e in table.values())
    assert (result.slices, result.no_target_curve, result.mask_curve) == ((), None, None)


# Two models


def test_a_comparison_pairs_expressions_whatever_their_order():
    a, b = answers(), answers(skill=0.9)
    shuffled = b.rows(np.random.default_rng(1).permutation(60))
    found, again = compare(a, b, swaps=200), compare(a, shuffled, swaps=200)
    assert found == again
    assert found["gIoU"].a == pytest.approx(scores(a.counts()).values["gIoU"])
    assert found["gIoU"].value == pytest.approx(found["gIoU"].b - found["gIoU"].a)
    assert found["gIoU"].value > 0
    back = compare(b, a, swaps=200)
    assert back["gIoU"].value == -found["gIoU"].value
    assert back["gIoU"].p == found["gIoU"].p


def test_sentences_of_two_images_may_have_one_id():
    a = replace(answers(6), sent_id=np.array([0, 1, 2, 0, 1, 2]))
    b = replace(answers(6, skill=0.9), sent_id=a.sent_id)
    assert compare(a, b.rows(np.array([3, 4, 5, 0, 1, 2])), swaps=10) == compare(a, b, swaps=10)


def test_sentences_of_two_references_may_have_one_id():
    a = replace(answers(6), sent_id=np.zeros(6, dtype=np.int64))
    b = replace(answers(6, skill=0.9), sent_id=a.sent_id)
    assert compare(a, b.rows(np.array([2, 0, 1, 5, 4, 3]))) == compare(a, b)


def test_other_expressions_or_other_truths_are_refused():
    a = answers()
    with pytest.raises(RefsegError, match="1 only in the first, 0 only in the second"):
        compare(a, a.rows(np.arange(59)))
    moved = replace(a, target=a.target + a.has_target, raw_predicted=a.raw_predicted + 1)
    with pytest.raises(RefsegError, match="different ground truth"):
        compare(a, moved)


def test_splits_are_compared_one_by_one():
    both = concatenate(ABOUT, [answers(), answers(split="testA", seed=1)])
    found = compare_by_split(both, both, ("refseg", "lavt"), swaps=10)
    assert list(found) == [("val", "refseg"), ("val", "lavt"), ("testA", "refseg"), ("testA", "lavt")]
    with pytest.raises(RefsegError, match="different splits: val, testA and val"):
        compare_by_split(both, answers(), ("refseg",))


@pytest.mark.slow
def test_a_hundred_thousand_answers_take_seconds_and_little_memory(tmp_path):
    """Ten thousand pictures of ten phrases, by a process of its own: from the file to intervals, slices and curves."""
    rng = np.random.default_rng(0)
    few = answers(300)
    many = few.rows(rng.integers(0, 300, 100_000))
    many = replace(many, image_id=rng.integers(0, 10_000, 100_000), sent_id=np.arange(100_000))
    path = str(tmp_path / "many.parquet")
    with writing_records(path, few.about) as append:
        for start in range(0, 100_000, 1000):
            append(answer_rows(many.rows(np.arange(start, start + 1000))))
    program = """if True:
        import json, sys, time
        from pathlib import Path
        from refseg_cli.evaluation.analysis import analyse
        from refseg_cli.evaluation.answers import read_answers
        start = time.process_time()
        found = analyse(read_answers(sys.argv[1]), ("refseg", "lavt", "vlt"))
        seconds = time.process_time() - start
        lines = Path("/proc/self/status").read_text().splitlines()  # ru_maxrss also has what the parent held
        memory = next(int(line.split()[1]) for line in lines if line.startswith("VmHWM:"))
        print(json.dumps([found.expressions, len(found.slices), seconds, memory]))
    """
    ran = subprocess.run([sys.executable, "-c", program, path], capture_output=True, text=True, check=True)
    expressions, slices, seconds, kilobytes = json.loads(ran.stdout)
    assert expressions == 100_000
    assert slices > 10
    assert seconds < 20  # of processor time: on two cores 10 s by the clock
    assert kilobytes < 1 << 20  # 1 GiB


def answer_rows(found: Answers) -> list[Answer]:
    """The rows that `collect` would make these columns of."""
    columns = {f.name: getattr(found, f.name) for f in fields(Answers) if f.name != "about"}
    rows = []
    for n in range(len(found)):
        row = {name: column[n] for name, column in columns.items()}
        row |= {name: tuple(row[name].ravel().tolist()) for name in ("curve", "views")}
        union = row["predicted"] + row["target"] - row["intersection"]
        rows.append(Answer(**row, union=union, mask=NO_MASK))
    return rows
