"""Clips scored from folders and zips of masks: J&F and steadiness, each broken input, and the way there and back."""

from __future__ import annotations

import json
import shutil
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import films
import numpy as np
import pytest
from PIL import Image

from refseg_cli.app import main
from refseg_cli.data import masks
from refseg_cli.data.clips import Clips
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.prepare import Output
from refseg_cli.engine.prepare_video import VideoRequest, prepare_video
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.evaluation.clips import score_clips
from refseg_cli.evaluation.outside import OutsideRequest, score_file
from refseg_cli.evaluation.submission import png, write_submission
from refseg_cli.metrics.video import boundary_accuracy, region_similarity, steady

Capture = pytest.CaptureFixture[str]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A clip with masks and one without, and two more of train's as val."""
    root = films.mevis(tmp_path_factory.mktemp("raw") / "mevis")
    shutil.copytree(root / "train", root / "val")
    out = root.parent / "out"
    prepare_video(VideoRequest("mevis", root, Output(str(out))))
    return out


def truths(data: Path, split: str = "train") -> Iterator[tuple[str, np.ndarray]]:
    """VIDEO/EXPRESSION/FRAME and the mask, (h, w) bool."""
    shards = open_shards(data, split)
    for clip in Clips(shards):
        for record in (shards[row] for row in clip.rows):
            for e in record.expressions:
                name = f"{clip.name}/{e.sent_id % 10_000}/{Path(record.file_name).stem}"
                yield name, masks.decode(masks.targets(record, e)).astype(bool)


def folder(data: Path, path: Path, change: Callable[[np.ndarray, str], np.ndarray], split: str = "train") -> Path:
    for name, mask in truths(data, split):
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / f"{name}.png").write_bytes(png(change(mask, name)))
    return path


def same(mask: np.ndarray, name: str) -> np.ndarray:
    return mask


def shifted(mask: np.ndarray, name: str) -> np.ndarray:
    """In every other frame by three pixels."""
    return np.roll(mask, 3, axis=1) if name.endswith("00005") else mask


def scored(data: Path, source: Path, capsys: Capture, *more: str) -> dict[str, dict[str, float]]:
    assert main(["eval", "--data", str(data), "--split", "train", "--from", str(source), "--json", *more]) == FOUND
    return json.loads(capsys.readouterr().out)["splits"]["train"]["protocols"]["video"]


def values(found: dict[str, dict[str, float]]) -> dict[str, float]:
    return {name: row["value"] / 100 for name, row in found.items()}


def test_the_truth_is_right_and_steady(data: Path, tmp_path: Path, capsys: Capture) -> None:
    found = scored(data, folder(data, tmp_path / "all", same), capsys)
    assert values(found) == {"J&F": 1, "J": 1, "F": 1, "steadiness": 1}
    assert found["J"]["expressions"] == 3
    assert found["J"]["images"] == 1


def test_figures_are_means_over_frames_and_then_expressions(data: Path, tmp_path: Path, capsys: Capture) -> None:
    found = values(scored(data, folder(data, tmp_path / "all", shifted), capsys))
    tracks: dict[str, list[tuple[np.ndarray, np.ndarray]]] = {}
    for name, mask in truths(data):
        tracks.setdefault(name.rpartition("/")[0], []).append((shifted(mask, name), mask))
    pairs = [[np.stack(part) for part in zip(*track, strict=True)] for track in tracks.values()]
    j, f = (np.mean([score(*pair).mean() for pair in pairs]) for score in (region_similarity, boundary_accuracy))
    steadiness = [steady(*(region_similarity(masks[1:], masks[:-1]) for masks in pair)).mean() for pair in pairs]
    expected = {"J": j, "F": f, "J&F": (j + f) / 2, "steadiness": np.mean(steadiness)}
    assert found == pytest.approx(expected)
    assert 0 < found["steadiness"] < 1


def test_slices_of_clips_are_by_expression(data: Path, tmp_path: Path, capsys: Capture) -> None:
    """Three of one clip: one says motion, one means nothing; a thing counts by the frame that shows most of it."""
    source = folder(data, tmp_path / "all", shifted)
    words = ["eval", "--data", str(data), "--split", "train", "--from", str(source), "--slices"]
    assert main([*words, "--json"]) == FOUND
    split = json.loads(capsys.readouterr().out)["splits"]["train"]
    rows = {(row["group"], row["slice"]): row for row in split["slices"]}
    names = ("no target", "single", "multi")
    assert {name: rows["targets", name]["expressions"] for name in names} == dict.fromkeys(names, 1)
    assert rows["says", "none of these"]["expressions"] == 1
    [leaves] = [row for key, row in rows.items() if key == ("says", "motion")]
    assert leaves["scores"].keys() == split["protocols"]["video"].keys()
    each = [rows["targets", name]["scores"]["J&F"]["value"] for name in names]
    assert split["protocols"]["video"]["J&F"]["value"] == pytest.approx(np.mean(each))
    assert main([*words, "--markdown"]) == FOUND
    [row] = [line for line in capsys.readouterr().out.splitlines() if "| motion |" in line]
    assert f"{leaves['scores']['J&F']['value']:.2f}" in row


def test_zip_folder_palette_and_records_score_alike(data: Path, tmp_path: Path, capsys: Capture) -> None:
    source = folder(data, tmp_path / "all", shifted)
    records = tmp_path / "answers.parquet"
    plain = values(scored(data, source, capsys, "--records", str(records)))
    archive = tmp_path / "all.zip"
    with zipfile.ZipFile(archive, "w") as made:
        for file in source.rglob("*.png"):
            made.write(file, f"Annotations/{file.relative_to(source)}")
    for number, path in enumerate((archive, records)):
        assert values(scored(data, path, capsys)) == plain
        palette = tmp_path / f"palette{number}"
        words = ["eval", "--data", str(data), "--split", "train", "--from", str(path), "-q"]
        assert main([*words, "--submission", str(palette), "--palette"]) == FOUND
        capsys.readouterr()
        assert values(scored(data, palette, capsys)) == plain
    with Image.open(next(palette.rglob("*.png"))) as image:
        assert image.mode == "P"


def test_a_submission_of_a_split_without_masks(data: Path, tmp_path: Path, capsys: Capture) -> None:
    source = folder(data, tmp_path / "all", same, split="valid")
    words = ["eval", "--data", str(data), "--split", "valid", "--from", str(source)]
    assert main(words) == ERROR
    assert "valid has no masks to score against" in capsys.readouterr().err
    assert main([*words, "--submission", str(tmp_path / "out")]) == FOUND
    assert not capsys.readouterr().out, "no figures"
    names = [path.relative_to(source) for path in sorted(source.rglob("*.png"))]
    assert [path.relative_to(tmp_path / "out") for path in sorted((tmp_path / "out").rglob("*.png"))] == names
    assert all((source / name).read_bytes() == (tmp_path / "out" / name).read_bytes() for name in names)
    assert main([*words, "--submission", str(tmp_path / "none.zip"), "--slices"]) == ERROR
    assert "a split without masks has no use for --slices" in capsys.readouterr().err
    for zipped in ("one.zip", "two.zip"):
        assert main([*words, "--submission", str(tmp_path / zipped)]) == FOUND
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    assert zipfile.ZipFile(tmp_path / "one.zip").namelist() == [str(name) for name in names]
    capsys.readouterr()
    assert main([*words, "--submission", str(tmp_path / "one.zip")]) == ERROR
    assert "one.zip: exists" in capsys.readouterr().err


def test_youtube_vos_has_its_folder_around_the_videos(tmp_path: Path) -> None:
    out = tmp_path / "out"
    prepare_video(VideoRequest("ref-youtube-vos", films.youtube_vos(tmp_path / "raw"), Output(str(out))))
    source = folder(out, tmp_path / "all", same)
    found = score_file(OutsideRequest(str(source), str(out), ("train",), masks=True))
    write_submission(tmp_path / "sub", open_shards(out, "train"), found.answers["train"], found.masks)
    assert (tmp_path / "sub/Annotations/aa1/0/00010.png").read_bytes() == (source / "aa1/0/00010.png").read_bytes()


def test_void_pixels_count_for_nothing(tmp_path: Path) -> None:
    """DAVIS' void is the corner, which the answers take for part of every thing."""
    out = tmp_path / "out"
    prepare_video(VideoRequest("ref-davis17", films.davis(tmp_path / "raw"), Output(str(out)), ("train",)))

    def with_corner(mask: np.ndarray, name: str) -> np.ndarray:
        mask[0, 0] = True
        return mask

    found = score_file(
        OutsideRequest(str(folder(out, tmp_path / "all", with_corner)), str(out), ("train",), masks=True)
    )
    scores = score_clips(open_shards(out, "train"), found.answers["train"], found.masks)
    assert scores.table.values().tolist()[:3] == [1, 1, 1]


FAULTS: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: (path / "aa1/0/00005.png").unlink(),
    "unknown: no VIDEO/EXPRESSION/FRAME.png": lambda path: (path / "aa1/0/00005.png").rename(path / "aa1/0/x.png"),
    "unreadable: cannot identify": lambda path: (path / "aa1/0/00005.png").write_bytes(b"no picture"),
    "unreadable: a picture in RGB": lambda path: Image.new("RGB", (32, 24)).save(path / "aa1/0/00005.png"),
    "wrong size": lambda path: (path / "aa1/0/00005.png").write_bytes(png(np.ones((4, 4)))),
}


@pytest.mark.parametrize("told", FAULTS)
def test_each_broken_input_is_named(told: str, data: Path, tmp_path: Path, capsys: Capture) -> None:
    source = folder(data, tmp_path / "all", same)
    FAULTS[told](source)
    words = ["eval", "--data", str(data), "--split", "train", "--from", str(source)]
    assert main(words) == ERROR
    assert told in capsys.readouterr().err
    assert values(scored(data, source, capsys, "--on-error", "skip"))["J&F"] == 1


def test_no_zip(data: Path, tmp_path: Path, capsys: Capture) -> None:
    (tmp_path / "all.zip").write_bytes(b"no zip")
    assert main(["eval", "--data", str(data), "--split", "train", "--from", str(tmp_path / "all.zip")]) == ERROR
    assert "all.zip: cannot read" in capsys.readouterr().err


def test_two_models_are_compared_by_clip(data: Path, tmp_path: Path, capsys: Capture) -> None:
    for name, change in (("a", same), ("b", shifted)):
        source = folder(data, tmp_path / name, change)
        scored(data, source, capsys, "--records", str(tmp_path / f"{name}.parquet"))
    files = [str(tmp_path / f"{name}.parquet") for name in "ab"]
    assert main(["compare", *files, "--protocol", "video", "--json"]) == FOUND
    found = json.loads(capsys.readouterr().out)
    text = json.dumps(found)
    assert '"steadiness"' in text
    assert main(["compare", files[0], files[0], "--protocol", "video"]) == FOUND
    assert "+0.00" in capsys.readouterr().out


def test_the_protocol_of_clips_is_not_for_pictures_and_others_are_for_clips(
    data: Path, tmp_path: Path, capsys: Capture
) -> None:
    source = folder(data, tmp_path / "all", same)
    words = ["eval", "--data", str(data), "--split", "train", "--from", str(source), "--json"]
    assert main([*words, "--protocol", "refseg,video"]) == FOUND
    row = json.loads(capsys.readouterr().out)["splits"]["train"]
    assert list(row["protocols"]) == ["refseg", "video"]
    assert (row["expressions"], row["images"]) == (9, 1), "phrases of frames, and clips, which vary independently"
    assert main([*words, "--palette"]) == ERROR


def test_pictures_have_no_protocol_of_clips(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "out"
    assert main(["prepare", "scenes", "--images", "val=1", "--out", str(out), "-q"]) == FOUND
    rows = open_shards(out, "val")
    with (tmp_path / "answers.jsonl").open("w") as file:
        for e in rows[0].expressions:
            file.write(json.dumps({"sent_id": e.sent_id, "no_target": True}) + "\n")
    capsys.readouterr()
    words = ["eval", "--data", str(out), "--from", str(tmp_path / "answers.jsonl")]
    assert main([*words, "--protocol", "video"]) == ERROR
    assert "the protocol video is for clips" in capsys.readouterr().err
    assert main(words) == FOUND
    assert "refseg" in capsys.readouterr().out
    capsys.readouterr()
    assert main([*words, "--submission", str(tmp_path / "out.zip")]) == ERROR
    assert "val has pictures, not clips: --submission is for clips (omit --submission)" in capsys.readouterr().err
    found = score_file(OutsideRequest(str(tmp_path / "answers.jsonl"), str(out), ("val",), masks=True))
    with pytest.raises(RefsegError, match="submissions are of clips"):
        write_submission(tmp_path / "out.zip", rows, found.answers["val"], found.masks)
    assert not (tmp_path / "out.zip").exists(), "nor an empty one, that would be in the next one's way"
