"""Answers about clips as the benchmarks' servers take them: a PNG for each frame of each expression, and back.

Annotations/VIDEO/EXPRESSION/FRAME.png    Ref-YouTube-VOS
VIDEO/EXPRESSION/FRAME.png                MeViS
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Protocol

import numpy as np
from PIL import Image

from refseg_cli.data import masks
from refseg_cli.data.shards import Shards
from refseg_cli.data.sources import palettes
from refseg_cli.data.sources.videos import EXPRESSIONS
from refseg_cli.errors import RefsegError
from refseg_cli.evaluation.answers import Answers
from refseg_cli.evaluation.predictions import Given, Problems
from refseg_cli.files import unwritable, whole, write
from refseg_cli.records import Record, Rle

ZIP = ".zip"
FOLDER = "Annotations"
WITHOUT_FOLDER = ("mevis", "scenes-video")  # data sets
DAVIS_COLOURS = (0, 0, 0, 128, 0, 0)  # of 0 and 1 in DAVIS' palette
MAX_BYTES = 64 << 20  # of a PNG file in a zip: a mask has far fewer, and a small zip may unpack to what no memory holds
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # of every file in a zip, so that the same answers make the same bytes


def is_submission(source: str, splits: Sequence[Shards]) -> bool:
    """Whether it is a folder or a zip of masks, which it is if the splits are of clips."""
    of_clips = any(split.manifest.splits[split.split].clips for split in splits)
    return of_clips and (source.lower().endswith(ZIP) or Path(source).is_dir())


def frame_name(record: Record) -> str:
    """The frame's name, as the data set has it."""
    return PurePosixPath(record.file_name).stem


class _Store(Protocol):
    def __call__(self, name: str, data: bytes) -> None:
        """Keep a file."""


def write_submission(
    path: Path, split: Shards, answers: Answers, predicted: Sequence[Rle], *, palette: bool = False
) -> int:
    """Write the masks of a split's answers; how many files these are.

    Args:
        path: a folder that is not there or empty, or a file that ends in .zip.
        predicted: the mask of each answer; it is empty where the answer is "no target".
        palette: 0 and 1 with DAVIS' colours, in place of black and white.

    Raises:
        RefsegError: the split is of pictures, or nothing can be written there.
    """
    row_of = {key: row for row, key in enumerate(zip(answers.image_id.tolist(), answers.sent_id.tolist(), strict=True))}
    prefix = "" if split.manifest.dataset in WITHOUT_FOLDER else f"{FOLDER}/"
    number = 0
    with _open(path) as keep:
        for record in split.annotations():
            if not record.clip:
                raise RefsegError(f"{split.uri}: {split.split} has pictures, not clips: submissions are of clips")
            for expression in record.expressions:
                row = row_of.get((record.image_id, expression.sent_id))
                if row is None:
                    continue
                empty = np.zeros((record.height, record.width), np.uint8)
                mask = masks.decode(predicted[row]) if answers.predicted[row] else empty
                name = f"{prefix}{record.clip}/{expression.sent_id % EXPRESSIONS}/{frame_name(record)}.png"
                keep(name, png(mask, palette=palette))
                number += 1
    return number


def png(mask: np.ndarray, *, palette: bool = False) -> bytes:
    """An (h, w) mask, True or 1 inside, as a PNG file: 0 and 255, or 0 and 1 with DAVIS' colours."""
    image = Image.fromarray(mask.astype(np.uint8) * (1 if palette else 255), "P" if palette else "L")
    if palette:
        image.putpalette(DAVIS_COLOURS)
    data = io.BytesIO()
    image.save(data, "PNG")
    return data.getvalue()


def check_place(path: Path) -> None:
    """That a submission can be written there; before an evaluation, not behind it.

    Raises:
        RefsegError: there is something already.
    """
    if path.is_dir() and any(path.iterdir()) if path.suffix.lower() != ZIP else path.exists():
        raise RefsegError(f"{path}: exists", hint="choose another place for the submission, or remove it")


@contextmanager
def _open(path: Path) -> Iterator[_Store]:
    check_place(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix.lower() != ZIP:

            def keep(name: str, data: bytes) -> None:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                write(path / name, data)

            yield keep
            return
        with whole(path) as part, zipfile.ZipFile(part, "w", zipfile.ZIP_DEFLATED) as archive:

            def pack(name: str, data: bytes) -> None:
                archive.writestr(zipfile.ZipInfo(name, LONG_AGO), data, zipfile.ZIP_DEFLATED)

            yield pack
    except OSError as error:
        raise unwritable(path, error) from error


def read_submission(source: str, splits: Sequence[Shards], problems: Problems) -> list[Given]:
    """The entries of a folder or zip of masks about the clips of these splits; what is none goes to `problems`.

    Folders around the videos' do not matter, so that what others packed differently is found, too.

    Raises:
        RefsegError: no such folder, or no zip.
    """
    wanted: dict[tuple[str, ...], tuple[int, int]] = {}  # video, expression, frame -> image_id, sent_id
    for split in splits:
        for record in split.phrases():
            for expression in record.expressions:
                number = str(expression.sent_id % EXPRESSIONS)
                wanted[record.clip, number, frame_name(record)] = (record.image_id, expression.sent_id)
    given = []
    for name, data in _files(source):
        where, names = f"{source}: {name}", PurePosixPath(name).with_suffix("").parts[-3:]
        if names not in wanted:
            problems.add("unknown", where, "no VIDEO/EXPRESSION/FRAME.png of the data")
            continue
        image_id, sent_id = wanted[names]
        try:
            mask = masks.encode(palettes.read(data))
        except ValueError as error:
            problems.add("unreadable", where, str(error))
            continue
        given.append(Given(where, sent_id=sent_id, images=(image_id,), masks=(masks.coco_json(mask),)))
    return given


def _files(source: str) -> Iterator[tuple[str, bytes]]:
    """The PNG files, by their names below the source."""
    path = Path(source)
    try:
        if path.is_dir():
            for file in sorted(path.rglob("*.png")):
                yield file.relative_to(path).as_posix(), file.read_bytes()
            return
        with zipfile.ZipFile(path) as archive:
            for info in sorted(archive.infolist(), key=lambda info: info.filename):
                if info.filename.lower().endswith(".png") and not info.filename.startswith("__MACOSX/"):
                    yield info.filename, archive.read(info) if info.file_size <= MAX_BYTES else b""
    except (OSError, zipfile.BadZipFile, zipfile.LargeZipFile, RuntimeError) as error:
        raise RefsegError(f"{source}: cannot read: {getattr(error, 'strerror', None) or error}") from error
