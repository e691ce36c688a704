"""Where photos lie: people unpack COCO and SAIAPR in a handful of ways, and annotations name the files in as many.

Each folder is listed once, when a photo is first looked for there; nothing is asked of a disk for each guess.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from refseg_cli.errors import RefsegError

# Below the folder that the user names, in the order of trial.
PLACES = (
    "",
    "train2014",
    "images/train2014",
    "coco/train2014",
    "COCO/train2014",
    "coco2014/train2014",
    "coco/images/train2014",
    "mscoco/train2014",
    "mscoco/images/train2014",
    "images/mscoco/images/train2014",
    "train2014/train2014",
    "JPEGImages",
    "train2017",
    "val2017",
    "coco/train2017",
    "coco/val2017",
    "COCO/train2017",
    "COCO/val2017",
    "coco2017/train2017",
    "coco2017/val2017",
    "coco/images/train2017",
    "coco/images/val2017",
    "saiapr_tc-12",
    "images/saiapr_tc-12",
    "images",
    "VG_100K",
    "VG_100K_2",
    "images/VG_100K",
    "images/VG_100K_2",
)
# SAIAPR as it was published: 00/images/25.jpg to 40/images/...
_NUMBERED, _INSIDE = re.compile(r"\d\d"), "images"

# COCO's photo 9 is COCO_train2014_000000000009.jpg in the releases of 2014 and 000000000009.jpg in those of 2017, which
# deal the same photos out to train and val in another way.
_OF_2014 = re.compile(r"COCO_(?:train|val)2014_(\d{12})(\.\w+)")
_OF_2017 = re.compile(r"(\d{12})(\.\w+)")


class _Listing:
    """The names in a folder.  by_key: files by `_key`."""

    def __init__(self, path: Path) -> None:
        self.folders: set[str] = set()
        self.files: set[str] = set()
        try:
            with os.scandir(path) as entries:
                for entry in entries:
                    if entry.is_dir():
                        self.folders.add(entry.name)
                    elif entry.is_file():
                        self.files.add(entry.name)
        except OSError as error:
            raise RefsegError(f"{path}: {error.strerror}", hint="photos are looked for there") from error
        self.by_key = {_key(name): name for name in sorted(self.files, reverse=True)}

    def file(self, name: str) -> str | None:
        """The file of that name, or else one with another form of its ending: .jpg, .JPG, .jpeg."""
        return name if name in self.files else self.by_key.get(_key(name))


class Photos:
    """The photos below some folders.

    Args:
        folders: where to look, in this order.

    Raises:
        RefsegError: one of them cannot be listed.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self.folders = tuple(folders)
        self._listings: dict[Path, _Listing] = {}
        places = (self._below(folder, place.split("/") if place else ()) for folder in folders for place in PLACES)
        self._places = tuple(dict.fromkeys(place for place in places if place))
        self._numbered: dict[str, Path | None] | None = None

    @property
    def searched(self) -> str:
        """The folders in which photos are looked for, whether or not they exist."""
        return f"{' or '.join(map(str, self.folders))}, or below in {', '.join(place for place in PLACES if place)}"

    def find(self, file_name: str) -> Path | None:
        """Where a photo is; None if it is nowhere. No name leads out of the folders.

        Args:
            file_name: as annotated: of either system, perhaps with folders, perhaps those of another machine.
        """
        for *folders, name in _forms(file_name):
            for place in self._places:
                folder = self._below(place, folders)
                if folder and (found := self._listing(folder).file(name)):
                    return folder / found
        if self._numbered is None:
            self._numbered = self._in_numbered_folders()
        *_, name = _parts(file_name) or ("",)
        return self._numbered.get(_key(name))

    def _below(self, path: Path, parts: Iterable[str]) -> Path | None:
        """A folder below another, if it is there."""
        for part in parts:
            if part not in self._listing(path).folders:
                return None
            path = path / part
        return path

    def _listing(self, path: Path) -> _Listing:
        if path not in self._listings:
            self._listings[path] = _Listing(path)
        return self._listings[path]

    def _in_numbered_folders(self) -> dict[str, Path | None]:
        """The photos in SAIAPR's own folders, by `_key`; None for those whose names are not unique."""
        found: dict[str, Path | None] = {}
        for place in self._places:
            for name in filter(_NUMBERED.fullmatch, sorted(self._listing(place).folders)):
                if folder := self._below(place, (name, _INSIDE)):
                    for key, file in self._listing(folder).by_key.items():
                        found[key] = None if key in found else folder / file
        return found


def _forms(file_name: str) -> Iterator[tuple[str, ...]]:
    """What a file may be called below a place: as it is, with fewer folders, and by COCO's other names of the photo."""
    parts = _parts(file_name)
    for start in range(len(parts)):
        yield parts[start:]
    if not parts:
        return
    if found := _OF_2014.fullmatch(parts[-1]):
        yield (found[1] + found[2],)
    if found := _OF_2017.fullmatch(parts[-1]):
        yield from ((f"COCO_{split}2014_{found[1]}{found[2]}",) for split in ("train", "val"))


def _parts(file_name: str) -> tuple[str, ...]:
    """The parts of a path of either system after the last one that goes up."""
    parts = [part for part in re.split(r"[/\\]", file_name) if part not in ("", ".")]
    return tuple(parts[len(parts) - parts[::-1].index("..") :] if ".." in parts else parts)


def _key(name: str) -> str:
    """A file name with its ending in small letters, and .jpeg as .jpg."""
    stem, dot, ending = name.rpartition(".")
    return f"{stem}{dot}{'jpg' if ending.lower() == 'jpeg' else ending.lower()}"
