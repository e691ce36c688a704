"""Videos with expressions: `meta_expressions.json` with palette PNGs (Ref-YouTube-VOS) or `mask_dict.json` (MeViS).

ROOT/meta_expressions/SPLIT/meta_expressions.json, or ROOT/SPLIT/meta_expressions.json
ROOT/SPLIT/JPEGImages/VIDEO/FRAME.jpg
ROOT/SPLIT/Annotations/VIDEO/FRAME.png    object id = value of the pixel; ROOT/SPLIT/meta.json names their categories
ROOT/SPLIT/mask_dict.json                 in their place: anno_id -> for each frame a COCO RLE, or null

Splits that are scored on a server have no masks, and their expressions no ids.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from refseg_cli.data.sources import Annotation, Draft, Problem, Reason
from refseg_cli.data.sources.instances import load_json
from refseg_cli.data.sources.values import brief, deeper_than, identifier, text, whole
from refseg_cli.errors import RefsegError, reason_of
from refseg_cli.records import Expression

META = "meta_expressions"
TRAIN, VALID, TEST = "train", "valid", "test"
EXPRESSIONS = 10_000  # most of a video: `sent_id` is the number of the video times this, plus the id of the expression
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)  # of videos and frames: they become names of folders and files
_FRAMES = (".jpg", ".jpeg", ".png")
_OBJECTS = 254  # numbers of things in a palette, after 0 and before the one for void


@dataclass(frozen=True, slots=True)
class Said:
    """An expression of a video.  number: its id there.  ids: of its targets; None if nobody says."""

    number: int
    text: str
    ids: tuple[int, ...] | None


@dataclass(frozen=True, slots=True)
class Video:
    """A video as its annotation file has it.  number: among all of the data set.  frames: names, in their order."""

    name: str
    split: str
    number: int
    frames: tuple[str, ...]
    said: tuple[Said, ...]


@dataclass(frozen=True, slots=True)
class Place:
    """Where the frames of a split are, and its masks: `palettes` or `tracks`, or neither.

    tracks: anno_id -> masks, as in `mask_dict.json`.  categories: video -> object id -> name, where known.
    """

    frames: Path
    palettes: Path | None = None
    tracks: Mapping[str, Any] | None = None
    categories: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(slots=True)
class Found:
    """What was read.

    entries: frames and where they are.  split_of: ref id -> split, broken ones among them.  digests: of what was read.
    without_masks: splits whose targets nobody says.
    """

    entries: list[tuple[Draft, Path]] = field(default_factory=list)
    split_of: dict[int, str] = field(default_factory=dict)
    digests: dict[str, str] = field(default_factory=dict)
    without_masks: set[str] = field(default_factory=set)


def is_layout(root: Path) -> bool:
    """Whether it is a folder of this layout."""
    return bool(_metas(root))


def read(root: Path, splits: Sequence[str], problems: list[Problem]) -> Found:
    """The frames of all videos of the wanted splits, all if none is named.

    Args:
        problems: what is left out is appended here.

    Raises:
        RefsegError: no such folder, a file of another form, or no such split.
    """
    metas = _metas(root)
    if not metas:
        raise RefsegError(
            f"{root}: no {META}.json below this folder", hint=f"--root holds {META}/ or train/ and valid/"
        )
    found, start = Found(), 0
    rows: dict[str, Mapping[str, Any]] = {}
    for split, path in metas.items():
        table, digest = load_json(path, hint=None)
        found.digests[f"{split}/{path.name}"] = digest
        if not isinstance(table, dict) or not isinstance(table.get("videos"), dict):
            raise RefsegError(f"{path}: no `videos` in it", hint=f"as in {META}.json of Ref-YouTube-VOS or MeViS")
        rows[split] = table["videos"]
    if not set(splits) <= rows.keys():
        wrong = next(split for split in splits if split not in rows)
        raise RefsegError(f"{root}: no split {wrong}", hint=f"there are {', '.join(rows)}")
    for split, listed in rows.items():
        # Ref-YouTube-VOS lists its test videos among those of `valid`, too.
        own = {name: row for name, row in listed.items() if split != VALID or name not in rows.get(TEST, {})}
        if not splits or split in splits:
            videos = list(_videos(own, split, start, str(metas[split]), problems, found.split_of))
            add(found, videos, _place(root, split, found.digests), problems)
        start += len(own)
    return found


def _metas(root: Path) -> dict[str, Path]:
    """Split -> its annotation file, train first."""
    there = [*root.glob(f"{META}/*/{META}.json"), *root.glob(f"*/{META}.json")]
    return {path.parent.name: path for path in sorted(there, key=lambda p: (p.parent.name != TRAIN, p.parent.name))}


def _place(root: Path, split: str, digests: dict[str, str]) -> Place:
    folder = next((root / name for name in (split, VALID) if (root / name / "JPEGImages").is_dir()), root / split)
    tracks, categories = None, {}
    if (path := folder / "mask_dict.json").is_file():
        tracks, digests[f"{split}/{path.name}"] = load_json(path, hint=None)
        if not isinstance(tracks, dict):
            raise RefsegError(f"{path}: no table of anno_ids", hint="as in mask_dict.json of MeViS")
    if (path := folder / "meta.json").is_file():
        table, digests[f"{split}/{path.name}"] = load_json(path, hint=None)
        categories = _categories(table, path)
    palettes = folder / "Annotations"
    return Place(folder / "JPEGImages", palettes if palettes.is_dir() else None, tracks, categories)


def _categories(table: Any, path: Path) -> dict[str, dict[str, str]]:
    try:
        return {
            video: {number: text(row["category"], "category") for number, row in rows["objects"].items()}
            for video, rows in table["videos"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RefsegError(
            f"{path}: not of the form of Ref-YouTube-VOS: {reason_of(error)}",
            hint="it names the category of each object; without the file there are none",
        ) from error


def _videos(
    rows: Mapping[str, Any], split: str, start: int, file: str, problems: list[Problem], split_of: dict[int, str]
) -> Iterator[Video]:
    for number, (name, row) in enumerate(rows.items(), start=start):
        try:
            frames = tuple(_named(frame, "frame") for frame in row["frames"])
            said = row["expressions"].items()
            if not frames or len(set(frames)) < len(frames):
                raise ValueError("no frames" if not frames else "a frame twice")
            video = _named(name, "video")
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(Problem(Reason.BROKEN_REF, file, (), f"video {brief(name)}: {_told(error)}"))
            split_of[number * EXPRESSIONS] = split
            continue
        kept = []
        for key, expression in said:
            ref_id = number * EXPRESSIONS
            try:
                ref_id += _expression_id(key)
                kept.append(_said(ref_id % EXPRESSIONS, expression))
            except (KeyError, TypeError, ValueError, AttributeError) as error:
                detail = f"video {name}, expression {brief(key)}: {_told(error)}"
                reason = Reason.EMPTY_EXPRESSION if isinstance(error, _Empty) else Reason.BROKEN_REF
                problems.append(Problem(reason, file, (ref_id,), detail))
            split_of[ref_id] = split
        yield Video(video, split, number, frames, tuple(kept))


class _Empty(ValueError):
    """An expression without words."""


def _told(error: Exception) -> str:
    return f"no {error}" if isinstance(error, KeyError) else str(error)


def _named(name: Any, what: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise ValueError(f"{what} {brief(name)} is not the name of a file")
    return name


def _expression_id(key: str) -> int:
    if not key.isdecimal() or str(int(key)) != key or int(key) >= EXPRESSIONS:
        raise ValueError(f"its id is not a number below {EXPRESSIONS}")
    return int(key)


def _said(number: int, row: Mapping[str, Any]) -> Said:
    phrase = text(row["exp"], "exp")
    if not phrase.strip():
        raise _Empty("no words")
    ids = row.get("anno_id", row.get("obj_id"))
    if ids is not None:
        ids = tuple(dict.fromkeys(whole(one, "id") for one in (ids if isinstance(ids, list) else [ids])))
    return Said(number, phrase, ids)


def add(found: Found, videos: Sequence[Video], place: Place, problems: list[Problem]) -> None:
    """The frames of the videos of one split."""
    says = any(said.ids is not None for video in videos for said in video.said)
    masked = says and (place.palettes is not None or place.tracks is not None)
    if not masked:
        found.without_masks |= {video.split for video in videos}
    names = sorted({name for objects in place.categories.values() for name in objects.values()})
    digest = hashlib.sha256()
    for video in videos:
        expressions = [said for said in video.said if not masked or _sound(said, video, place, problems)]
        if not expressions:
            continue
        objects = sorted({number for said in expressions for number in said.ids or ()} if masked else ())
        known = place.categories.get(video.name, {})
        if place.tracks is None and masked:
            objects = sorted({*objects, *(int(number) for number in known if number.isdecimal())})
        category_of = {number: known.get(str(number), "") for number in objects}
        ids = {name: names.index(name) + 1 if name else 0 for name in category_of.values()}
        drafts = _drafts(
            video, expressions, {n: (ids[c], c) for n, c in category_of.items()}, place if masked else None
        )
        _with_frames(found, video, drafts, place, problems, digest)
    if place.palettes and masked:
        found.digests[f"{videos[0].split}/Annotations"] = digest.hexdigest()


def _sound(said: Said, video: Video, place: Place, problems: list[Problem]) -> bool:
    """Whether the targets of an expression have masks; if not, that is appended to `problems`."""
    fault, reason = "", Reason.UNKNOWN_ANNOTATION
    known = place.categories.get(video.name)
    if said.ids is None:
        fault, reason = "no obj_id and no anno_id", Reason.BROKEN_REF
    for number in said.ids or ():
        if place.tracks is None:
            if not 1 <= number <= _OBJECTS or (known is not None and str(number) not in known):
                fault = f"obj_id {number}"
        elif (track := place.tracks.get(str(number))) is None:
            fault = f"anno_id {number}"
        elif not isinstance(track, list) or len(track) != len(video.frames):
            length = len(track) if isinstance(track, list) else "no"
            fault, reason = f"anno_id {number} has {length} masks", Reason.BROKEN_ANNOTATION
            fault += f", the video {len(video.frames)} frames"
        elif deeper_than(track, 3):
            fault, reason = f"anno_id {number} is nested too deeply", Reason.BROKEN_ANNOTATION
    if fault:
        detail = f"expression {said.number}: {fault}"
        problems.append(Problem(reason, f"{video.split}/{video.name}", (_ref_id(video, said),), detail))
    return not fault


def _ref_id(video: Video, said: Said) -> int:
    return video.number * EXPRESSIONS + said.number


def _drafts(
    video: Video, said: Sequence[Said], objects: Mapping[int, tuple[int, str]], place: Place | None
) -> Iterator[Draft]:
    """One for each frame.  objects: id -> category id and name.  place: None without masks."""
    position = {number: i for i, number in enumerate(objects)}
    expressions = tuple(
        Expression(
            " ".join(one.text.lower().split()),
            _ref_id(video, one),
            _ref_id(video, one),
            tuple(position[number] for number in one.ids or ()) if place else (),
            one.text,
        )
        for one in said
    )
    tracks = place.tracks if place else None
    for frame, name in enumerate(video.frames):
        image_id = identifier(f"{video.name}/{name}", "frame")
        annotations = tuple(
            Annotation(
                number, image_id, *category, None, tracks[str(number)][frame] if tracks is not None else None, False
            )
            for number, category in objects.items()
        )
        palette = place.palettes / video.name / f"{name}.png" if place and place.palettes and tracks is None else None
        file_name = f"{video.name}/{name}.jpg"
        yield Draft(image_id, file_name, video.split, 0, 0, annotations, expressions, video.name, frame, palette)


def _with_frames(
    found: Found, video: Video, drafts: Iterator[Draft], place: Place, problems: list[Problem], digest: Any
) -> None:
    """Append the frames that are there."""
    folder = place.frames / video.name
    files = {path.stem: path for path in _files(folder) if path.suffix.lower() in _FRAMES}
    for draft, name in zip(drafts, video.frames, strict=True):
        losers = tuple(expression.ref_id for expression in draft.expressions)
        if name not in files:
            problems.append(Problem(Reason.MISSING_IMAGE, draft.file_name, losers, f"not in {folder}"))
        elif draft.palette and not draft.palette.is_file():
            problems.append(Problem(Reason.MISSING_MASK, draft.file_name, losers, f"no {draft.palette}"))
        else:
            if draft.palette:
                digest.update(draft.palette.read_bytes())
            found.entries.append((draft, files[name]))


def _files(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []
