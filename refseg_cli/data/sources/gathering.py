"""What readers of other forms find: photos, objects and references, in COCO's terms.

Each form has a file of its own, with a function that goes through one of its files, tells a `Gathering` of the photos
and objects there, and yields a `Ref` for each reference. From there the road is that of the REFER downloads.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import Any

from refseg_cli.data import formats
from refseg_cli.data.orientation import turned_size
from refseg_cli.data.sources import Problem, Ref, Sentence, to_sentence
from refseg_cli.data.sources.instances import Instances, load_json, parse
from refseg_cli.data.sources.photos import RULES, Rules
from refseg_cli.data.sources.values import brief, string, whole
from refseg_cli.data.sources.whereabouts import Photos
from refseg_cli.errors import RefsegError
from refseg_cli.records import Rle

COCO = "coco"
UNNAMED = 0  # the category of objects of which a form says none
# Also REFER's own names, which go on with the number of a reference: COCO_train2014_000000581857_16.jpg.
_COCO_NAME = re.compile(r"(COCO_(?:train|val)2014_(\d{12}))(?:_\d+)?(\.\w+)")
_COCO_NAME_OF_2017 = re.compile(r"(\d{12})\.jpe?g", re.IGNORECASE)
# The id of a photo by its content: a number that JavaScript and jq, which count in doubles, do not round.
_ID_DIGITS = 13  # of 4 bits


Tells = Callable[[Any], bool]  # of what `forms.probe` gives: whether it is of a form


def columns(*names: str) -> Tells:
    """Whether it is a table with these columns."""
    return lambda found: isinstance(found, tuple) and set(names) <= set(found)


def rows(*keys: str) -> Tells:
    """Whether it is a list, whose first row has these keys."""

    def tells(found: Any) -> bool:
        return isinstance(found, list) and bool(found) and isinstance(found[0], dict) and set(keys) <= set(found[0])

    return tells


def load(path: Path, tells: Tells) -> Any:
    """A JSON file's value, as `instances.load_json` reads it.

    Raises:
        RefsegError: no such file, not JSON, or of another form.
    """
    value, _ = load_json(path, hint=None)
    if not tells(value):
        raise RefsegError(f"{path}: not of the form of the other files, or of the one that --form names")
    return value


@dataclass(frozen=True, slots=True)
class File:
    """One file to read.

    split: of references that do not say theirs; None if nothing tells it.  forced: it holds for all of them.
    """

    path: Path
    split: str | None
    forced: bool = False

    def split_of(self, row: Any) -> str:
        """The split of a reference, given what its row says of it; None for nothing.

        Raises:
            ValueError: neither the row nor the file says one.
        """
        if self.split is not None and (self.forced or row is None):
            return self.split
        if row is None:
            raise ValueError("of no known split: see --split")
        split = string(row, "split")
        return "val" if split == "validation" else split


@dataclass(slots=True)
class Gathering:
    """The photos and objects found so far.

    photos:    where photos lie.  photos_named: the user says so.
    folder:    for the photos that a form holds within its files.
    problems:  what is left out is appended here.
    known:     `instances.json` as given beside the form, which then holds all photos and objects.
    rules:     how photos are taken.
    masks:     folder of mask files, as the user names it.
    """

    photos: Photos
    folder: Path
    problems: list[Problem]
    photos_named: bool = False
    known: Instances | None = None
    rules: Rules = RULES
    masks: Path | None = None
    _paths: dict[int, Path | None] = field(default_factory=dict)
    _beside: dict[Path, Photos] = field(default_factory=dict)
    _takers: dict[Path, Path] = field(default_factory=dict)  # photo -> folder of the file that names it
    _images: dict[int, dict[str, Any]] = field(default_factory=dict)
    _annotations: dict[int, dict[str, Any]] = field(default_factory=dict)
    _categories: dict[int, str] = field(default_factory=dict)  # of forms that number them
    _named: dict[str, int] = field(default_factory=lambda: {"": UNNAMED})  # of forms that do not
    _mask_files: Any = None  # SHA-256 of all of them
    _sources: Counter[str] = field(default_factory=Counter)
    _ann_ids: Any = field(default_factory=lambda: count(1))
    _ref_ids: Any = field(default_factory=lambda: count(1))
    _sent_ids: Any = field(default_factory=lambda: count(1))

    def photo(
        self,
        name: str,
        *,
        image_id: Any = None,
        size: tuple[Any, Any] | None = None,
        data: bytes | None = None,
        path: Path | None = None,
        source: str = "",
    ) -> int:
        """Note a photo; its id: COCO's by its name, or as given, or made of its content.

        Args:
            name: its file.
            size: (height, width) in pixels; None to look.
            data: the file's bytes, where the form holds them.
            path: where the file is; None to look by its name.
            source: where `image_id` comes from, if not from COCO.

        Raises:
            ValueError: the id is none, or not the one in its name, or the photo was of another size before.
        """
        name, of_name = _coco(name)
        given = None if image_id is None else whole(image_id, "image_id")
        if of_name is not None and given not in (None, of_name):
            raise ValueError(f"image_id {given}, but the photo is {name}")
        number = of_name if given is None else given
        if number is None or number not in self._images:
            path = path or (self.photos.find(name) if data is None else None)
        if number is None:
            number = _id_of(data if data is not None else _content(path, name))
        if number not in self._images:
            self._paths[number] = path = path or (self._write(number, name, data) if data is not None else None)
            height, width = size or self._measure(path)
            self._images[number] = {"id": number, "file_name": name, "height": height, "width": width}
            self._sources[COCO if of_name is not None else source] += 1
        elif size and tuple(size) != (self._images[number]["height"], self._images[number]["width"]):
            raise ValueError(f"image {number} of two sizes")
        return number

    def path(self, image_id: int, name: str) -> Path | None:
        """Where a photo is; None if it is missing."""
        return self._paths[image_id] if image_id in self._paths else self.photos.find(name)

    def size(self, image_id: int) -> tuple[int, int]:
        """(height, width) of a photo as its masks are drawn on; zeros if it cannot be read and the form does not say.

        Raises:
            ValueError: they are none, or larger than photos may be.
        """
        row = self._images[image_id]
        size = (whole(row["height"], "height"), whole(row["width"], "width"))
        formats.check_size(size, 3, self.rules.max_pixels)
        return size

    def find_beside(self, file: Path, name: str) -> Path | None:
        """Where the photo is that a file of one picture names; None if it is missing.

        Below the user's folder of photos first, in one named as the file's own if there is such; then beside the file.

        Raises:
            ValueError: a file of another folder has taken it for its photo, so that it is a guess.
        """
        found = self.photos.find(f"{file.parent.name}/{_base(name)}") if self.photos_named else None
        if found is None:
            if file.parent not in self._beside:
                self._beside[file.parent] = Photos([file.parent])
            found = self._beside[file.parent].find(name) or self.photos.find(name)
        if found and (other := self._takers.setdefault(found, file.parent)) != file.parent:
            raise ValueError(f"{found} may be another photo, for a file in {other} names it, too")
        return found

    def annotation(
        self,
        image_id: int,
        segmentation: Any,
        *,
        ann_id: Any = None,
        box: Any = None,
        category: int = UNNAMED,
        iscrowd: Any = 0,
    ) -> int:
        """Note an object; its id: as given, or a new one.

        Raises:
            ValueError: the id is none, or belongs to another photo, or to another mask.
        """
        number = next(self._ann_ids) if ann_id is None else whole(ann_id, "ann_id")
        there = self._annotations.setdefault(
            number,
            {
                "id": number,
                "image_id": image_id,
                "category_id": category,
                "bbox": box,
                "segmentation": segmentation,
                "iscrowd": iscrowd,
            },
        )
        if there["image_id"] != image_id:
            raise ValueError(f"ann_id {number} in two images")
        if there["segmentation"] != segmentation:  # or the first one's would be the mask of both
            raise ValueError(f"ann_id {number} of two masks")
        return number

    def category(self, category_id: Any = None, name: str = "") -> int:
        """Note a category, by its id, or else by its name; its id."""
        if category_id is None:
            return self._named.setdefault(name, len(self._named)) if name else UNNAMED
        number = whole(category_id, "category_id")
        if name or number not in self._categories:
            self._categories[number] = name
        return number

    def ref(
        self,
        image_id: int,
        ann_ids: Iterable[int],
        phrases: Sequence[Any],
        *,
        split: str,
        ref_id: Any = None,
        ignored: Rle | None = None,
    ) -> Ref:
        """A reference with phrases that are strings, or rows of REFER's `sentences`; ids that it lacks are new ones.

        ignored: as in `Ref`.

        Raises:
            KeyError, ValueError: a phrase or an id is broken.
        """
        if not isinstance(phrases, list | tuple):
            raise ValueError(f"{brief(phrases)} in place of a list of phrases")
        number = next(self._ref_ids) if ref_id is None else whole(ref_id, "ref_id")
        return Ref(number, image_id, split, tuple(ann_ids), tuple(map(self._sentence, phrases)), ignored)

    def instances(self, file: str) -> Instances:
        """All of it, checked; or the known ones.

        file: what to call it in messages.
        """
        if self.known is not None:
            return self.known
        names = {**{number: name for name, number in self._named.items()}, **self._categories}
        categories = [{"id": number, "name": name} for number, name in names.items()]
        images, annotations = list(self._images.values()), list(self._annotations.values())
        return parse({"images": images, "annotations": annotations, "categories": categories}, file=file)

    def note_mask(self, data: bytes) -> None:
        """Note a file that is read beside those of the form, so that a rerun sees whether it has changed."""
        self._mask_files = self._mask_files or hashlib.sha256()
        self._mask_files.update(data)

    def digests(self) -> dict[str, str]:
        """SHA-256 of what `note_mask` was told of, if there is anything."""
        return {"masks": self._mask_files.hexdigest()} if self._mask_files else {}

    def image_source(self, name: str) -> str:
        """Where the ids of the photos come from; `name` for those that a form numbers for itself.

        Raises:
            RefsegError: from more than one place, so that one id may stand for two pictures.
        """
        if len(self._sources) > 1:
            raise RefsegError(
                "photos of COCO and others together, whose ids may be the same",
                hint="prepare the files one by one, each with a name of its own",
            )
        return next(iter(self._sources), "") or name

    def _sentence(self, phrase: Any) -> Sentence:
        if isinstance(phrase, dict):
            return to_sentence({"sent_id": next(self._sent_ids), **phrase})
        return Sentence(next(self._sent_ids), string(phrase, "phrase"), phrase)

    def _write(self, number: int, name: str, data: bytes) -> Path:
        path = self.folder / f"{number}{Path(name).suffix[:8]}"
        try:
            path.write_bytes(data)
        except OSError as error:
            raise RefsegError(
                f"{path}: {error.strerror}", hint="photos are unpacked there; set TMPDIR to use another folder"
            ) from error
        return path

    def _measure(self, path: Path | None) -> tuple[int, int]:
        """(height, width) of a photo in the pixels that masks were drawn on; zeros if it cannot be read.

        Whoever reads it to the end says what is wrong with it.
        """
        try:
            with formats.opened(path.read_bytes() if path else b"", max_pixels=None) as image:
                size = (image.height, image.width)
                return turned_size(size, formats.orientation(image)) if self.rules.masks_on == "upright" else size
        except (ValueError, OSError):
            return (0, 0)


def _coco(name: str) -> tuple[str, int | None]:
    """A photo's name without what REFER appends to it, and COCO's id of it; None if it is no name of COCO's."""
    base = _base(name)
    if found := _COCO_NAME.fullmatch(base):
        return name[: len(name) - len(base)] + found[1] + found[3], int(found[2])
    if found := _COCO_NAME_OF_2017.fullmatch(base):
        return name, int(found[1])
    return name, None


def _base(name: str) -> str:
    """A file's name without its folders, of either system."""
    return re.split(r"[/\\]", name)[-1]


def _content(path: Path | None, name: str) -> bytes:
    """A photo's bytes; something else that is its own if it cannot be read, which whoever needs it says."""
    try:
        return path.read_bytes() if path else name.encode()
    except OSError:
        return name.encode()


def _id_of(content: bytes) -> int:
    return int(hashlib.sha256(content).hexdigest()[:_ID_DIGITS], 16)
