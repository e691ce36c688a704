"""`refs(unc).p`, `refs(umd).p`, `refs(google).p`, `refs(berkeley).p` of the REFER downloads: one target a reference.

Rows come as JSON has them, whatever the file's form: see `pickles.rows`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from refseg_cli.data.sources import Problem, Reason, Ref, Sentence, to_sentence
from refseg_cli.data.sources.values import brief, string, whole

T = TypeVar("T")


def refs(rows: Iterable[Any], *, file: str, problems: list[Problem]) -> Iterator[Ref]:
    """The references of the file's value, in its order.

    Args:
        file: its name, for messages.
        problems: broken rows are appended here.
    """
    return parse(rows, _ref, file=file, problems=problems)


def parse(rows: Iterable[Any], read: Callable[[Any], T], *, file: str, problems: list[Problem]) -> Iterator[T]:
    """What `read` makes of each row; those that it cannot read are appended to `problems`."""
    for number, row in enumerate(rows):
        try:
            if not isinstance(row, dict):
                raise TypeError(f"{brief(row)} in place of a reference")
            yield read(row)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            problems.append(Problem(Reason.BROKEN_REF, file, _named(row), f"row {number}: {_told(error)}"))


def _named(row: Any) -> tuple[int, ...]:
    """The row's id, if it has one."""
    try:
        return (whole(row["ref_id"], "ref_id"),)
    except (KeyError, TypeError, ValueError):
        return ()


def _told(error: Exception) -> str:
    return f"no {error.args[0]}" if isinstance(error, KeyError) else str(error)


def _ref(row: Any) -> Ref:
    return Ref(
        ref_id=whole(row["ref_id"], "ref_id"),
        image_id=whole(row["image_id"], "image_id"),
        split=string(row["split"], "split"),
        ann_ids=(whole(row["ann_id"], "ann_id"),),
        sentences=sentences(row),
    )


def sentences(row: Any) -> tuple[Sentence, ...]:
    """A row's phrases.

    Raises:
        KeyError, ValueError: one of them is broken.
    """
    return tuple(map(to_sentence, row["sentences"]))
