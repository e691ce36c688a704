"""How answers fail, on masks of a few pixels that can be counted by hand."""

from __future__ import annotations

import numpy as np
import pytest

from refseg_cli.data import masks
from refseg_cli.records import Expression, Instance, Record, Rle
from refseg_cli.report.failures import FAILURES, Pairs, failure_types, join, pair_up

SIZE = (10, 20)
Box = tuple[int, int, int, int]  # top, left, height, width
LEFT, RIGHT_HAND, SMALL = (0, 0, 10, 5), (0, 10, 10, 5), (0, 18, 2, 2)  # 50, 50 and 4 pixels


def area(*boxes: Box) -> Rle:
    mask = np.zeros(SIZE, bool)
    for top, left, height, width in boxes:
        mask[top : top + height, left : left + width] = True
    return masks.encode(mask)


def record(objects: list[Box], targets: tuple[int, ...], *, crowds: tuple[int, ...] = ()) -> Record:
    instances = tuple(
        Instance(n, 1, "thing", (0, 0, 1, 1), area(box), iscrowd=n in crowds) for n, box in enumerate(objects)
    )
    return Record(1, "1.png", "val", *SIZE, b"", instances, (Expression("it", 1, 1, targets),))


def failure(picture: Record, *answer: Box) -> str:
    predicted = area(*answer)
    truth = masks.union([picture.instances[t].rle for t in picture.expressions[0].targets], SIZE)
    p, g = masks.decode(predicted).astype(bool), masks.decode(truth).astype(bool)
    pairs = pair_up(picture, [0], [predicted], [truth])
    (kind,) = failure_types(
        *(np.array([value]) for value in (bool(picture.expressions[0].targets), (p & g).sum(), (p | g).sum(), p.sum())),
        pairs,
    )
    return list(FAILURES)[kind]


THREE = [LEFT, RIGHT_HAND, SMALL]


@pytest.mark.parametrize(
    ("targets", "answer", "expected"),
    [
        ((), [], "right"),
        ((), [SMALL], "false alarm"),
        ((0,), [], "missed target"),
        ((0,), [LEFT], "right"),
        ((0,), [RIGHT_HAND], "wrong instance"),  # a swap
        ((0,), [LEFT, RIGHT_HAND], "wrong instance"),  # one too many
        ((0,), [LEFT, (0, 10, 5, 5)], "wrong instance"),  # just half of another object: 25 of 50 pixels
        ((0,), [LEFT, (0, 10, 4, 5)], "right"),  # 20 of 50, IoU 50 / 70 = 0.714
        ((0,), [LEFT, (0, 10, 4, 5), (9, 15, 1, 2)], "ragged mask"),  # IoU 50 / 72
        ((0,), [LEFT, SMALL], "right"),  # all of a small neighbour, but 4 of 54 pixels: a crumb
        ((0,), [(0, 0, 7, 5), SMALL], "wrong instance"),  # 4 of 39 pixels: no crumb
        ((0,), [(5, 5, 4, 4)], "wrong instance"),  # on nothing that is annotated, no target found
        ((0,), [(0, 0, 4, 5)], "ragged mask"),  # less than half of the target, but all within it
        ((0,), [(0, 0, 7, 5)], "ragged mask"),  # IoU 0.7 fails, as it does Pr@0.7
        ((0,), [(0, 0, 8, 5)], "right"),
        ((0, 1), [LEFT, RIGHT_HAND], "right"),
        ((0, 1), [LEFT], "missed instance"),
        ((0, 1), [LEFT, (0, 10, 4, 5)], "missed instance"),
        ((0, 1), [LEFT, (0, 10, 5, 5)], "right"),  # half of it is found; IoU 0.75
        ((0, 2), [LEFT], "missed instance"),  # however small: IoU 50 / 54
        ((0, 2), [LEFT, RIGHT_HAND], "wrong instance"),  # missed too; the swap says more
        ((0, 1, 2), [RIGHT_HAND, LEFT, SMALL], "right"),
    ],
)
def test_each_type(targets: tuple[int, ...], answer: list[Box], expected: str) -> None:
    assert failure(record(THREE, targets), *answer) == expected


def test_an_object_inside_the_target_is_not_taken_for_another() -> None:
    tie = (3, 1, 4, 2)
    assert failure(record([LEFT, tie], (0,)), LEFT) == "right"
    assert failure(record([LEFT, tie], (1,)), LEFT) == "wrong instance"


def test_a_crowd_is_no_wrong_instance_but_may_be_the_target() -> None:
    assert failure(record(THREE, (0,), crowds=(1,)), LEFT, (0, 10, 5, 5)) == "ragged mask"
    assert failure(record(THREE, (1,), crowds=(1,)), RIGHT_HAND) == "right"


def test_a_target_without_pixels_is_missed_or_astray() -> None:
    picture = record([(0, 0, 0, 0), RIGHT_HAND], (0,))
    assert failure(picture) == "missed target"
    assert failure(picture, LEFT) == "wrong instance"


def test_pairs_equal_a_count_of_pixels() -> None:
    rng = np.random.default_rng(3)
    arrays = rng.random((4, *SIZE)) < 0.4
    instances = tuple(Instance(n, 1, "x", (0, 0, 1, 1), masks.encode(a)) for n, a in enumerate(arrays))
    targets = [(0, 1), (), (3,)]
    picture = Record(
        1, "1", "val", *SIZE, b"", instances, tuple(Expression("x", 1, n, t) for n, t in enumerate(targets))
    )
    answers = rng.random((2, *SIZE)) < 0.5
    asked = [0, 2]
    truths = [np.any([arrays[t] for t in targets[e]], axis=0) for e in asked]
    pairs = pair_up(picture, asked, [masks.encode(a) for a in answers], [masks.encode(t) for t in truths], first=7)
    expected = [
        (7 + k, o in targets[e], arrays[o].sum(), (p & arrays[o]).sum(), (p & arrays[o] & ~g).sum())
        for k, (e, p, g) in enumerate(zip(asked, answers, truths, strict=True))
        for o in range(4)
    ]
    columns = zip(pairs.expression, pairs.is_target, pairs.area, pairs.covered, pairs.outside, strict=True)
    assert [tuple(map(int, row)) for row in columns] == [tuple(map(int, row)) for row in expected]


def test_nothing_to_look_at() -> None:
    none = join([])
    assert none.is_target.dtype == np.bool_
    empty = np.zeros(0, np.int64)
    assert len(failure_types(empty.astype(bool), empty, empty, empty, none)) == 0
    picture = record([], ())
    assert len(pair_up(picture, [0], [area(LEFT)], [area()]).area) == 0


def test_many_at_once_are_as_each_alone() -> None:
    cases = [((), SMALL), ((0,), RIGHT_HAND), ((0, 1), LEFT), ((0,), LEFT)]
    pictures = [record(THREE, targets) for targets, _ in cases]
    truths = [masks.union([THREE_RLE[t] for t in targets], SIZE) for targets, _ in cases]
    parts = [
        pair_up(picture, [0], [area(box)], [truth], first=n)
        for n, (picture, (_, box), truth) in enumerate(zip(pictures, cases, truths, strict=True))
    ]
    p = [masks.decode(area(box)).astype(bool) for _, box in cases]
    g = [masks.decode(truth).astype(bool) for truth in truths]
    kinds = failure_types(
        np.array([bool(targets) for targets, _ in cases]),
        np.array([(a & b).sum() for a, b in zip(p, g, strict=True)]),
        np.array([(a | b).sum() for a, b in zip(p, g, strict=True)]),
        np.array([a.sum() for a in p]),
        join(parts),
    )
    assert [list(FAILURES)[kind] for kind in kinds] == ["false alarm", "wrong instance", "missed instance", "right"]


THREE_RLE = [area(box) for box in THREE]


def test_the_types_are_those_of_the_documentation() -> None:
    assert isinstance(join([]), Pairs)
    assert list(FAILURES) == [
        "false alarm",
        "missed target",
        "wrong instance",
        "missed instance",
        "ragged mask",
        "right",
    ]
