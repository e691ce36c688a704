"""Which split a photo belongs to: by a table that says so, or dealt out by shares."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path

from refseg_cli.data.sources import Problem, Reason, Unusable
from refseg_cli.data.sources.instances import SPLIT_NAME, Instances
from refseg_cli.data.sources.named_images import IMAGES, NamedImages
from refseg_cli.data.sources.rows import Row, check_columns, read_rows, use
from refseg_cli.data.sources.values import brief
from refseg_cli.errors import RefsegError

SPLIT = "split"
_WHOLE = (1.0, 100.0)  # what shares may add up to


def read(path: Path, found: Instances, problems: list[Problem]) -> tuple[dict[int, str], str]:
    """The split of each image of a table with image and split, and the file's SHA-256.

    Args:
        problems: rows that cannot be used are appended here, with their numbers.

    Raises:
        RefsegError: no such table, or one without these columns.
    """
    rows, digest = read_rows(path)
    check_columns(rows, path, {"image": IMAGES, SPLIT: (SPLIT,)})
    images, splits = NamedImages(found), dict[int, str]()

    def note(row: Row) -> None:
        image_id, split = images.id_of(row.cells), split_of(row)
        if splits.setdefault(image_id, split or "") != split:
            raise Unusable(Reason.BROKEN_REF, f"the image is in split {splits[image_id]!r}, too")

    for _ in use(rows, note, file=path.name, problems=problems):
        pass
    return splits, digest


def split_of(row: Row) -> str:
    """The split that a row names; empty if it names none.

    Raises:
        Unusable: it is no name for one.
    """
    split = str(row.cells.get(SPLIT, "")).strip()
    if split and not SPLIT_NAME.fullmatch(split):
        raise Unusable(Reason.BROKEN_REF, f"split {brief(split)}: its name has letters, digits and _ only")
    return split


def shares_of(text: str) -> dict[str, float]:
    """``train=0.8,val=0.1,test=0.1``, or in percent.

    Raises:
        RefsegError: it is none, or the shares are not those of a whole.
    """
    try:
        pairs = [part.split("=") for part in text.split(",")]
        shares = {name.strip(): float(number) for name, number in pairs}
    except ValueError as error:
        raise RefsegError(f"--splits {text}: not SPLIT=SHARE,...", hint="e.g. train=0.8,val=0.1,test=0.1") from error
    if bad := [name for name in shares if not SPLIT_NAME.fullmatch(name)]:
        raise RefsegError(f"--splits {text}: {bad[0]!r} is not a valid split name", hint="letters, digits and _")
    total = sum(shares.values())
    if len(shares) < len(pairs) or not all(share > 0 for share in shares.values()):
        raise RefsegError(f"--splits {text}: each split has one share above 0", hint="e.g. train=0.8,val=0.2")
    if not any(math.isclose(total, whole, rel_tol=1e-6) for whole in _WHOLE):
        raise RefsegError(f"--splits {text}: the shares add up to {total:g}", hint="1, or 100 percent")
    return {name: share / total for name, share in shares.items()}


def deal(photos: Iterable[str], shares: Mapping[str, float], *, seed: int) -> dict[str, str]:
    """The split of each photo: as many as its share, at least one, chosen by photo's name and seed alone.

    Raises:
        RefsegError: fewer photos than splits.
    """
    drawn = sorted(set(photos), key=lambda photo: hashlib.sha256(f"{seed}/{photo}".encode()).digest())
    if len(drawn) < len(shares):
        raise RefsegError(f"--splits: {len(drawn)} images for {len(shares)} splits", hint="at least one for each")
    exact = {split: len(drawn) * share for split, share in shares.items()}
    counts = {split: max(1, math.floor(number)) for split, number in exact.items()}
    while (rest := len(drawn) - sum(counts.values())) != 0:
        short = sorted(counts, key=lambda split: counts[split] - exact[split])  # by what each has too much
        changed = short[0] if rest > 0 else next(split for split in reversed(short) if counts[split] > 1)
        counts[changed] += 1 if rest > 0 else -1
    splits = (split for split, number in counts.items() for _ in range(number))
    return dict(zip(drawn, splits, strict=True))
