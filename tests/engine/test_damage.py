"""Damaged shards: every verb that reads them says which file, and what to do, before it gives a figure."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import raw_layout
import torch

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.config import Recipe
from refseg_cli.data import loader, shards
from refseg_cli.data.schema import SCHEMA
from refseg_cli.data.text import Tokenizer
from refseg_cli.engine.train import TrainRequest, train
from refseg_cli.errors import ERROR, RefsegError

Capture = pytest.CaptureFixture[str]
COLUMNS = ["image.bytes", "instances.list.element.rle.counts", "expressions.list.element.text"]


@pytest.fixture
def data(scenes: Path, tmp_path: Path) -> Path:
    """A copy of the prepared scenes."""
    return Path(shutil.copytree(scenes, tmp_path / "data"))


def as_format_1(data: Path) -> None:
    """Turn prepared data into what earlier builds wrote: no page checksums, the manifest under its earlier name."""
    table = json.loads((data / shards.MANIFEST).read_text())
    for file in (file for split in table["splits"].values() for file in split["files"]):
        path = data / file["name"]
        with pq.ParquetWriter(path.with_suffix(".old"), SCHEMA, compression="none") as writer:
            for batch in pq.ParquetFile(path).iter_batches(shards.ROWS_PER_GROUP):
                writer.write_batch(batch)
            writer.add_key_value_metadata({"refseg": pq.read_metadata(path).metadata[b"refseg"]})
        path.with_suffix(".old").replace(path)
        file |= {"bytes": path.stat().st_size, "sha256": hashlib.sha256(path.read_bytes()).hexdigest()}
    (data / shards.MANIFEST).unlink()
    (data / "manifest.json").write_text(json.dumps({**table, "format": 1}))


def damage(data: Path, split: str = "val", column: str = "image.bytes") -> str:
    """Flip ten bytes of a split; the name of the file."""
    name = f"{split}-00000-of-00001.parquet"
    raw_layout.flip(data / name, column)
    return name


def complaint(capfd: Capture, *words: object) -> str:
    """The one line with which a command line ends in an error."""
    capfd.readouterr()
    assert main(["--progress", "never", *map(str, words)]) == ERROR
    told = capfd.readouterr()
    assert told.out == ""
    [line] = told.err.splitlines()
    return line


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("old", [False, True])
def test_nothing_is_scored_on_a_damaged_shard(
    data: Path, untrained: Path, tmp_path: Path, capfd: Capture, column: str, old: bool
) -> None:
    if old:
        as_format_1(data)
    score = ["eval", "--model", untrained, "--data", data, "--split", "val", "--device", "cpu"]
    assert main([*map(str, score), "--records", str(tmp_path / "records.parquet"), "-q"]) == 0
    name = damage(data, column=column)
    for words in (
        score,
        [*score, "--report", tmp_path / "report.html"],
        ["eval", "--from", tmp_path / "records.parquet", "--data", data, "--split", "val"],
        ["eval", "--from", tmp_path / "records.parquet", "--data", data, "--report", tmp_path / "report.html"],
    ):
        line = complaint(capfd, *words)
        assert f"{data}/{name}: damaged shard: its SHA-256 is not that of the manifest" in line
        assert "`refseg prepare` again" in line
    assert not (tmp_path / "report.html").exists()
    assert name in complaint(capfd, "prepare", "check", data)


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("old", [False, True])
def test_training_does_not_go_over_damage(data: Path, tmp_path: Path, recipe: Recipe, split: str, old: bool) -> None:
    if old:
        as_format_1(data)
    name = damage(data, split)
    with pytest.raises(RefsegError, match=f"{name}: damaged shard"):
        train(TrainRequest(recipe, str(data), tmp_path / "run", device="cpu"))
    assert not (tmp_path / "run").exists()  # before the first step


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_that_a_loader_meets_is_one_line(data: Path, run: Path, recipe: Recipe, workers: int) -> None:
    name = damage(data)
    split = shards.open_shards(str(data), "val")
    dataset = loader.StepDataset(split, Tokenizer.load(run / "last"), recipe.data)
    steps = loader.sequential_steps(split.expression_counts, batch_images=1)
    with pytest.raises(RefsegError, match=f"{name}: damaged shard: [^\n]* CRC [^\n]*$") as caught:
        list(loader.iterate(dataset, steps, workers=workers))
    assert caught.value.hint == shards.REPAIR


@pytest.mark.parametrize("began", ["fingerprint", "plan"])
def test_a_run_does_not_go_on_with_other_photos(data: Path, run: Path, tmp_path: Path, began: str) -> None:
    """Of the same plan, which names no photo; runs of earlier builds have written down the plan alone."""
    out = Path(shutil.copytree(run, tmp_path / "run"))
    recipe, _, _ = checkpoint.read_config(out / "last")
    state = torch.load(out / "last/training.pt", weights_only=True)
    torch.save({**state, "data": getattr(shards.read_manifest(str(data)), began)}, out / "last/training.pt")
    train(TrainRequest(recipe, str(data), out, resume=True, device="cpu"))
    table = json.loads((data / shards.MANIFEST).read_text())
    table["splits"]["train"]["files"][0]["sha256"] = "0" * 64
    table["plan"] = "another" if began == "plan" else table["plan"]
    (data / shards.MANIFEST).write_text(json.dumps(table))
    with pytest.raises(RefsegError, match="the run was started with other data"):
        train(TrainRequest(recipe, str(data), out, resume=True, device="cpu"))
