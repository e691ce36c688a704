"""Sets in REFER's layout that are none of REFER's: ids as text, own splits, no boxes, no ids of sentences."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from typing import Any

import own_layout
import pytest
import raw_layout

from refseg_cli.app import main
from refseg_cli.data import shards
from refseg_cli.engine.prepare import Output, PrepareReport
from refseg_cli.engine.prepare_own import ReferRequest, prepare_refer
from refseg_cli.errors import FOUND, RefsegError


def ref(ref_id: Any, image_id: Any, ann_id: Any, split: str, sentences: list[Any], **more: Any) -> dict[str, Any]:
    row = {"ref_id": ref_id, "image_id": image_id, "ann_id": ann_id, "split": split, "sentences": sentences}
    return {**row, **more}


@pytest.fixture
def aerial(tmp_path: Path) -> Path:
    """Two images with ids as text; refs.json with three references."""
    images = [{"id": f"tile-{n}", "file_name": f"tile_{n}.jpg", "height": 40, "width": 60} for n in "ab"]
    rows = [own_layout.annotation(f"{n}{i}", f"tile-{n}", left) for n in "ab" for i, left in ((1, 5), (2, 45))]
    own_layout.write_coco(tmp_path, rows, images)
    refs = [
        ref("r1", "tile-a", "a1", "dev", [{"sent": "the left dog", "raw": "The left dog!"}, {"raw": "left"}]),
        ref("r2", "tile-b", ["b1", "b2"], "dev", ["both dogs"]),
        ref("r3", "tile-b", -1, "blind_test", [{"sent": "a ship", "sent_id": "s9"}], no_target=True),
    ]
    (tmp_path / "refs.json").write_text(json.dumps(refs))
    return tmp_path


def run(root: Path, refs: str = "refs.json", out: str = "out", **options: Any) -> PrepareReport:
    on_error = options.pop("on_error", "fail")
    output = Output(str(root / out), on_error=on_error)
    return prepare_refer(
        ReferRequest(root / refs, root / "instances.json", root / "photos", output, "aerial", **options)
    )


def test_ids_of_text_and_own_splits(aerial: Path) -> None:
    report = run(aerial)
    splits = report.manifest.splits
    assert {n: (s.images, s.refs, s.expressions) for n, s in splits.items()} == {
        "dev": (2, 2, 3),
        "blind_test": (1, 1, 1),
    }
    assert (report.manifest.dataset, report.manifest.image_source) == ("aerial", "aerial")
    assert not report.differences
    assert not report.repeated
    rows = shards.open_shards(str(aerial / "out"), "dev")
    found = {e.text: (e.raw, len(e.targets)) for i in range(2) for e in rows[i].expressions}
    assert found == {"the left dog": ("The left dog!", 1), "left": ("left", 1), "both dogs": ("both dogs", 2)}
    boxes = [i.box for n in range(2) for i in rows[n].instances]
    assert boxes == [(5.0, 20.0, 10.0, 10.0), (45.0, 20.0, 10.0, 10.0)] * 2


def test_a_pickle_with_numbers_is_read_as_well(aerial: Path) -> None:
    raw_layout.write_refcoco(aerial)
    request = ReferRequest(
        aerial / "refcoco/refs(unc).p",
        aerial / "refcoco/instances.json",
        aerial / "images",
        Output(str(aerial / "out")),
        "mine",
    )
    report = prepare_refer(request)
    assert {name: s.expressions for name, s in report.manifest.splits.items()} == {"train": 5, "val": 2}
    assert report.manifest.image_source == "mine"
    ids = [e.sent_id for e in shards.open_shards(str(aerial / "out"), "train")[0].expressions]
    assert ids == [0, 1, 10]


def test_wanted_splits_only(aerial: Path) -> None:
    assert run(aerial, splits=("dev",)).manifest.splits.keys() == {"dev"}


def test_without_splits_all_is_train(aerial: Path) -> None:
    rows = json.loads((aerial / "refs.json").read_text())
    (aerial / "refs.json").write_text(json.dumps([{k: v for k, v in row.items() if k != "split"} for row in rows]))
    assert run(aerial).manifest.splits.keys() == {"train"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"image_id": "tile-z"}, "unknown image_id: row 2: image 'tile-z'"),
        ({"ann_id": "z1"}, "unknown ann_id: row 2: 'z1': not in instances.json"),
        ({"ann_id": "a1"}, "unknown ann_id: row 2: 'a1': of another image"),
        ({"ann_id": []}, "row 2: ann_id is empty"),
        ({"ann_id": [], "no_target": "false"}, "row 2: ann_id is empty"),
        ({"ann_id": ["b1", -1]}, "row 2: ann_id with targets and -1 together"),
        ({"no_target": True}, "row 2: ann_id and no_target disagree"),
        ({"ann_id": None}, "row 2: no ann_id"),
        ({"ann_id": {"a": 1}}, "row 2: ann_id {'a': 1}"),
        ({"image_id": 1.5}, "row 2: image_id 1.5"),
        ({"sentences": [5]}, "row 2"),
        ({"sentences": None}, "row 2"),
        ({"sentences": [{"sent": "both", "sent_id": [1]}]}, "row 2: sent_id [1]"),
        ({"sentences": [" "]}, "empty expression"),
        ({"split": "test-A"}, "split 'test-A'"),
        ({"split": 4}, "row 2: split 4"),
    ],
)
def test_a_broken_row_is_named(aerial: Path, change: dict[str, Any], told: str) -> None:
    rows = json.loads((aerial / "refs.json").read_text())
    rows[1] |= change
    (aerial / "refs.json").write_text(json.dumps(rows))
    with pytest.raises(RefsegError) as caught:
        run(aerial)
    assert told in caught.value.message
    assert sum(split.refs for split in run(aerial, on_error="skip").manifest.splits.values()) == 2


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (b"{}", "holds a dict in place of a list of references"),
        (b"[3]", "row 1: 3 in place of a reference"),
        (b"[", "not JSON"),
        (None, "No such file"),
    ],
)
def test_a_file_that_is_none_is_named(aerial: Path, data: bytes | None, told: str) -> None:
    path = aerial / "refs.json"
    path.write_bytes(data) if data else path.unlink()
    with pytest.raises(RefsegError, match=told):
        run(aerial)


def test_a_pickle_runs_nothing(aerial: Path) -> None:
    (aerial / "refs.p").write_bytes(pickle.dumps(Path("/")))
    with pytest.raises(RefsegError, match=r"refs\.p"):
        run(aerial, "refs.p")


def test_the_command(aerial: Path) -> None:
    words = ["prepare", "refer", "--name", "rrsisd", "--refs", aerial / "refs.json"]
    words += ["--instances", aerial / "instances.json", "--images", aerial / "photos", "--out", aerial / "out"]
    assert main([str(word) for word in words]) == FOUND
    assert shards.read_manifest(str(aerial / "out")).dataset == "rrsisd"
