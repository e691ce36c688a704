"""Videos with expressions, in three layouts, to shards in which the frames of a clip stay together."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import films
import numpy as np
import pytest

from refseg_cli.app import main
from refseg_cli.data import masks, shards
from refseg_cli.data.clips import Clips
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.prepare import Output, PrepareReport
from refseg_cli.engine.prepare_video import VideoRequest, prepare_moving_scenes, prepare_video
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.records import Record

ALL_META = "train/meta_expressions.json"
YOUTUBE_META = "meta_expressions/train/meta_expressions.json"


def prepared(dataset: str, root: Path, out: Path, **options: object) -> PrepareReport:
    splits = options.pop("splits", ())
    return prepare_video(VideoRequest(dataset, root, Output(str(out), **options), splits))  # type: ignore[arg-type]


def frames(out: Path, split: str = "train") -> list[Record]:
    rows = open_shards(out, split)
    return [rows[i] for i in range(len(rows))]


def decoded(record: Record, expression: int) -> np.ndarray:
    return masks.decode(masks.targets(record, record.expressions[expression])).astype(bool)


def test_ref_youtube_vos(tmp_path: Path) -> None:
    root = films.youtube_vos(tmp_path / "raw")
    report = prepared("ref-youtube-vos", root, tmp_path / "out")
    rows = frames(tmp_path / "out")
    assert [(r.clip, r.frame, r.file_name) for r in rows] == [
        (video, i, f"{video}/{name}.jpg") for video in ("aa1", "bb2") for i, name in enumerate(films.FRAMES)
    ]
    for record in rows:
        assert record.image == (root / "train/JPEGImages" / record.file_name).read_bytes()
        assert [(e.text, e.raw) for e in record.expressions] == [
            ("the moving thing", "The moving  thing"),
            ("a thing that stands", "a thing that stands"),
        ]
        for e in range(2):
            assert (decoded(record, e) == (films.numbers(record.frame) == e + 1)).all()
    assert [i.category for i in rows[0].instances] == ["dog", "person"]
    assert [[i.ann_id for i in r.instances] for r in rows[:3]] == [[1, 2], [1, 2], [1]]
    assert [e.sent_id for e in rows[3].expressions] == [10_000, 10_001]
    info = report.manifest.splits
    assert (info["train"].clips, info["train"].images, info["train"].expressions, info["train"].single) == (2, 6, 4, 4)
    assert [(name, split.clips, split.masks) for name, split in info.items()] == [
        ("train", 2, True),
        ("test", 1, False),
        ("valid", 1, False),
    ]
    assert {r.clip for r in frames(tmp_path / "out", "valid")} == {"cc3"}, "what is listed in test is of test"


def test_mevis(tmp_path: Path) -> None:
    report = prepared("mevis", films.mevis(tmp_path / "raw"), tmp_path / "out")
    rows = frames(tmp_path / "out")
    for record in rows:
        truth = films.numbers(record.frame)
        for e, wanted in enumerate((truth > 0, truth == 2, truth > 2)):
            assert (decoded(record, e) == wanted).all()
    assert [[i.ann_id for i in r.instances] for r in rows] == [[7, 8], [7, 8], [7]]
    assert [e.sent_id for e in rows[0].expressions] == [0, 1, 3]
    info = report.manifest.splits["train"]
    assert (info.single, info.multi, info.no_target) == (1, 1, 1)
    assert not report.manifest.splits["valid"].masks
    assert ("valid_u", "clips", 0, 50) in {(d.split, d.what, d.found, d.published) for d in report.differences}


def test_ref_davis17(tmp_path: Path) -> None:
    prepared("ref-davis17", films.davis(tmp_path / "raw"), tmp_path / "out")
    rows = frames(tmp_path / "out")
    assert [r.clip for r in rows] == ["classic-car"] * 3
    assert [(e.sent_id, e.text) for e in rows[0].expressions] == [
        (0, "thing 1 by annot1"),
        (1, "thing 1 by annot1_full_video"),
        (2, "thing 1 by annot2"),
        (3, "thing 1 by annot2_full_video"),
        (4, "thing 2 by annot1"),
        (5, "thing 2 by annot1_full_video"),
        (6, "caf\xe9 by annot2"),
        (7, "caf\xe9 by annot2_full_video"),
    ]
    assert (decoded(rows[1], 6) == (films.numbers(1) == 2)).all()
    ignored = rows[0].expressions[0].ignored
    assert ignored
    assert np.argwhere(masks.decode(ignored)).tolist() == [[0, 0]]
    assert frames(tmp_path / "out", "val")[0].expressions[0].sent_id == 10_000


def test_davis_in_the_layout_of_youtube_vos_is_read_too(tmp_path: Path) -> None:
    prepared("ref-davis17", films.youtube_vos(tmp_path / "raw"), tmp_path / "out", splits=("train",))
    assert len(frames(tmp_path / "out")) == 6


def test_moving_scenes_are_read_by_the_same_reader(tmp_path: Path) -> None:
    raw, out = tmp_path / "raw", tmp_path / "out"
    made = prepare_moving_scenes(str(out), clips={"train": 2, "val": 1}, frames=4, raw=raw)
    again = prepared("mevis", raw, tmp_path / "again")
    assert {s: i.expressions for s, i in made.manifest.splits.items()} == {
        s: i.expressions for s, i in again.manifest.splits.items()
    }
    assert frames(out) == frames(tmp_path / "again")
    assert main(["prepare", "check", str(out), str(tmp_path / "again")]) == FOUND


def test_a_clip_stays_in_one_shard(tmp_path: Path) -> None:
    root = films.youtube_vos(tmp_path / "raw")
    size = (root / "train/JPEGImages/aa1/00000.jpg").stat().st_size
    for number, limit in enumerate((1, 4 * size, 100 * size)):
        out = tmp_path / f"out{number}"
        report = prepared("ref-youtube-vos", root, out, shard_bytes=limit, splits=("train",))
        assert [file.images for file in report.manifest.splits["train"].files] == ([6] if number == 2 else [3, 3])
        assert [clip.name for clip in Clips(open_shards(out, "train"))] == ["aa1", "bb2"]


def test_a_rerun_keeps_all_and_is_byte_identical(tmp_path: Path) -> None:
    root, out = films.youtube_vos(tmp_path / "raw"), tmp_path / "out"
    first = prepared("ref-youtube-vos", root, out)
    hashes = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()}
    next(out.glob("train-*")).unlink()
    again = prepared("ref-youtube-vos", root, out)
    assert (first.written, again.written, again.kept) == (3, 1, 2)
    assert {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in out.iterdir()} == hashes


def test_another_mask_is_other_data(tmp_path: Path) -> None:
    root, out = films.youtube_vos(tmp_path / "raw"), tmp_path / "out"
    prepared("ref-youtube-vos", root, out)
    films.palette_png(root / "train/Annotations/aa1/00000.png", films.numbers(1))
    with pytest.raises(RefsegError, match="other inputs"):
        prepared("ref-youtube-vos", root, out)


def remove(path: str) -> Callable[[Path], None]:
    return lambda root: shutil.rmtree(root / path) if (root / path).is_dir() else (root / path).unlink()


def put(path: str, data: bytes) -> Callable[[Path], None]:
    return lambda root: (root / path).write_bytes(data) and None


def edit(path: str, *keys: str, to: object) -> Callable[[Path], None]:
    return lambda root: films.change(root / path, *keys, to=to)


def in_colour(root: Path) -> None:
    (root / "train/Annotations/aa1/00000.png").write_bytes((root / "train/JPEGImages/aa1/00000.jpg").read_bytes())


def other_size(root: Path) -> None:
    films.palette_png(root / "train/Annotations/aa1/00000.png", np.ones((12, 32), np.uint8))


YOUTUBE_FAULTS = {
    "aa1/00005.jpg: .*missing image": remove("train/JPEGImages/aa1/00005.jpg"),
    "aa1/00000.jpg: .*missing image": remove("train/JPEGImages/aa1"),
    "aa1/00005.jpg: .*missing mask": remove("train/Annotations/aa1/00005.png"),
    "00000.png: .*broken mask: cannot identify": put("train/Annotations/aa1/00000.png", b"no picture"),
    "00000.png: .*broken mask: a picture in RGB": in_colour,
    "aa1/00000.jpg: .*mask larger than image": other_size,
    "aa1/00000.jpg: .*broken image": put("train/JPEGImages/aa1/00000.jpg", b"\xff\xd8\xff"),
    "unknown ann_id: expression 0: obj_id 3": edit(YOUTUBE_META, "videos", "aa1", "expressions", "0", "obj_id", to="3"),
    "expression '0': no 'exp'": edit(YOUTUBE_META, "videos", "aa1", "expressions", "0", to={"obj_id": "1"}),
    "empty expression: video aa1": edit(YOUTUBE_META, "videos", "aa1", "expressions", "0", "exp", to="  "),
    "expression 'x': its id is not a number": edit(
        YOUTUBE_META, "videos", "aa1", "expressions", "x", to={"exp": "a", "obj_id": "1"}
    ),
    "expression 0: no obj_id": edit(YOUTUBE_META, "videos", "aa1", "expressions", "0", to={"exp": "a"}),
    "video 'aa1': frame '../x' is not the name": edit(YOUTUBE_META, "videos", "aa1", "frames", to=["../x"]),
    "video 'aa1': a frame twice": edit(YOUTUBE_META, "videos", "aa1", "frames", to=["00000", "00000"]),
    "video 'aa1': no frames": edit(YOUTUBE_META, "videos", "aa1", "frames", to=[]),
    "video 'aa1': ": edit(YOUTUBE_META, "videos", "aa1", to=5),
}
MEVIS_FAULTS = {
    "unknown ann_id: expression 0: anno_id 7": edit("train/mask_dict.json", "7", to=None),
    "anno_id 7 has 1 masks, the video 3 frames": edit("train/mask_dict.json", "7", to=[None]),
    "anno_id 7 has no masks": edit("train/mask_dict.json", "7", to={}),
    "aa1/00000.jpg: .*broken mask: annotation 7": edit(
        "train/mask_dict.json", "7", to=[{"size": [24, 32]}, None, None]
    ),
    "mask larger than image: annotation 7": edit(
        "train/mask_dict.json", "7", to=[{"size": [2, 2], "counts": [4]}, None, None]
    ),
    "nested too deeply": edit("train/mask_dict.json", "7", to=[[[[[]]]], None, None]),
}
WHOLE_FAULTS = {
    "no `videos` in it": edit(ALL_META, "videos", to=[]),
    "mask_dict.json: not JSON": put("train/mask_dict.json", b"{"),
    "mask_dict.json: no table": put("train/mask_dict.json", b"[]"),
}


@pytest.mark.parametrize("told", YOUTUBE_FAULTS)
def test_each_broken_input_of_youtube_vos_is_named(told: str, tmp_path: Path) -> None:
    _named_and_skipped("ref-youtube-vos", films.youtube_vos(tmp_path / "raw"), told, YOUTUBE_FAULTS[told], tmp_path)


@pytest.mark.parametrize("told", MEVIS_FAULTS)
def test_each_broken_input_of_mevis_is_named(told: str, tmp_path: Path) -> None:
    root = films.mevis(tmp_path / "raw")
    _named_and_skipped("mevis", root, told, MEVIS_FAULTS[told], tmp_path)


def _named_and_skipped(dataset: str, root: Path, told: str, spoil: Callable[[Path], None], folder: Path) -> None:
    spoil(root)
    with pytest.raises(RefsegError, match=told):
        prepared(dataset, root, folder / "out")
    report = prepared(dataset, root, folder / "out", on_error="skip")
    assert report.problems
    rows = frames(folder / "out")
    for clip in Clips(open_shards(folder / "out", "train")):
        of_clip = [rows[i] for i in clip.rows]
        assert len({tuple(e.sent_id for e in r.expressions) for r in of_clip}) == 1
    assert main(["prepare", "check", str(folder / "out")]) == FOUND


@pytest.mark.parametrize("told", WHOLE_FAULTS)
def test_files_that_are_none_end_with_status_2(told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = films.mevis(tmp_path / "raw")
    WHOLE_FAULTS[told](root)
    assert main(["prepare", "mevis", "--root", str(root), "--out", str(tmp_path / "out")]) == ERROR
    assert told in capsys.readouterr().err


def test_categories_of_another_form(tmp_path: Path) -> None:
    root = films.youtube_vos(tmp_path / "raw")
    films.write(root / "train/meta.json", {"videos": {"aa1": {"objects": {"1": {}}}}})
    with pytest.raises(RefsegError, match=r"meta\.json: not of the form"):
        prepared("ref-youtube-vos", root, tmp_path / "out")


@pytest.mark.parametrize(
    ("missing", "told"),
    [
        ("DAVIS/ImageSets/2017/val.txt", "val.txt: No such file"),
        ("davis_text_annotations/Davis17_annot2.txt", "Davis17_annot2.txt: No such file"),
        ("DAVIS/Annotations_unsupervised", "Annotations/480p: no such folder"),
    ],
)
def test_missing_files_of_davis(missing: str, told: str, tmp_path: Path) -> None:
    root = films.davis(tmp_path / "raw")
    remove(missing)(root)
    with pytest.raises(RefsegError, match=told):
        prepared("ref-davis17", root, tmp_path / "out")


def test_broken_lines_and_videos_of_davis(tmp_path: Path) -> None:
    root = films.davis(tmp_path / "raw")
    path = root / "davis_text_annotations/Davis17_annot1.txt"
    path.write_text(path.read_text() + 'nonsense\nbear 3 ""\n')
    shutil.rmtree(root / "DAVIS/JPEGImages/480p/bear")
    report = prepared("ref-davis17", root, tmp_path / "out", on_error="skip", splits=("train",))
    told = sorted(map(str, report.problems))
    assert [line.split(": ", 1)[1] for line in told] == [
        "broken ref: line 5: 'nonsense'",
        "empty expression: line 6: 'bear 3 \"\"'",
    ]
    path.write_text('bear 1 "x"\n')
    with pytest.raises(RefsegError, match=r"val/bear.*no frames"):
        prepared("ref-davis17", root, tmp_path / "other", splits=("val",))


def test_no_such_split_or_folder(tmp_path: Path) -> None:
    root = films.mevis(tmp_path / "raw")
    with pytest.raises(RefsegError, match="no split tset"):
        prepared("mevis", root, tmp_path / "out", splits=("tset",))
    with pytest.raises(RefsegError, match="no such folder"):
        prepared("mevis", tmp_path / "nowhere", tmp_path / "out")
    with pytest.raises(RefsegError, match=r"no meta_expressions\.json"):
        prepared("mevis", tmp_path, tmp_path / "out")


def test_check_finds_a_clip_that_the_manifest_does_not_count(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    prepared("mevis", films.mevis(tmp_path / "raw"), tmp_path / "out")
    path = tmp_path / "out" / shards.MANIFEST
    table = json.loads(path.read_text())
    table["splits"]["train"]["clips"] = 2
    path.write_text(json.dumps(table))
    assert main(["prepare", "check", str(tmp_path / "out")]) == ERROR
    assert "train: 1 clips in the files, 2 in the manifest" in capsys.readouterr().err


def test_a_clip_in_two_splits_is_a_leak(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = films.mevis(tmp_path / "raw")
    shutil.copytree(root / "train", root / "valid_u")
    prepared("mevis", root, tmp_path / "out")
    assert main(["prepare", "check", str(tmp_path / "out")]) == 1
