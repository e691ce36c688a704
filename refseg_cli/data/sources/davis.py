"""Ref-DAVIS17 as its authors give it: DAVIS 2017 at 480p, and four text files of phrases (Khoreva et al., ACCV 2018).

ROOT/DAVIS/ImageSets/2017/{train,val}.txt
ROOT/DAVIS/JPEGImages/480p/VIDEO/FRAME.jpg
ROOT/DAVIS/Annotations_unsupervised/480p/VIDEO/FRAME.png    or Annotations/480p
ROOT/davis_text_annotations/Davis17_annot{1,2}{,_full_video}.txt    VIDEO OBJECT "phrase"

Published figures are of the masks of the unsupervised track, so they are read where both are there.

Two annotators wrote of each object what tells it apart in the first frame, and in the whole video. Expressions are
numbered as in the conversion that published figures are of (wjn922/ReferFormer `convert_davis_to_ytvos.py`): by object,
and of each the first annotator's first-frame and full-video phrase, then the second's; so the id modulo 4 tells whose
and which. It also knows three names of videos that are misspelt in the text files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from refseg_cli.data.sources import Problem, Reason, videos
from refseg_cli.data.sources.values import brief
from refseg_cli.data.sources.videos import EXPRESSIONS, Found, Place, Said, Video
from refseg_cli.data.storage import locate
from refseg_cli.errors import RefsegError

SPLITS = ("train", "val")
TEXTS = ("annot1", "annot1_full_video", "annot2", "annot2_full_video")
MISSPELT = {"clasic-car": "classic-car", "dog-scale": "dogs-scale", "motor-bike": "motorbike"}
_LINE = re.compile(r"(\S+)\s+(\d+)\s+(.*)")
_HINT = "--root holds DAVIS/ and davis_text_annotations/, or a copy in the layout of Ref-YouTube-VOS"


def read(root: Path, splits: Sequence[str], problems: list[Problem]) -> Found:
    """The frames of all videos of the wanted splits, all if none is named.

    Args:
        problems: what is left out is appended here.

    Raises:
        RefsegError: a file is missing, or there is no such split.
    """
    for split in splits:
        if split not in SPLITS:
            raise RefsegError(f"{root}: no split {split}", hint=f"there are {', '.join(SPLITS)}")
    davis, found, start = root / "DAVIS", Found(), 0
    phrases = [_phrases(root / f"davis_text_annotations/Davis17_{name}.txt", found, problems) for name in TEXTS]
    masks = [davis / f"{name}/480p" for name in ("Annotations_unsupervised", "Annotations")]
    palettes = next((folder for folder in masks if folder.is_dir()), None)
    if palettes is None:
        raise RefsegError(f"{masks[1]}: no such folder", hint=_HINT)
    place = Place(davis / "JPEGImages/480p", palettes)
    for split in SPLITS:
        names = _lines(davis / f"ImageSets/2017/{split}.txt", found)
        if not splits or split in splits:
            listed = [_video(name, split, start + i, place, phrases, problems) for i, name in enumerate(names)]
            for video in listed:
                found.split_of |= {video.number * EXPRESSIONS + said.number: split for said in video.said}
            videos.add(found, [video for video in listed if video.said], place, problems)
        start += len(names)
    return found


def _video(
    name: str,
    split: str,
    number: int,
    place: Place,
    phrases: Sequence[Mapping[str, Mapping[int, str]]],
    problems: list[Problem],
) -> Video:
    frames = tuple(path.stem for path in sorted((place.frames / name).glob("*.jpg")))
    objects = sorted({one for texts in phrases for one in texts.get(name, ())})
    said = [
        Said(4 * i + j, texts[name][one], (one,))
        for i, one in enumerate(objects)
        for j, texts in enumerate(phrases)
        if one in texts.get(name, ())
    ]
    if not said or not frames:
        reason = Reason.MISSING_IMAGE if said else Reason.BROKEN_REF
        detail = f"no frames in {place.frames / name}" if said else "no phrase in davis_text_annotations/"
        problems.append(Problem(reason, f"{split}/{name}", (number * EXPRESSIONS,), detail))
    return Video(name, split, number, frames, tuple(said))


def _phrases(path: Path, found: Found, problems: list[Problem]) -> dict[str, dict[int, str]]:
    """Video -> object -> its phrase, of one text file."""
    texts: dict[str, dict[int, str]] = {}
    for row, line in enumerate(_lines(path, found), start=1):
        parts = _LINE.fullmatch(line)
        phrase = parts[3].strip().strip('"').strip() if parts else ""
        if not parts or not phrase:
            reason = Reason.EMPTY_EXPRESSION if parts else Reason.BROKEN_REF
            problems.append(Problem(reason, path.name, (), f"line {row}: {brief(line)}"))
            continue
        texts.setdefault(MISSPELT.get(parts[1], parts[1]), {})[int(parts[2])] = phrase
    return texts


def _lines(path: Path, found: Found) -> list[str]:
    """The lines of a text file with something in them; the second annotator's are Latin-1."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise RefsegError(f"{path}: {error.strerror}", hint=_HINT) from error
    found.digests[path.name] = locate(path).sha256()
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = data.decode("latin-1")
    return [line.strip() for line in text.splitlines() if line.strip()]
