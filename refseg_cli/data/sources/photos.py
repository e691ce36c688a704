"""Photos on disk: whether they are whole, and the records that they complete."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from operator import mul
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from refseg_cli.data import formats, masks
from refseg_cli.data.formats import MAX_PIXELS
from refseg_cli.data.orientation import AS_STORED, Frame, frame_of, turned_box, turned_size
from refseg_cli.data.sources import Draft, Problem, Reason, palettes, without
from refseg_cli.data.sources.json_files import parse
from refseg_cli.records import Instance, Record, Rle

_EOI = b"\xff\xd9"
_SOF, _SOS = (0xC0, 0xC1), 0xDA
_DHT, _DQT, _DRI = 0xC4, 0xDB, 0xDD
_APP1 = 0xE1  # EXIF or XMP
_POLYGONS = msgspec.json.Decoder(list[list[float]])
_REMARKS = frozenset({0xFE, *range(0xE0, 0xF0)})  # comments and application data, EXIF among them
_CODES = tuple(1 << (16 - bits) for bits in range(1, 17))  # of 16 bits that begin with one of 1 to 16 bits
# In compressed data FF stands only before 00 (a byte FF), D0 to D7 (restarts) and FF (padding).
_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")


@dataclass(frozen=True, slots=True)
class Rules:
    """How photos are taken.

    masks_on: the pixels that masks were drawn on where the size does not tell, see `frame_of`. Upright, unless said
        otherwise: annotation tools show a picture as viewers do.
    max_pixels: the largest photo to read, see `formats.check_size`.
    """

    masks_on: Frame = "upright"
    max_pixels: int = MAX_PIXELS


RULES = Rules()


class _Unsure(Exception):
    """The quick look does not suffice."""


def measure(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[tuple[int, int], int]:
    """(height, width) of the pixels that an image file stores, and its EXIF orientation.

    Raises:
        ValueError: no picture of a format that is read, too large, truncated, or damaged.
    """
    segments = list(formats.jpeg_segments(data))
    size = _whole_size(data, segments, max_pixels)
    # Opening a file takes a tenth of the time that preparing it does, and most say nothing of how they are turned.
    markers = [marker for marker, _ in segments]
    silent = markers[-1:] == [_SOS] and _APP1 not in markers
    return size, AS_STORED if silent else formats.orientation_of(data)


def size_of(data: bytes, max_pixels: int = MAX_PIXELS) -> tuple[int, int]:
    """(height, width) in pixels of an image file that is whole.

    A plain JPEG is not decoded, which would take ten times as long as copying it: its header must be as a decoder
    wants it, and its compressed data must run unbroken to the end of the file. Anything else is decoded.

    Raises:
        ValueError: no picture of a format that is read, too large, truncated, or damaged.
    """
    return _whole_size(data, list(formats.jpeg_segments(data)), max_pixels)


def _whole_size(data: bytes, segments: Sequence[tuple[int, int]], max_pixels: int) -> tuple[int, int]:
    """As `size_of`.  segments: as `formats.jpeg_segments` has them."""
    try:
        size = _size_of_plain_jpeg(data, segments)
    except (_Unsure, IndexError, struct.error):
        return _decoded_size(data, max_pixels)
    formats.check_size(size, 3, max_pixels)
    return size


def _size_of_plain_jpeg(data: bytes, segments: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) of a sequential JPEG in one scan."""
    tables: set[int] = set()  # DQT as 0..3, DHT as 0x100 + (class << 4 | id)
    frame = b""
    for marker, start in segments:
        end = start + int.from_bytes(data[start : start + 2])
        segment = data[start + 2 : end]
        if marker == _SOS:
            _check_scan_header(segment, frame, tables)
            _check_scan(data, end)
            height, width = struct.unpack_from(">HH", frame, 1)
            return height, width
        if marker in _SOF and not frame:
            frame = segment
        elif marker == _DQT:
            tables.update(_quantisers(segment))
        elif marker == _DHT:
            tables.update(_huffman_tables(segment))
        elif marker != _DRI and marker not in _REMARKS:  # progressive, lossless, arithmetic
            raise _Unsure
    raise _Unsure


def _check_scan_header(scan: bytes, frame: bytes, tables: set[int]) -> None:
    """One or three components, all in this scan, and their tables known; 8 bits a sample."""
    count = frame[5]
    if (
        frame[0] != 8
        or count not in (1, 3)
        or len(frame) != 6 + 3 * count
        or not all(struct.unpack_from(">HH", frame, 1))
    ):
        raise _Unsure
    if scan[0] != count or len(scan) != 4 + 2 * count or scan[-3:] != b"\0\x3f\0":
        raise _Unsure
    for i in range(count):
        name, sampling, quantiser = frame[6 + 3 * i : 9 + 3 * i]
        scanned, entropy = scan[1 + 2 * i : 3 + 2 * i]
        usual = sampling in (0x11, 0x12, 0x21, 0x22) if i == 0 else sampling == 0x11
        if name != scanned or not usual or quantiser not in tables:
            raise _Unsure
        if 0x100 + (entropy >> 4) not in tables or 0x110 + (entropy & 15) not in tables:
            raise _Unsure


def _quantisers(segment: bytes) -> Iterator[int]:
    """The ids of the tables in a DQT segment."""
    while segment:
        wide, name = divmod(segment[0], 16)
        length = 65 + 64 * wide
        if wide > 1 or name > 3 or len(segment) < length:
            raise _Unsure
        yield name
        segment = segment[length:]


def _huffman_tables(segment: bytes) -> Iterator[int]:
    """0x100 + (class << 4 | id) of the tables in a DHT segment."""
    while segment:
        lengths = segment[1:17]  # how many codes of 1 to 16 bits
        count = sum(lengths)
        if segment[0] & 0xEC or len(lengths) < 16 or count > 256 or len(segment) < 17 + count:
            raise _Unsure
        # No more codes than there are
        if sum(map(mul, lengths, _CODES)) > 1 << 16:
            raise _Unsure
        if not segment[0] & 0x10 and max(segment[17 : 17 + count], default=0) > 15:
            raise _Unsure
        yield 0x100 + segment[0]
        segment = segment[17 + count :]


def _check_scan(data: bytes, position: int) -> None:
    """The first marker after the compressed data must be the end of the image, and of the file."""
    if data.endswith(_EOI) and position + 2 < len(data):
        scan = np.frombuffer(data, np.uint8, len(data) - 1 - position, position)  # but for the last byte
        if not ((scan[:-1] == 0xFF) & (scan[1:] != 0)).any():  # nearly always, and in half of the time of the search
            return
    found = _MARKER.search(data, position)
    if not found or found.group() != _EOI or data[found.end() :].strip(b"\0"):
        raise _Unsure


def _decoded_size(data: bytes, max_pixels: int) -> tuple[int, int]:
    """(height, width) of an image that Pillow decodes to the end."""
    with formats.opened(data, max_pixels=max_pixels) as image:
        formats.check_range(image)  # or whoever reads it later would say so
        image.load()
        return image.height, image.width


@dataclass(frozen=True, slots=True)
class Photo:
    """A photo and its objects, upright.

    data: the file's bytes as they are.  size: (height, width).  orientation: EXIF's number.
    frame: the pixels that its annotations were drawn on.
    instances: those with sound masks.  lost: positions of the other annotations in the draft.
    """

    data: bytes
    size: tuple[int, int]
    orientation: int
    frame: Frame
    instances: tuple[Instance, ...]
    lost: list[int]

    def upright(self, region: Rle) -> Rle:
        """A mask that was drawn on the pixels of its annotations."""
        as_annotated = {"size": region.size, "counts": region.counts}
        return masks.upright(as_annotated, self.size, self.orientation, self.frame)


Drawn = Mapping[int, Rle]  # masks of some annotations of a draft, by position, on the pixels that its size is of


def drawn(drafts: Sequence[Draft]) -> list[Drawn]:
    """The masks of annotations that are sound polygons and nothing else, of several drafts together: see `finish`."""
    found: list[dict[int, Rle]] = [{} for _ in drafts]
    places: list[tuple[dict[int, Rle], int]] = []

    def objects() -> Iterator[tuple[list[list[float]], tuple[int, int]]]:
        for masks_of, draft in zip(found, drafts, strict=True):
            size = draft.height, draft.width
            for i, annotation in enumerate(draft.annotations if not draft.clip else ()):
                places.append((masks_of, i))
                yield _polygons(annotation.segmentation), size

    for rle, (masks_of, i) in zip(masks.from_polygons(objects()), places, strict=True):
        if rle:
            masks_of[i] = rle
    return list(found)


def _polygons(segmentation: Any) -> list[list[float]]:
    """What a JSON text says; none if it is no text, or that is no list of polygons."""
    try:
        return _POLYGONS.decode(segmentation) if isinstance(segmentation, str) else []
    except (ValueError, RecursionError):
        return []


def finish(
    draft: Draft, path: Path, problems: list[Problem], rules: Rules = RULES, known: Drawn | None = None
) -> Record | None:
    """The record of a draft, upright, with its photo's bytes as they are.

    Args:
        problems: what is left out is appended here.
        known: as `drawn` has it of this draft.

    Returns:
        None if the photo cannot be used, or nothing is left to be said of it.
    """
    if draft.clip:
        try:
            draft = palettes.of_shown(palettes.with_masks(draft))
        except (ValueError, OSError) as error:
            losers = tuple(e.ref_id for e in draft.expressions)
            problems.append(Problem(Reason.BROKEN_MASK, str(draft.palette), losers, str(error)))
            return None
    photo = examine(draft, path, problems, rules, known)
    if photo is None:
        return None
    expressions = without(draft.expressions, photo.lost) if photo.lost else draft.expressions
    if not expressions or (draft.clip and len(expressions) < len(draft.expressions)):
        return None  # all frames of a clip have the same expressions
    expressions = tuple(replace(e, ignored=photo.upright(e.ignored)) if e.ignored else e for e in expressions)
    return Record(
        draft.image_id,
        draft.file_name,
        draft.split,
        *photo.size,
        photo.data,
        photo.instances,
        expressions,
        photo.orientation,
        draft.clip,
        draft.frame,
    )


def examine(
    draft: Draft, path: Path, problems: list[Problem], rules: Rules = RULES, known: Drawn | None = None
) -> Photo | None:
    """The photo of a draft with its objects; None if it cannot be used.

    Args:
        problems: what is left out is appended here.
        known: as for `finish`.
    """
    everything = tuple(dict.fromkeys(e.ref_id for e in draft.expressions))
    try:
        with path.open("rb", buffering=0) as file:  # of which a buffer would only ask what it is
            data = file.read()
        stored, orientation = measure(data, rules.max_pixels)
    except OSError as error:
        problems.append(Problem(Reason.MISSING_IMAGE, draft.file_name, everything, str(error.strerror)))
        return None
    except ValueError as error:
        hint = getattr(error, "hint", "")
        detail = f"{error}; {hint}" if hint else str(error)
        problems.append(Problem(Reason.BROKEN_IMAGE, draft.file_name, everything, detail))
        return None
    height, width = turned_size(stored, orientation)
    said = (draft.height, draft.width) if draft.height else stored
    frame = frame_of(said, stored, orientation, otherwise=rules.masks_on)
    if frame is None:
        detail = f"{width}x{height} in place of {draft.width}x{draft.height}"
        problems.append(Problem(Reason.IMAGE_SIZE, draft.file_name, everything, detail))
        return None
    instances, lost = _instances(draft, (height, width), orientation, frame, problems, known or {})
    return Photo(data, (height, width), orientation, frame, instances, lost)


def _instances(
    draft: Draft, size: tuple[int, int], orientation: int, frame: Frame, problems: list[Problem], known: Drawn
) -> tuple[tuple[Instance, ...], list[int]]:
    """The instances with sound masks, upright, and the positions of the others."""
    found: list[Instance] = []
    lost: list[int] = []
    # In a frame of a clip a target may well be out of sight.
    targets = {i for expression in draft.expressions for i in expression.targets} if not draft.clip else set()
    for i, a in enumerate(draft.annotations):
        short = 0
        try:
            if i in known:
                rle = masks.turned_upright(known[i], orientation, frame)
            else:
                segmentation = parse(a.segmentation) if isinstance(a.segmentation, str) else a.segmentation
                sound, short = _without_short(segmentation)
                rle = masks.upright(sound, size, orientation, frame)
        except (ValueError, RecursionError) as error:
            large = isinstance(error, masks.MaskTooLarge)
            losers = _refs_to(draft, i)
            detail = f"annotation {a.ann_id}: {error}" + (f" in {draft.width}x{draft.height}" if large else "")
            reason = Reason.LARGE_MASK if large else Reason.BROKEN_MASK
            problems.append(Problem(reason, draft.file_name, losers, detail, caution=not losers))
            lost.append(i)
        else:
            if short:
                detail = f"annotation {a.ann_id}: {short} of {short + len(sound)} polygons left out"
                problem = Problem(Reason.SHORT_POLYGON, draft.file_name, _refs_to(draft, i), detail, caution=True)
                problems.append(problem)
            if i in targets and not masks.has_pixels(rle):
                detail = f"annotation {a.ann_id}: no pixel of the picture is inside"
                problem = Problem(Reason.BROKEN_MASK, draft.file_name, _refs_to(draft, i), detail, caution=True)
                problems.append(problem)
            if a.box is None:
                box = masks.box(rle)
            elif frame == "stored":
                box = turned_box(a.box, (draft.height, draft.width), orientation)
            else:
                box = a.box
            found.append(Instance(a.ann_id, a.category_id, a.category, box, rle, a.iscrowd))
    return tuple(found), lost


def _refs_to(draft: Draft, position: int) -> tuple[int, ...]:
    """The references to one of a draft's annotations."""
    return tuple(dict.fromkeys(e.ref_id for e in draft.expressions if position in e.targets))


def _without_short(segmentation: Any) -> tuple[Any, int]:
    """The segmentation without polygons that enclose nothing, and how many these were; as it is if it has no others."""
    if not isinstance(segmentation, list):
        return segmentation, 0
    sound = [polygon for polygon in segmentation if isinstance(polygon, list) and len(polygon) >= 6]
    short = len(segmentation) - len(sound)
    if not short or not sound or not all(isinstance(polygon, list) for polygon in segmentation):
        return segmentation, 0
    return sound, short
