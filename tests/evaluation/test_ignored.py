"""Pixels that count for nothing: in the shards, to the one protocol that leaves them out, and to all others."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from pictures import INPUT, RECIPE, Fake, picture, write_split

from refseg_cli.data import masks, shards
from refseg_cli.data.text import build_tokenizer
from refseg_cli.evaluation.answers import About, plan_views, read_answers
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.evaluation.scoring import evaluate_model
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.scores import scores
from refseg_cli.records import Batch, Instance, Prediction, Record, Thresholds

SIZES = (INPUT, (20, 40), (45, 30))
ALL = tuple(PROTOCOLS)


def region(seed: int, size: tuple[int, int], share: float) -> np.ndarray:
    return np.random.default_rng(seed).random(size) < share


def content() -> list[Record]:
    """Three pictures: targets and ignored pixels anywhere; the third has a no-target phrase alone."""
    found = []
    for number, size in enumerate(SIZES, start=1):
        ignored = region(10 + number, size, 0.3)
        target = region(number, size, 0.4) & ~ignored
        thing = Instance(number, 1, "thing", (0, 0, 1, 1), masks.encode(target))
        record = picture(number, "val", size, (thing,), [("it", (0,)), ("nothing", ()), ("it again", (0,))])
        phrases = record.expressions
        marked = [replace(e, ignored=masks.encode(ignored)) for e in phrases[:2]]
        found.append(replace(record, expressions=(*marked, phrases[2])))
    everything = masks.encode(np.ones(SIZES[2], dtype=bool))
    found[2] = replace(found[2], expressions=(replace(found[2].expressions[1], ignored=everything),))
    return found


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("ignored")
    write_split(folder, "val", content())
    return folder


def as_lisa_draws(record: Record, number: int) -> np.ndarray:
    """0 for background, 1 for the target, 255 for what is ignored."""
    expression = record.expressions[number]
    drawn = masks.decode(masks.targets(record, expression)).astype(np.int64)
    if expression.ignored:
        drawn[masks.decode(expression.ignored) == 1] = 255
    return drawn


def lisa_counts(predicted: np.ndarray, drawn: np.ndarray) -> tuple[int, int, int]:
    """LISA's intersectionAndUnionGPU, for class 1: intersection, prediction, target."""
    output = predicted.astype(np.int64).copy()
    output[drawn == 255] = 255
    same = output[output == drawn]
    return int((same == 1).sum()), int((output == 1).sum()), int((drawn == 1).sum())


def checks(batch: Batch) -> Prediction:
    """A chequerboard of 4 x 4 cells, the same for all phrases."""
    cells = (torch.arange(INPUT[0])[:, None] // 4 + torch.arange(INPUT[1])[None] // 4) % 2
    return Prediction((cells * 18.0 - 9.0).expand(len(batch), 1, *INPUT).contiguous())


def evaluated(data: Path):
    views, _ = plan_views([PROTOCOLS[name] for name in ALL], Thresholds())
    tokenizer = build_tokenizer(RECIPE.text, ["it again nothing"])
    split = shards.open_shards(data, "val")
    about = About(data=str(data), views=views)
    kept: list = []
    result = evaluate_model(
        Fake(checks), tokenizer, RECIPE, Thresholds(), split, device="cpu", about=about, keep=kept.extend
    )
    return result.answers, kept


def test_shards_keep_them(data: Path) -> None:
    split = shards.open_shards(data, "val")
    assert [split[i] for i in range(3)] == content()
    assert list(split.annotations())[1].expressions == content()[1].expressions


def test_shards_from_before_have_none(tmp_path: Path) -> None:
    write_split(tmp_path, "val", content())
    (file,) = tmp_path.glob("*.parquet")
    table = pq.read_table(file)
    rows = [[{k: v for k, v in e.items() if k != "ignored"} for e in row] for row in table["expressions"].to_pylist()]
    place = table.schema.get_field_index("expressions")
    pq.write_table(table.set_column(place, "expressions", pa.array(rows)), file, row_group_size=8)
    manifest = tmp_path / shards.MANIFEST
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    assert all(e.ignored is None for e in shards.open_shards(tmp_path, "val")[1].expressions)


def test_lisa_leaves_them_out_of_both_masks_and_nobody_else_does(data: Path) -> None:
    answers, kept = evaluated(data)
    bare, _ = evaluated_without(data)
    expressions = [(r, n) for r in content() for n in range(len(r.expressions))]
    expected = [
        lisa_counts(masks.decode(answer.mask), as_lisa_draws(record, number))
        for answer, (record, number) in zip(kept, expressions, strict=True)
    ]
    lisa = answers.counts(PROTOCOLS["lisa"])
    assert list(zip(lisa.intersection, lisa.predicted, lisa.target, strict=True)) == expected
    for name in set(ALL) - {"lisa"}:
        if (matching := PROTOCOLS[name].matching) and matching.needs_instances:
            continue  # a mask alone is not enough there
        counts, without = answers.counts(PROTOCOLS[name]), bare.counts(PROTOCOLS[name])
        assert counts.intersection.tolist() == without.intersection.tolist(), name
        assert counts.predicted.tolist() == without.predicted.tolist(), name
    assert lisa.predicted.tolist() != bare.counts(PROTOCOLS["lisa"]).predicted.tolist()


def evaluated_without(data: Path):
    """The same data with nothing ignored."""
    folder = data.with_name("bare")
    folder.mkdir(exist_ok=True)
    plain = [replace(r, expressions=tuple(replace(e, ignored=None) for e in r.expressions)) for r in content()]
    write_split(folder, "val", plain)
    return evaluated(folder)


def test_lisa_figures_are_those_of_its_loop(data: Path) -> None:
    """A phrase whose every counted pixel is background, and is answered so, counts 1."""
    answers, kept = evaluated(data)
    ious, intersections, unions = [], 0, 0
    places = [(r, n) for r in content() for n in range(len(r.expressions))]
    for answer, (record, number) in zip(kept, places, strict=True):
        intersection, predicted, target = lisa_counts(masks.decode(answer.mask), as_lisa_draws(record, number))
        union = predicted + target - intersection
        ious.append(intersection / (union + 1e-5) + (union == 0))
        intersections, unions = intersections + intersection, unions + union
    found = scores(answers.counts(PROTOCOLS["lisa"]), PROTOCOLS["lisa"]).values
    assert ious[-1] == 1
    assert found["gIoU"] == pytest.approx(np.mean(ious))
    assert found["cIoU"] == pytest.approx(intersections / (unions + 1e-10))


def test_finished_masks_are_counted_alike(data: Path, tmp_path: Path) -> None:
    answers, kept = evaluated(data)
    entries = [{"sent_id": a.sent_id, "mask": {"size": a.mask.size, "counts": a.mask.counts.decode()}} for a in kept]
    file, recorded = tmp_path / "p.jsonl", tmp_path / "p.parquet"
    file.write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    request = OutsideRequest(str(file), str(data), ("val",), ALL, records=str(recorded))
    lisa, mmdet = PROTOCOLS["lisa"], PROTOCOLS["mmdet"]
    for found in (score_file(request).answers["val"], read_answers(str(recorded))):
        for column in ("intersection", "predicted", "target"):
            ours, theirs = getattr(answers.counts(lisa), column), getattr(found.counts(lisa), column)
            assert ours.tolist() == theirs.tolist()
        assert found.counts(mmdet).predicted.tolist() == [masks.area(a.mask) for a in kept]
