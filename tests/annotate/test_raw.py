from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from garden import garden
from pictures import write_split

from refseg_cli.annotate.gallery import open_gallery
from refseg_cli.annotate.game import Game
from refseg_cli.annotate.game_file import begin_game
from refseg_cli.annotate.hosting import export_game, import_into_game
from refseg_cli.annotate.raw import export, import_
from refseg_cli.annotate.rules import Answer
from refseg_cli.annotate.store import Store
from refseg_cli.data.shards import open_shards
from refseg_cli.engine.prepare import Output, PrepareRequest, prepare
from refseg_cli.errors import RefsegError

WRITTEN = {
    (1, "Small One of <b>"): (11,),
    (1, "the two"): (11, 13),
    (3, "the purple dog"): (),
    (4, "the last one"): (43,),
}


def play(game: Game, *, agreeing: bool = True) -> None:
    """Ann writes, Vic validates."""
    for (image, phrase), targets in WRITTEN.items():
        task = game.store.begin("Ann", ("train", image))
        game.store.submit_sample(task.id, "Ann", phrase, targets, {"kind": "own"})
        asked = game.to_validate("Vic")
        assert asked is not None
        game.store.submit_answer(asked.id, "Vic", Answer(frozenset(targets if agreeing else (image * 10 + 2,))))


def prepared_from(root: Path) -> dict[tuple[str, int, str], tuple[int, ...]]:
    """What `prepare grefcoco` makes of an export: targets by split, image and raw phrase."""
    report = prepare(PrepareRequest("grefcoco", root, Output(str(root / "shards"))))
    assert report.problems == ()
    return {
        (split, record.image_id, e.raw): tuple(record.instances[t].ann_id for t in e.targets)
        for split in report.manifest.splits
        for record in open_shards(root / "shards", split)
        for e in record.expressions
    }


def test_an_export_is_prepared_as_grefcoco(game: Game, tmp_path: Path) -> None:
    play(game)
    task = game.store.begin("Ann", ("train", 2))
    game.store.submit_sample(task.id, "Ann", "still waiting", {21}, {"kind": "own"})
    report = export(game.store, game.gallery, tmp_path / "raw")
    assert (report.pictures, report.splits) == (3, {"train": {"single": 2, "multi": 1, "no_target": 1}})
    assert prepared_from(tmp_path / "raw") == {
        ("train", image, phrase): targets for (image, phrase), targets in WRITTEN.items()
    }
    original, again = (
        open_shards(game.gallery.about["data"], "train")[0],
        open_shards(tmp_path / "raw/shards", "train")[0],
    )
    assert again.image == original.image
    assert again.instances == original.instances
    assert [expression.text for expression in again.expressions] == ["small one of <b>", "the two"]


def test_references_have_grefcocos_keys_and_their_provenance(game: Game, tmp_path: Path) -> None:
    play(game)
    export(game.store, game.gallery, tmp_path)
    refs = json.loads((tmp_path / "grefcoco/grefs(unc).json").read_text("utf-8"))
    assert [(ref["ref_id"], ref["sent_ids"], ref["split"]) for ref in refs] == [(n, [n], "train") for n in range(4)]
    none = refs[2]
    assert (none["ann_id"], none["category_id"], none["no_target"]) == ([-1], [-1], True)
    assert refs[1]["ann_id"] == [11, 13]
    assert refs[1]["category_id"] == [1, 1]
    assert refs[0]["sentences"] == [
        {"sent_id": 0, "sent": "small one of <b>", "raw": "Small One of <b>", "tokens": ["small", "one", "of", "<b>"]}
    ]
    assert refs[0]["file_name"] == "1_0.png"
    came = refs[0]["provenance"]
    assert (came["annotator"], came["origin"]) == ("Ann", {"kind": "own"})
    assert [(v["validator"], v["agrees"]) for v in came["validators"]] == [("Vic", True)]
    coco = json.loads((tmp_path / "grefcoco/instances.json").read_text("utf-8"))
    assert [image["id"] for image in coco["images"]] == [1, 3, 4]
    assert [row["id"] for row in coco["annotations"]] == [11, 12, 13, 31, 32, 33, 41, 42, 43]
    assert coco["annotations"][0]["area"] == 100
    assert coco["info"]["pictures_from"]["dataset"] == "test"


def test_only_accepted_phrases_go_out(game: Game, tmp_path: Path) -> None:
    play(game, agreeing=False)
    with pytest.raises(RefsegError, match="no accepted phrase yet"):
        export(game.store, game.gallery, tmp_path)


def test_a_game_goes_on_from_an_export(game: Game, tmp_path: Path) -> None:
    play(game)
    first = export(game.store, game.gallery, tmp_path / "raw")
    begin_game(tmp_path / "next", game.gallery.about)
    report = import_into_game(tmp_path / "next", tmp_path / "raw")
    assert (report.added, report.known, report.problems) == (4, 0, ())
    assert import_into_game(tmp_path / "next", tmp_path / "raw").added == 0
    assert export_game(tmp_path / "next", tmp_path / "again").splits == first.splits
    for name in ("grefs(unc).json", "instances.json"):
        assert (tmp_path / "again/grefcoco" / name).read_bytes() == (tmp_path / "raw/grefcoco" / name).read_bytes()


def test_grefcoco_itself_is_imported(game: Game, scenes: Path, tmp_path: Path) -> None:
    from refseg_cli.data.scenes import generate

    generate(tmp_path / "raw", images={"train": 10, "val": 4, "testA": 2, "testB": 2}, seed=5)
    gallery = open_gallery(str(scenes))
    begin_game(tmp_path / "scenes", gallery.about)
    store = Store(tmp_path / "scenes")
    report = import_(store, gallery, tmp_path / "raw")
    assert report.problems == ()
    assert report.added > 100
    exported = export(store, gallery, tmp_path / "out")
    assert set(exported.splits) == {"train", "val", "testA", "testB"}
    assert len(prepared_from(tmp_path / "out")) == report.added


def change(row: dict, **changes: object) -> dict:
    return {**row, **changes}


def test_what_cannot_be_imported_is_named(game: Game, tmp_path: Path) -> None:
    play(game)
    export(game.store, game.gallery, tmp_path)
    path = tmp_path / "grefcoco/grefs(unc).json"
    good, *_ = rows = json.loads(path.read_text("utf-8"))
    bad = [
        change(good, ref_id=10, image_id=99),
        change(good, ref_id=11, split="val"),
        change(good, ref_id=12, ann_id=[21]),
        change(good, ref_id=13, ann_id=[11, -1]),
        change(good, ref_id=14, sentences=[{"sent_id": 1, "sent": " ", "raw": "\x07"}]),
        change(good, ref_id=[15]),
        7,
    ]
    path.write_text(json.dumps([*rows, *bad]), "utf-8")
    begin_game(tmp_path / "next", game.gallery.about)
    report = import_into_game(tmp_path / "next", tmp_path)
    assert report.added == 4
    assert len(report.problems) == len(bad)
    assert "ref 10: image 99 of train is not in this game" in report.problems[0]
    for text, told in (
        ("{}", "no list of references"),
        (json.dumps(bad), "nothing to import.*image 99"),
        ("[", "not JSON"),
    ):
        path.write_text(text, "utf-8")
        with pytest.raises(RefsegError, match=told):
            import_into_game(tmp_path / "next", tmp_path)


def test_no_name_of_a_photo_leads_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    names = ("../../../etc/cron.d/x.png", "C:\\windows\\x.png", "..", "sub/X.png")
    named = zip(garden("train", range(1, 5)), names, strict=True)
    write_split(folder, "train", [dataclasses.replace(record, file_name=name) for record, name in named])
    gallery = open_gallery(str(folder))
    begin_game(tmp_path / "game", gallery.about)
    store = Store(tmp_path / "game")
    store.add_imported([("train", n, "one", (10 * n + 1,), {}) for n in range(1, 5)])
    export(store, gallery, tmp_path / "a/b/c/raw")
    written = {path.relative_to(tmp_path / "a").as_posix() for path in (tmp_path / "a").rglob("*") if path.is_file()}
    names = {"x.png", "2_x.png", "3_", "4_X.png"}
    assert written == {f"b/c/raw/images/{name}" for name in names} | {
        f"b/c/raw/grefcoco/{name}" for name in ("grefs(unc).json", "instances.json")
    }


def test_an_export_of_other_data_is_refused(game: Game, prepared: Path, tmp_path: Path) -> None:
    play(game)
    game.store.add_imported([("val", 5, "of another split", (51,), {})])
    with pytest.raises(RefsegError, match="image 5 of val: not in"):
        export(game.store, game.gallery, tmp_path)
    prepared.rename(tmp_path / "moved")
    with pytest.raises(RefsegError, match="no complete prepared data"):
        export_game(tmp_path / "game", tmp_path / "raw")
    with pytest.raises(RefsegError, match="image 5"):  # found again
        export_game(tmp_path / "game", tmp_path / "raw", data=str(tmp_path / "moved"))
