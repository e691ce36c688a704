"""`refseg predict` by several processes that a launcher started: each answers its share of the pictures.

torchrun --standalone --nproc-per-node 4 -m refseg_cli predict photos/ -p "a dog" --json -o dogs.jsonl

Files for a picture are written by the process that answers it. What goes into one file or pipe is written by the first
process, in the order of the pictures, so that it is what one process would have written.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from functools import partial
from itertools import groupby
from operator import itemgetter
from typing import TYPE_CHECKING

from refseg_cli.commands._forms import Asked, Write
from refseg_cli.commands._many import Ask, Read, answers_about, report
from refseg_cli.commands._output import STDIO
from refseg_cli.errors import RefsegError

if TYPE_CHECKING:
    from refseg_cli.evaluation.parts import Part
    from refseg_cli.segmenters.base import Found

ROUND = 16  # pictures of each process between two meetings, unless a batch has more
Item = tuple[Asked | RefsegError, "Found | None"]


def each_shared(
    pictures: Sequence[str],
    read: Read,
    ask: Ask,
    write: Write,
    part: Part,
    *,
    apart: bool,
    until_found: bool = False,
    batch_images: int = 1,
) -> int:
    """As `_many.each`, by all processes; they end with the same status.

    apart: the answers about each picture go to files of their own.

    Raises:
        RefsegError: standard input is to be read, or another process ended.
    """
    if STDIO in pictures:
        raise RefsegError(f"several processes cannot share {STDIO}", hint="name the pictures")
    answers = partial(answers_about, read=read, ask=ask, until_found=until_found, batch_images=batch_images)
    stream = _rounds(pictures, answers, part, write if apart else None, max(ROUND, batch_images))
    status = report(stream, len(pictures), None if apart else write)
    return part.decided(lambda: status)


def _rounds(
    pictures: Sequence[str],
    answers: Callable[[Sequence[str]], Generator[Item]],
    part: Part,
    write: Write | None,
    count: int,
) -> Generator[Item]:
    """The answers of all processes in the order of the pictures, in the first one; with `write`, masks are gone.

    count: pictures of each process between two meetings.
    """
    for start in range(0, len(pictures), part.n * count):
        mine = pictures[start + part.k * count : start + (part.k + 1) * count]
        with closing(answers(mine)) as stream:
            own = [item for _, items in groupby(stream, key=itemgetter(0)) for item in _kept(list(items), write)]
        for items in part.collected(own):
            yield from items


def _kept(items: list[Item], write: Write | None) -> Iterator[Item]:
    """Without pixels, which nobody needs any more; of what is written here, without masks."""
    import numpy as np

    asked = items[0][0]
    if not isinstance(asked, Asked):
        return iter(items)
    found = [one for _, one in items if one is not None]
    if write is not None:
        write(asked, found)
        found = [replace(one, mask=np.zeros((0, 0), bool), maps=(), instances=None, soft=None) for one in found]
    named = Asked(asked.argument, asked.name, np.zeros((3, 0, 0), np.uint8))
    return iter([*((named, one) for one in found), (named, None)])
