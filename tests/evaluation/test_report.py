"""From an evaluation to the page's files: samples with their truths, failures, slices and maps, on disk."""

from __future__ import annotations

import json
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from refseg_cli.data import masks
from refseg_cli.data.shards import open_shards
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation import report as module
from refseg_cli.evaluation import watching
from refseg_cli.evaluation.analysis import analyse
from refseg_cli.evaluation.answers import read_answers, read_masks
from refseg_cli.evaluation.evaluate import EvalReport, EvalRequest, evaluate
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.evaluation.provenance import PublishedRow
from refseg_cli.evaluation.report import build_report, check_place, write_report
from refseg_cli.evaluation.watching import Watch
from refseg_cli.metrics.scores import sample_iou
from refseg_cli.records import Explanation
from refseg_cli.report import page
from refseg_cli.report.content import Interval, Report
from refseg_cli.report.failures import FAILURES, RIGHT

SPLITS = ("val", "testA")


@pytest.fixture(scope="module")
def watched(untrained: Path, scenes: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[EvalReport, Watch]:
    """Both splits of the scenes, answered by a model that knows nothing."""
    watch = Watch(str(untrained))
    records = str(tmp_path_factory.mktemp("records") / "answers.parquet")
    request = EvalRequest(
        str(scenes), SPLITS, str(untrained), device="cpu", workers=0, records=records, protocols=("refseg",), curve=True
    )
    return evaluate(request, watch=watch), watch


def built(scenes: Path, watched: tuple[EvalReport, Watch], **options: Any) -> Report:
    found, watch = watched
    answers = {name: evaluation.answers for name, evaluation in found.evaluations.items()}
    analyses = {name: analyse(some) for name, some in answers.items()}
    settings = {"published": {}, **options}
    return build_report(str(scenes), answers, analyses, watch.masks, watch.maps, **settings)


def test_every_answer_is_shown_once_the_worst_first(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    report, (found, _) = built(scenes, watched), watched
    answers = [found.evaluations[name].answers for name in SPLITS]
    assert sorted(s.place for s in report.samples) == list(range(sum(map(len, answers))))
    ious = np.concatenate([sample_iou(some.counts()) for some in answers])
    assert [s.iou for s in report.samples] == sorted(ious)
    worst = [s.union - s.intersection for s in report.samples if s.iou == 0]
    assert worst == sorted(worst, reverse=True)
    assert {s.split for s in report.samples} == set(SPLITS)


def test_pictures_masks_and_truths_belong_together(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    report = built(scenes, watched)
    records = [open_shards(scenes, split)[n] for split in SPLITS for n in range(2)]
    checked = 0
    for sample in report.samples:
        picture = report.pictures[sample.picture]
        mask, truth = (masks.decode(rle).astype(bool) for rle in (sample.mask, sample.truth))
        assert mask.shape == truth.shape == (picture.height, picture.width)
        assert (mask & truth).sum() == sample.intersection
        assert (mask | truth).sum() == sample.union
        for record in records:
            if record.image == picture.read():
                expression = next(e for e in record.expressions if e.sent_id == sample.sent_id)
                assert (expression.text, len(expression.targets)) == (sample.text, sample.targets)
                checked += 1
    assert checked > 10


def test_slices_and_failures_of_the_samples(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    report = built(scenes, watched)
    names = [(s.group, s.name) for s in report.slices]
    for sample in report.samples:
        mine = {names[place] for place in sample.slices}
        assert (("targets", "no target") in mine) == (sample.targets == 0)
        assert (("targets", "multi") in mine) == (sample.targets > 1)
        kind = list(FAILURES)[sample.failure]
        assert (kind == "false alarm") == (sample.targets == 0 and sample.predicted > 0)
        assert (kind == "missed target") == (sample.targets > 0 and sample.predicted == 0)
        if sample.failure == RIGHT:
            assert sample.iou > 0.7
    failures = report.tables[-1]
    assert [row[0] for row in failures.rows] == list(SPLITS)
    assert sum(sum(row[1:]) for row in failures.rows) == len(report.samples)  # type: ignore[arg-type]


def test_maps_of_every_answer(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    for sample in built(scenes, watched).samples:
        assert [one.name for one in sample.maps] == ["query_attention", "query_confidence", "mask_feature"]
        attention, _, feature = sample.maps
        assert len(attention.words) == attention.shape[1]
        assert attention.words[0] == "[UNK]" or sample.text.lower().startswith(attention.words[0])
        assert max(feature.shape[1:]) <= watching.MAP_CELLS


def test_tables_charts_and_facts(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    paper = {"val": {"refseg": PublishedRow("Paper, table 1", {"gIoU": 63.4})}}
    report = built(scenes, watched, published=paper, cautions=["careful"])
    scores, failures = report.tables
    assert (scores.title, failures.title) == ("Protocol refseg", "How answers fail")
    assert [row[0] for row in scores.rows] == ["val", "val, in the paper", "testA"]
    assert "Paper, table 1" in scores.note
    place = scores.columns.index("gIoU")
    mine = 100 * watched[0].evaluations["val"].scores.values["gIoU"]
    shown = scores.rows[0][place]
    assert isinstance(shown, Interval)
    assert shown.value == pytest.approx(mine)
    assert scores.rows[1][place] == 63.4
    assert report.cautions == ["careful"]
    assert report.facts["expressions"] == f"{len(report.samples):,}"
    titles = [chart.title for chart in report.parts[0].charts]
    assert titles == [
        "How well targets are found",
        "Knowing when there is nothing",
        "Where a mask ends",
        "Whether its probabilities hold",
    ]
    slices, categories = report.parts[0].tables
    assert slices.groups[0] == "targets"
    for table in (slices, categories):
        for row, place in zip(table.rows, table.slices, strict=True):
            assert report.slices[place].name == row[0]


def test_records_give_the_same_page_without_maps(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    live = built(scenes, watched)
    source = watched[0].records
    found = score_file(OutsideRequest(source, str(scenes), SPLITS, masks=True))
    analyses = {name: analyse(some) for name, some in found.answers.items()}
    later = build_report(str(scenes), found.answers, analyses, found.masks, {}, published={})
    assert [replace(s, maps=()) for s in live.samples] == later.samples
    assert later.tables[-1] == live.tables[-1]
    swapped = score_file(OutsideRequest(source, str(scenes), SPLITS[::-1], masks=True))
    assert swapped.masks == [*found.masks[-len(found.answers["testA"]) :], *found.masks[: len(found.answers["val"])]]


def test_predictions_of_others_give_a_page(scenes: Path, watched: tuple[EvalReport, Watch], tmp_path: Path) -> None:
    answers, rles = read_answers(watched[0].records), read_masks(watched[0].records)
    lines = [
        json.dumps({"sent_id": int(sent), "mask": rle})
        for sent, rle, split in zip(answers.sent_id, rles, answers.split, strict=True)
        if split == "val"
    ]
    file = tmp_path / "theirs.jsonl"
    file.write_text("\n".join(lines))
    found = score_file(OutsideRequest(str(file), str(scenes), ("val",), masks=True))
    analyses = {"val": analyse(found.answers["val"], intervals=False)}
    report = build_report(str(scenes), found.answers, analyses, found.masks, {}, published={})
    assert len(report.samples) == len(lines)
    assert all(sample.p_target is None for sample in report.samples)
    assert "thresholds" not in report.facts


def test_a_declared_no_target_shows_no_mask(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    found, watch = watched
    val = found.evaluations["val"].answers
    nothing = replace(val, predicted=np.zeros_like(val.predicted), intersection=np.zeros_like(val.predicted))
    shown = module.gallery(str(scenes), nothing, watch.masks, {}, [()] * len(val))
    assert all(masks.area(sample.mask) == 0 for sample in shown.samples)


def test_only_a_head_gives_a_probability(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    found, watch = watched
    val = found.evaluations["val"].answers
    half = replace(val, has_head=np.arange(len(val)) % 2 == 0)
    shown = module.gallery(str(scenes), half, watch.masks, {}, [()] * len(val))
    assert {s.place: s.p_target for s in shown.samples} == {
        n: float(p) if n % 2 == 0 else None for n, p in enumerate(val.p_target)
    }


def test_answers_to_other_data_are_left_out_and_counted(scenes: Path, watched: tuple[EvalReport, Watch]) -> None:
    found, watch = watched
    val = found.evaluations["val"].answers
    elsewhere = replace(val, sent_id=np.where(np.arange(len(val)) < 3, -1, val.sent_id))
    analyses = {"val": analyse(elsewhere, intervals=False)}
    report = build_report(str(scenes), {"val": elsewhere}, analyses, watch.masks, {}, published={})
    assert len(report.samples) == len(val) - 3
    assert report.cautions == ["3 answers are about expressions that the data no longer have"]


def test_the_best_lose_their_maps_first(untrained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ten answers of growing IoU, of which each tenth has maps of 100 bytes, and room for 600."""

    def maps(*_: Any, **__: Any) -> Any:
        return iter([(Explanation("m", "map", np.zeros((1, 10, 10), np.float32), (0,), 1),)] * 2)

    monkeypatch.setattr(watching, "explain", maps)
    monkeypatch.setattr(watching, "MAP_BYTES", 600)
    watch = Watch(str(untrained))
    for step in (3, 1, 4, 0, 2):
        answers = [
            SimpleNamespace(mask=n, intersection=n, union=10, has_target=True, predicted=5)
            for n in (2 * step, 2 * step + 1)
        ]
        watch(SimpleNamespace(), SimpleNamespace(), answers)  # type: ignore[arg-type]
    assert watch.masks == [6, 7, 2, 3, 8, 9, 0, 1, 4, 5]
    kept = sorted(int(watch.masks[row]) for row in watch.maps)  # type: ignore[call-overload]
    assert kept == [0, 1, 2, 3, 4, 5]


def test_a_small_page_is_written_alone_and_a_large_one_with_its_folder(
    scenes: Path, watched: tuple[EvalReport, Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, path = built(scenes, watched), tmp_path / "new" / "report.html"
    write_report(report, path)
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    monkeypatch.setattr(page, "INLINE_BYTES", 1000)
    write_report(report, path)
    folder = path.with_name("report_files")
    assert sorted(p.name for p in path.parent.iterdir()) == ["report.html", "report_files"]
    assert {p.suffix for p in folder.iterdir()} == {".js", ".jpg", ""}
    (folder / "old.js").write_text("of the page before")
    write_report(report, path)
    assert not (folder / "old.js").exists()
    monkeypatch.undo()
    write_report(report, path)  # small again: what the page does not need goes
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]


def test_a_failure_leaves_the_page_before(
    scenes: Path, watched: tuple[EvalReport, Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, path = built(scenes, watched), tmp_path / "report.html"
    monkeypatch.setattr(page, "INLINE_BYTES", 1000)
    write_report(report, path)
    before = {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()}

    def broken() -> bytes:
        raise RefsegError("the data are gone")

    last = replace(report.pictures[-1], read=broken)
    with pytest.raises(RefsegError, match="gone"):
        write_report(replace(report, pictures=[*report.pictures[:-1], last]), path)
    assert {p: p.read_bytes() for p in tmp_path.rglob("*") if p.is_file()} == before


def test_page_and_folder_go_where_the_name_points(
    scenes: Path, watched: tuple[EvalReport, Watch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As every file does, see test_files.py."""
    report, path, folder = built(scenes, watched), tmp_path / "r.html", tmp_path / "r_files"
    os.mkfifo(tmp_path / "fifo")
    with ThreadPoolExecutor(1) as other:
        read = other.submit((tmp_path / "fifo").read_bytes)
        write_report(report, tmp_path / "fifo")
        assert read.result(timeout=30).startswith(b"<!doctype html>")
        monkeypatch.setattr(page, "INLINE_BYTES", 1000)
        read = other.submit((tmp_path / "fifo").read_bytes)
        with pytest.raises(RefsegError, match="no place for the report's pictures"):
            write_report(report, tmp_path / "fifo")
        assert read.result(timeout=30) == b""
    write_report(report, path)
    path.chmod(0o600)
    folder.chmod(0o700)
    folder.rename(tmp_path / "elsewhere")
    folder.symlink_to("elsewhere")
    (folder / "old.js").touch()
    write_report(report, path)
    assert (path.stat().st_mode & 0o777, folder.stat().st_mode & 0o777) == (0o600, 0o700)
    assert folder.is_symlink()
    assert not (folder / "old.js").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["elsewhere", "fifo", "r.html", "r_files"]


def test_places_that_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="is a folder"):
        check_place(tmp_path)
    (tmp_path / "r_files").mkdir()
    with pytest.raises(RefsegError, match="in the way"):
        check_place(tmp_path / "r.html")
    (tmp_path / "file").touch()
    with pytest.raises(RefsegError, match="cannot write"):
        check_place(tmp_path / "file" / "r.html")


def test_the_page_names_the_model_and_the_data(scenes: Path, watched: tuple[EvalReport, Watch], tmp_path: Path) -> None:
    write_report(built(scenes, watched), tmp_path / "r.html")
    html = (tmp_path / "r.html").read_text()
    assert re.search("<title>tiny on scenes</title>", html)
