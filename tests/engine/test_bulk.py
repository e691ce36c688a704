"""`refseg predict --data`: a file of answers for each shard, here or on a Ray cluster; what is there is kept."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from pictures import records, write_split

from refseg_cli.app import main
from refseg_cli.config import load_recipe
from refseg_cli.data import shards, storage
from refseg_cli.data.shards import Manifest, open_shards
from refseg_cli.engine import bulk, cluster
from refseg_cli.engine.bulk import BulkRequest, answer_shards
from refseg_cli.engine.prepare import Output, PrepareRequest, prepare, prepare_scenes
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.segmenters.trained import Predictor

needs_ray = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed: refseg[ray]")


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Scenes in three shards of `val`, with the raw files beside them."""
    folder = tmp_path_factory.mktemp("three")
    prepare_scenes(str(folder / "first"), images={"val": 6, "train": 1}, seed=3, raw=folder / "raw")
    request = PrepareRequest("grefcoco", folder / "raw", Output(str(folder / "data"), shard_bytes=1 << 16))
    prepare(request)
    assert len(open_shards(folder / "data", "val").manifest.splits["val"].files) >= 3
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


@pytest.fixture(scope="module")
def here(three: Path) -> tuple[Path, Any]:
    out = three / "here"
    return out, answer_shards(BulkRequest(f"{three}/data", "val", str(out), "scenes", device="cpu", threads=1))


def test_every_phrase_is_answered_and_scored_by_its_ids(three: Path, here: tuple[Path, Any], tmp_path: Path) -> None:
    out, report = here
    split = open_shards(three / "data", "val")
    assert (report.answered.pictures, report.answered.phrases) == (len(split), int(split.expression_counts.sum()))
    assert (report.kept, report.failed, report.answered.broken) == (0, {}, 0)
    files = split.manifest.splits["val"].files
    assert sorted(contents(out)) == sorted([bulk.ABOUT, *(bulk.answers_of(file.name) for file in files)])
    lines = b"".join((out / bulk.answers_of(file.name)).read_bytes() for file in files)
    (tmp_path / "all.jsonl").write_bytes(lines)
    scored = score_file(OutsideRequest(str(tmp_path / "all.jsonl"), f"{three}/data", ("val",)))
    assert len(scored.answers["val"]) == report.answered.phrases


def test_a_stopped_run_goes_on_with_the_shards_that_have_no_answers(
    three: Path, here: tuple[Path, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    out.mkdir()
    before = contents(here[0])
    for name in sorted(before)[1:]:
        (out / name).write_bytes(before[name])
    asked = ["--data", f"{three}/data", "--model", "scenes", "--device", "cpu", "--threads", "1", "-o", str(out)]
    assert main(["predict", *asked]) == FOUND
    assert contents(out) == before
    monkeypatch.setattr(bulk, "open_segmenter", lambda *_, **__: pytest.fail("there is nothing to answer"))
    assert main(["predict", *asked]) == FOUND
    with pytest.raises(RefsegError, match="answers to other questions"):
        answer_shards(BulkRequest(f"{three}/data", "val", str(out), "photos"))


def test_what_fails_is_named_and_counted(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """A picture that is none in one shard, a second shard that is damaged."""
    data = tmp_path / "data"
    data.mkdir()
    broken = [replace(r, image=b"once upon a time") if n == 1 else r for n, r in enumerate(records("val"))]
    write_split(data, "val", broken)
    manifest = shards.read_manifest(str(data))
    [file] = manifest.splits["val"].files
    (data / "val-second.parquet").write_bytes(b"PAR1 no parquet")
    second = replace(file, name="val-second.parquet")
    more = replace(manifest.splits["val"], files=(file, second))
    changed: Manifest = replace(manifest, splits={**manifest.splits, "val": more})
    storage.write(storage.locate(data) / shards.MANIFEST, changed.to_json())
    asked = ["predict", "--data", str(data), "--model", "scenes", "--device", "cpu", "--json", "-o", f"{tmp_path}/out"]
    assert main(asked) == ERROR
    out, err = capfd.readouterr()
    report = json.loads(out)
    assert list(report["failed"]) == ["val-second.parquet"]
    assert report["answered"]["broken"] == 1
    assert "refseg: val-second.parquet: " in err
    [answers] = (tmp_path / "out").glob("*.jsonl")
    errors = [line for line in map(json.loads, answers.read_text().splitlines()) if line["error"]]
    assert [line["image_id"] for line in errors] == [broken[1].image_id] * len(broken[1].expressions)


def test_batches_of_pictures_are_answered_as_one_by_one(tmp_path: Path, untrained: Path) -> None:
    """With a picture that is none, last in a batch of its own or in one with the others, which is then asked apart."""
    data = tmp_path / "data"
    data.mkdir()
    pictures = records("val")
    assert len(pictures) == 3
    write_split(data, "val", [*pictures[:2], replace(pictures[2], image=b"once upon a time")])
    found = []
    for batch in (1, 2, 3):
        request = BulkRequest(str(data), "val", f"{tmp_path}/{batch}", str(untrained), device="cpu", batch_images=batch)
        counts = answer_shards(request).answered
        assert (counts.pictures, counts.broken) == (len(pictures), 1)
        [answers] = (tmp_path / f"{batch}").glob("*.jsonl")
        found.append([json.loads(line) for line in answers.read_text().splitlines()])
    for one, *others in zip(*found, strict=True):
        for other in others:
            assert all(one[key] == other[key] for key in ("image_id", "sent_id", "error"))
            if one["error"] is None:
                assert one["p_target"] == pytest.approx(other["p_target"], abs=1e-5)
                assert one["pixels"] == pytest.approx(other["pixels"], abs=2)


def test_batches_go_through_the_network_together(
    tmp_path: Path, untrained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    many = Predictor.predict_many

    def counted(self: Predictor, questions: Any) -> Any:
        sizes.append(len(questions))
        return many(self, questions)

    monkeypatch.setattr(Predictor, "predict_many", counted)
    data = tmp_path / "data"
    data.mkdir()
    write_split(data, "val", records("val")[:3])
    answer_shards(BulkRequest(str(data), "val", f"{tmp_path}/out", str(untrained), device="cpu", batch_images=2))
    assert sizes == [2]  # and one alone
    request = BulkRequest(str(data), "val", f"{tmp_path}/other", "scenes", device="cpu", batch_images=2)
    with pytest.raises(RefsegError, match="takes one picture at a time"):
        answer_shards(request)


def test_without_ray_one_line_says_how_to_get_it(three: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import builtins

    real = builtins.__import__

    def without(name: str, *rest: Any) -> Any:
        if name.partition(".")[0] == "ray":
            raise ImportError(name)
        return real(name, *rest)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(RefsegError, match="--engine ray needs Ray Data") as error:
        answer_shards(BulkRequest(f"{three}/data", "val", f"{tmp_path}/out", "scenes", engine="ray"))
    assert error.value.hint == "pip install 'refseg[ray]'"


@needs_ray
@pytest.mark.slow
def test_a_cluster_of_two_cores_makes_what_this_process_makes(
    three: Path, here: tuple[Path, Any], tmp_path: Path
) -> None:
    """A cluster takes half a minute to start on two cores, and gives up where these are busy."""
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    try:
        output = Output(f"{tmp_path}/data", shard_bytes=1 << 16, workers=2, engine="ray")
        made = prepare(PrepareRequest("grefcoco", three / "raw", output))
        assert contents(tmp_path / "data") == contents(three / "data")
        assert (made.written, made.kept) == (len(list((three / "data").glob("*.parquet"))), 0)
        request = BulkRequest(
            f"{three}/data", "val", f"{tmp_path}/out", "scenes", device="cpu", engine="ray", workers=2
        )
        report = answer_shards(request)
        assert contents(tmp_path / "out") == contents(here[0])
        assert report == replace(here[1], out=f"{tmp_path}/out")
        told = dict(cluster.spread(partial(partial, load_recipe), ["vlt-tiny", "nothing"], workers=1, threads=1))
        assert told["vlt-tiny"] == load_recipe("vlt-tiny")
        assert "nothing" in str(told["nothing"])
        [(_, fault)] = cluster.spread(partial(load_recipe, "no model"), [1], workers=1, threads=1)
        assert isinstance(fault, RefsegError)
    finally:
        ray.shutdown()
