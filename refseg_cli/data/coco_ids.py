"""The ids by which a file of COCO results names pictures and what was found in them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refseg_cli.data.picture_names import PictureNames, coco_number
from refseg_cli.errors import RefsegError, reason_of
from refseg_cli.files import parse_json


class CocoIds(NamedTuple):
    """images: of the pictures.  categories: of the phrases, in their order."""

    images: dict[str, int]
    categories: list[int]


def numbered(pictures: Sequence[str], phrases: Sequence[str]) -> CocoIds:
    """Numbers from 1; of pictures that are all called as COCO's are, the ids in their names."""
    found = {picture: coco_number(picture) for picture in pictures}
    known = {picture: number for picture, number in found.items() if number is not None}
    if len(set(known.values())) < len(found):
        known = {picture: number for number, picture in enumerate(found, start=1)}
    return CocoIds(known, list(range(1, len(phrases) + 1)))


def read_ids(file: Path, pictures: Sequence[str], phrases: Sequence[str]) -> CocoIds:
    """The ids of a COCO data set: of pictures by their file names, of phrases that are names of its categories.

    Raises:
        RefsegError: it cannot be read or is no such file, or does not hold one of them.
    """
    try:
        table = parse_json(file.read_bytes())
        names = PictureNames((int(row["id"]), str(row["file_name"])) for row in table["images"])
        categories = {_plain(row["name"]): int(row["id"]) for row in table["categories"]}
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = reason_of(error)
        raise RefsegError(
            f"{file}: cannot read a COCO data set: {reason}", hint="it has images and categories"
        ) from error
    missing = [phrase for phrase in phrases if _plain(phrase) not in categories]
    if missing:
        raise RefsegError(
            f"{file}: no category is called {missing[0]!r}", hint=f"one of: {', '.join(categories)}"[:300]
        )
    return CocoIds(
        {picture: _image(file, names, picture) for picture in pictures}, [categories[_plain(p)] for p in phrases]
    )


def _image(file: Path, names: PictureNames, picture: str) -> int:
    found = names.find(picture)
    if len(found) != 1:
        raise RefsegError(f"{picture}: {'no image' if not found else f'{len(found)} images'} of that name in {file}")
    return found[0]


def _plain(name: Any) -> str:
    return " ".join(str(name).lower().split())
