"""Which picture people mean: by its id, or its file name with or without folders and ending, or its number in COCO."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Sequence

# COCO_train2014_000000000009.jpg is 000000000009.jpg since 2017, and COCO_train2014_000000000009_0.jpg in REFER's refs.
_COCO = re.compile(r"(?:coco_(?:train|val|test)\d{4}_)?(\d{12})(?:_\d+)?")
_ENDING = re.compile(r"\.(jpe?g|png|bmp|gif|webp|tiff?|pgm|ppm)$")
_FOLDERS = 8  # of a path, that are looked at to tell pictures of one name apart


class PictureNames:
    """Finds pictures by what people call them.

    Args:
        pictures: (image id, file name) of each; a pair that is there several times counts once.
    """

    def __init__(self, pictures: Iterable[tuple[int, str]]) -> None:
        self._ids: set[int] = set()
        self._by_path: dict[str, list[int]] = defaultdict(list)
        self._by_stem: dict[str, list[int]] = defaultdict(list)
        self._by_number: dict[int, list[int]] = defaultdict(list)
        self._found: dict[int | str, tuple[int, ...]] = {}
        for image_id, file_name in dict.fromkeys(pictures):
            path = _slashed(file_name)
            stem = _stem(path)
            self._ids.add(image_id)
            self._by_path[path].append(image_id)
            self._by_stem[stem].append(image_id)
            if (number := coco_number(path)) is not None:
                self._by_number[number].append(image_id)

    def find(self, image: int | str) -> tuple[int, ...]:
        """The ids of the pictures of that name: one, as a rule."""
        if image not in self._found:
            self._found[image] = tuple(self._by_id(image) if isinstance(image, int) else self._by_name(image))
        return self._found[image]

    def _by_id(self, image_id: int) -> Sequence[int]:
        return (image_id,) if image_id in self._ids else self._by_number.get(image_id, ())

    def _by_name(self, name: str) -> Sequence[int]:
        """By as much of the path as both have, else by the name without folders and ending, else by its number."""
        parts = _slashed(name).split("/")[-_FOLDERS:]
        for first in range(len(parts)):
            if found := self._by_path.get("/".join(parts[first:])):
                return found
        stem = _stem(parts[-1])
        if found := self._by_stem.get(stem):
            return found
        if (number := coco_number(name)) is not None:
            return self._by_number.get(number) or self._by_id(number)
        return self._by_id(int(stem)) if stem.isdecimal() and len(stem) < 20 else ()


def coco_number(name: str) -> int | None:
    """The id in the name of one of COCO's pictures, or of a file named alike; None in any other."""
    number = _COCO.fullmatch(_stem(_slashed(name)))
    return int(number[1]) if number else None


def _slashed(path: str) -> str:
    return path.replace("\\", "/")


def _stem(path: str) -> str:
    """The file's name without folders and without the ending of a picture, lower case."""
    return _ENDING.sub("", path.rpartition("/")[2].lower())
