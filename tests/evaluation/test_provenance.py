"""The paper's row beside ours only where it belongs there; pictures that were trained on."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from pictures import records, write_split

from refseg_cli.config import Published, load_recipe, recipe_names
from refseg_cli.data.shards import MANIFEST
from refseg_cli.evaluation.answers import About
from refseg_cli.evaluation.evaluate import EvalReport
from refseg_cli.evaluation.provenance import cautions, published_row, published_rows, shared_images
from refseg_cli.metrics.protocols import BY_NAME

ABOUT = About(dataset="refcocog", split_by="umd")
PAPER = Published(
    paper="Liu 2024",
    table="4.7",
    row="VLT",
    protocol="vlt",
    figures={"refcocog-umd/val": {"IoU": 54.96, "Pr@0.5": 62.05}, "refcoco/val": {"IoU": 67.52}},
)


def test_the_row_of_this_data_split_and_protocol():
    row = published_row(PAPER, ABOUT, "val", "vlt")
    assert (row.source, row.figures, row.caution) == ("Liu 2024, table 4.7, VLT", {"IoU": 54.96, "Pr@0.5": 62.05}, "")
    assert published_row(PAPER, ABOUT, "test", "vlt") is None
    assert published_row(PAPER, replace(ABOUT, split_by="google"), "val", "vlt") is None
    assert published_row(PAPER, About(dataset="refcoco", split_by="unc"), "val", "vlt").figures == {"IoU": 67.52}
    assert published_row(Published(), ABOUT, "val", "vlt") is None


def test_a_cross_dataset_figure_belongs_to_models_trained_on_the_one_and_scored_on_the_other():
    paper = load_recipe("vlt-cl").published
    about = About(dataset="refcoco+", split_by="unc", trained_on="refcoco")
    assert published_row(paper, about, "val", "vlt").figures["IoU"] == 49.92
    assert published_row(paper, replace(about, trained_on="refcoco+"), "val", "vlt") is None
    assert published_row(paper, replace(about, trained_on=None), "val", "vlt") is None
    assert published_row(paper, About(dataset="refcoco", trained_on="refcoco"), "val", "vlt") is None


def test_figures_by_another_protocol_are_named_but_not_given():
    other = published_row(PAPER, ABOUT, "val", "refseg")
    assert (other.figures, other.caution) == ({}, "its figures are by the protocol vlt")
    unknown = published_row(replace(PAPER, protocol=""), ABOUT, "val", "vlt")
    assert unknown.figures == {}
    assert "does not say" in unknown.caution


def test_two_words_for_the_overall_iou_and_figures_that_the_protocol_does_not_have():
    paper = Published(protocol="lavt", figures={"refcocog/val": {"cIoU": 61.24, "mIoU": 63.34, "AP": 1.0}})
    row = published_row(paper, ABOUT, "val", "lavt")
    assert row.figures == {"oIoU": 61.24, "mIoU": 63.34}
    assert row.caution == "AP: no metric of the protocol lavt"


def rows_of(name, *changed):
    """The rows for `val` and `test` of RefCOCO, whose model was trained by a recipe and changed."""
    recipe = load_recipe(name)
    about = About(dataset="refcoco", arch=recipe.arch)
    report = EvalReport(about, dict.fromkeys(("val", "test")), recipe.published, changed=changed)
    return published_rows(report, [recipe.published.protocol, "refseg"])


def test_a_changed_model_has_the_row_of_the_recipe_with_that_change_where_training_does_not_read_it():
    rows = rows_of("isfp-darknet53-refcoco", "model.oracle=location")
    assert rows["val"]["vlt"].figures == {"IoU": 76.32}
    assert rows["val"]["vlt"].source.endswith("table 3.2, GT Location")
    assert rows["val"]["refseg"].caution == "its figures are by the protocol vlt"
    assert rows["test"] == {"vlt": None, "refseg": None}


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("isfp-iem", "model.oracle=location"),  # no recipe is of both
        ("cgformer-full", "model.similarity=dot"),  # the weights fit, but that row's model was trained so
    ],
)
def test_a_changed_model_has_no_figures_of_models_that_were_trained_otherwise(name, change):
    assert load_recipe("cgformer-no-cosine").model == {**load_recipe("cgformer-full").model, "similarity": "dot"}
    for row in rows_of(name, change)["val"].values():
        assert (row.figures, row.caution) == ({}, f"its figures are without {change}")


@pytest.mark.parametrize("name", recipe_names())
def test_recipes_name_a_protocol_that_there_is_and_its_metrics(name):
    published = load_recipe(name).published
    if published.protocol:
        assert published.protocol in BY_NAME
        for key in published.figures:
            place, split = key.rsplit("/", 1)
            *trained_on, dataset = place.split(" -> ")
            about = About(dataset=dataset, trained_on=trained_on[0] if trained_on else None)
            row = published_row(published, about, split, published.protocol)
            assert row.figures
            assert row.caution == ""


@pytest.fixture
def with_train(data):
    """The first two pictures were trained on; val has all three, testA the last two."""
    write_split(data, "train", records("train")[:2])
    return data


def test_shared_pictures_are_counted_by_their_ids(with_train):
    data = str(with_train)
    assert shared_images(data, ["val", "testA"], data) == {"val": (2, 3), "testA": (1, 2)}
    about = About(data=data, dataset="test", trained_on="test")
    assert cautions(about, ["val", "testA"]) == [
        f"val: 2 of its 3 images are in the train split of {data}",
        f"testA: 1 of its 2 images are in the train split of {data}",
    ]
    assert cautions(about, ["train"]) == ["train: the model was trained on this split"]


def test_a_comma_in_the_name_of_a_set_does_not_make_it_several(with_train):
    about = About(data=str(with_train), dataset="cats, dogs", trained_on="cats, dogs")
    assert not any("cross-dataset" in said for said in cautions(about, ["val"]))
    assert cautions(about, ["train"])[0] == "train: the model was trained on this split"


def test_one_of_the_sets_that_were_trained_on_together_is_no_other_set(with_train):
    """What it holds out was left out of training, in whichever of them it was."""
    about = About(data=str(with_train), dataset="test", trained_on="refcoco+, test")
    assert cautions(about, ["val"]) == []
    assert cautions(about, ["train"]) == ["train: the model was trained on this split"]
    assert "cross-dataset" in cautions(replace(about, dataset="refcoco"), ["val"])[0]


def test_another_training_set_is_said_and_looked_into_where_it_is_given(with_train):
    data = str(with_train)
    about = About(data=data, dataset="test", trained_on="scenes")
    crossed = "trained on scenes, evaluated on test: a cross-dataset figure"
    assert cautions(about, ["val"]) == [crossed]
    shared = f"val: 2 of its 3 images are in the train split of {data}"
    assert cautions(about, ["val"], trained_on=data) == [crossed, shared]
    assert cautions(replace(about, trained_on=None), ["val"]) == []


def test_ids_of_other_sources_and_data_without_a_train_split_tell_nothing(data, with_train, tmp_path):
    assert shared_images(str(data), ["val"], str(data)) == {"val": (2, 3)}
    other = tmp_path / "other"
    other.mkdir()
    write_split(other, "train", records("train"))
    manifest = json.loads((other / MANIFEST).read_text())
    (other / MANIFEST).write_text(json.dumps({**manifest, "image_source": "elsewhere"}))
    assert shared_images(str(data), ["val"], str(other)) == {}
    (tmp_path / "third").mkdir()
    write_split(tmp_path / "third", "val", records("val"))
    assert shared_images(str(data), ["val"], str(tmp_path / "third")) == {}


def test_a_model_of_typed_sentences_that_was_asked_cleaned_ones_says_so():
    (said,) = cautions(replace(ABOUT, data="old", without_raw=True), ["val"])
    assert "old has no sentences as they were typed" in said
    assert cautions(ABOUT, ["val"]) == []
