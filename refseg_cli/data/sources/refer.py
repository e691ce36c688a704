"""`refs(unc).p`, `refs(umd).p`, `refs(google).p`, `refs(berkeley).p` of the REFER downloads: one target a reference."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from refseg_cli.data.sources import Problem, Reason, Ref, pickles, to_sentence


def refs(rows: Any, *, file: str, problems: list[Problem]) -> Iterator[Ref]:
    """The references of the file's value, in its order.

    Args:
        file: its name, for messages.
        problems: broken rows are appended here.
    """
    for number, row in enumerate(rows):
        try:
            yield _ref(_text_keys(row))
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            ref_id = row.get("ref_id") if isinstance(row, dict) else None
            named = (ref_id,) if isinstance(ref_id, int) else ()
            problems.append(Problem(Reason.BROKEN_REF, file, named, f"row {number}: {type(error).__name__}: {error}"))


def _ref(row: dict[str, Any]) -> Ref:
    return Ref(
        ref_id=int(row["ref_id"]),
        image_id=int(row["image_id"]),
        split=pickles.text(row["split"]),
        ann_ids=(int(row["ann_id"]),),
        sentences=tuple(to_sentence(_text_keys(sentence), pickles.text) for sentence in row["sentences"]),
    )


def _text_keys(row: Any) -> dict[str, Any]:
    """Keys as str, which are bytes if somebody saved the file again under another Python."""
    return {pickles.text(key): value for key, value in row.items()}
