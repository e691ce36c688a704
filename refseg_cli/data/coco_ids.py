"""The ids by which a file of COCO results names pictures and what was found in them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from refseg_cli.data.picture_names import PictureNames, coco_number
from refseg_cli.data.sources.values import text, whole
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
        RefsegError: it cannot be read or is no such file, does not hold one of them, or has one id for two of them.
    """
    try:
        table = parse_json(file.read_bytes())
        names = PictureNames((whole(row["id"], "id"), text(row["file_name"], "file_name")) for row in table["images"])
        listed = [(_plain(text(row["name"], "name")), whole(row["id"], "id")) for row in table["categories"]]
    except (OSError, ValueError, LookupError, TypeError) as error:
        reason = reason_of(error)
        raise RefsegError(
            f"{file}: cannot read a COCO data set: {reason}", hint="it has images and categories"
        ) from error
    categories = dict(listed)
    missing = [phrase for phrase in phrases if _plain(phrase) not in categories]
    if missing:
        raise RefsegError(
            f"{file}: no category is called {missing[0]!r}", hint=f"one of: {', '.join(categories)}"[:300]
        )
    images = {picture: _image(file, names, picture) for picture in pictures}
    wanted = set(map(_plain, phrases))
    _check_apart(file, "image", images.items())
    _check_apart(file, "category", ((name, number) for name, number in set(listed) if name in wanted))
    return CocoIds(images, [categories[_plain(p)] for p in phrases])


def _image(file: Path, names: PictureNames, picture: str) -> int:
    found = names.find(picture)
    if len(found) != 1:
        raise RefsegError(f"{picture}: {'no image' if not found else f'{len(found)} images'} of that name in {file}")
    return found[0]


def _check_apart(file: Path, what: str, named: Iterable[tuple[str, int]]) -> None:
    """That no id has two names, and no name two ids: answers would be of one, and be told of the other."""
    names, ids = dict[int, str](), dict[str, int]()
    for name, number in sorted(named):
        if (other := names.setdefault(number, name)) != name:
            raise RefsegError(f"{file}: {what} {number} is both {other!r} and {name!r}", hint="give each its own id")
        if (first := ids.setdefault(name, number)) != number:
            raise RefsegError(f"{file}: {what} {name!r} is both {first} and {number}", hint="give each its own name")


def _plain(name: Any) -> str:
    return " ".join(str(name).lower().split())
