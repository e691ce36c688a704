"""What a figure has to stand next to: the paper's own row, the set that was trained on, pictures that were seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from refseg_cli.config import EVALUATION_ONLY, Published, Recipe, load_recipe, recipe_names
from refseg_cli.data import shards
from refseg_cli.data.check import TRAIN
from refseg_cli.data.mixture import names_of
from refseg_cli.evaluation.answers import About
from refseg_cli.metrics.protocols import BY_NAME
from refseg_cli.segmenters.cautions import blind

if TYPE_CHECKING:
    from refseg_cli.evaluation.evaluate import EvalReport

SAME_AS = {"cIoU": "oIoU", "oIoU": "cIoU"}  # two words for the overall IoU


@dataclass(frozen=True, slots=True)
class PublishedRow:
    """What a paper reports for a split.

    source:   paper, table and row.
    figures:  the protocol's metric -> percent; empty where no figure can be compared.
    caution:  why they cannot; empty if they can.
    """

    source: str
    figures: dict[str, float]
    caution: str = ""


def published_rows(report: EvalReport, protocols: Sequence[str]) -> dict[str, dict[str, PublishedRow | None]]:
    """split -> protocol -> the paper's row for what was evaluated; without figures where settings were changed and no
    recipe is of them.
    """
    changed = report.changed
    known = _published_with(report.published, report.about.arch, changed) if changed else report.published
    rows = {
        split: {name: published_row(known or report.published, report.about, split, name) for name in protocols}
        for split in report.evaluations
    }
    if known is not None:
        return rows
    caution = f"its figures are without {', '.join(changed)}"
    return {
        split: {name: row and replace(row, figures={}, caution=caution) for name, row in found.items()}
        for split, found in rows.items()
    }


def _published_with(published: Published, arch: str, changed: Sequence[str]) -> Published | None:
    """What a recipe of refseg says that differs from the one with `published` by just these changes; None for none.

    Only changes that training does not read count: a row of an ablation is of a model that was trained so.
    """
    if not {change.partition("=")[0] for change in changed} <= EVALUATION_ONLY.get(arch, frozenset()):
        return None
    from refseg_cli import checkpoint  # and torch, which finished predictions are scored without

    recipes = [recipe for recipe in map(load_recipe, recipe_names()) if recipe.arch == arch]
    wanted = [_whole(checkpoint.adjusted(recipe, changed)[0]) for recipe in recipes if recipe.published == published]
    return next((recipe.published for recipe in recipes if _whole(recipe) in wanted), None)


def _whole(recipe: Recipe) -> tuple[object, ...]:
    """All of a recipe but what is published of it, defaults included."""
    from refseg_cli import checkpoint

    return checkpoint.settings(recipe), recipe.text, recipe.train


def published_row(published: Published, about: About, split: str, protocol: str) -> PublishedRow | None:
    """The paper's figures for this data and split by this protocol; None if the recipe has none for them.

    Figures by another protocol, or by one that the recipe does not name, are not comparable, and are not given.
    """
    keys = (f"{about.dataset}-{about.split_by}/{split}", f"{about.dataset}/{split}")
    crossed = (f"{about.trained_on} -> {key}" for key in keys)
    found = next((published.figures[key] for key in (*crossed, *keys) if key in published.figures), None)
    if not found:
        return None
    source = ", ".join(
        part for part in (published.paper, published.table and f"table {published.table}", published.row) if part
    )
    if not published.protocol:
        return PublishedRow(source, {}, "the recipe does not say by which protocol its figures were counted")
    if published.protocol != protocol:
        return PublishedRow(source, {}, f"its figures are by the protocol {published.protocol}")
    figures: dict[str, float] = {}
    for name, value in found.items():
        metric = BY_NAME[protocol].metric(name) or BY_NAME[protocol].metric(SAME_AS.get(name, name))
        if metric:
            figures[metric.name] = value
    unknown = sorted(set(found) - {SAME_AS.get(name, name) for name in figures} - set(figures))
    caution = f"{', '.join(unknown)}: no metric of the protocol {protocol}" if unknown else ""
    return PublishedRow(source, figures, caution)


def cautions(about: About, splits: Sequence[str], *, trained_on: str | None = None) -> list[str]:
    """What a reader of the figures must know, a sentence each: a control, another training set, pictures that were
    trained on.

    Args:
        trained_on: prepared data whose train split the model saw. Without it the evaluated data's own train split is
            looked at, if the model says that it was trained on a set of that name.

    Raises:
        RefsegError: `trained_on` is no prepared data.
    """
    said = []
    if about.blind:
        said.append(blind(about.model))
    if about.without_raw:
        said.append(
            f"{about.data} has no sentences as they were typed, which the model reads (text.field = raw): it read "
            "the cleaned ones; prepare the data again"
        )
    sets = [about.trained_on, *names_of(about.trained_on or "")]  # a name of one may read like those of several
    if about.trained_on and about.dataset not in sets:
        said.append(f"trained on {about.trained_on}, evaluated on {about.dataset}: a cross-dataset figure")
    if TRAIN in splits and about.dataset in sets:
        said.append(f"{TRAIN}: the model was trained on this split")
    source = trained_on or (about.data if about.trained_on == about.dataset else None)
    if source is None:
        return said
    return said + [
        f"{split}: {count} of its {total} images are in the train split of {source}"
        for split, (count, total) in shared_images(about.data, splits, source).items()
        if count and not (split == TRAIN and source == about.data)
    ]


def shared_images(data: str, splits: Sequence[str], source: str) -> Mapping[str, tuple[int, int]]:
    """For each split of `data`: how many of its images are in the train split of `source`, and how many it has.

    Nothing is shared where the ids come from different sources of images, or `source` has no train split.
    """
    theirs, ours = shards.read_manifest(source), shards.read_manifest(data)
    if TRAIN not in theirs.splits or theirs.image_source != ours.image_source:
        return {}
    seen = np.unique(shards.open_shards(source, TRAIN).image_ids())
    found = {}
    for split in splits:
        ids = np.unique(shards.open_shards(data, split).image_ids())
        found[split] = (len(np.intersect1d(ids, seen, assume_unique=True)), len(ids))
    return found
