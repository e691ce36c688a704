"""References in REFER's layout by others than REFER: RRSIS-D, RefSegRS, sets made by hand.

Ids may be text, targets none, one or several; sentences without ids are numbered, and may be plain strings.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from refseg_cli.data.sources import Problem, Reason, Ref, Sentence, Unusable
from refseg_cli.data.sources.grefer import NO_TARGET
from refseg_cli.data.sources.instances import Instances
from refseg_cli.data.sources.rows import Row, use
from refseg_cli.data.sources.values import brief, flag, identifier, made_ids, string


@dataclass(frozen=True, slots=True)
class _Given:
    """A row as it stands there.  ref_id: None where there is none.  sentences: id, `sent` and `raw` of each."""

    ref_id: int | None
    image_id: int
    split: str
    ann_ids: tuple[int, ...]
    sentences: tuple[tuple[int | None, str, str], ...]


def refs(rows: Iterable[Any], found: Instances, *, file: str, problems: list[Problem]) -> Iterator[Ref]:
    """The references of the file's value, in its order; those without a split have an empty one.

    Args:
        found: what they refer to.
        file: its name, for messages.
        problems: rows that cannot be used are appended here, with their numbers, from 1.
    """
    numbered = (
        Row(n, row) if isinstance(row, dict) else Row(n, {}, f"{brief(row)} in place of a reference")
        for n, row in enumerate(rows, start=1)
    )
    given = list(use(numbered, lambda row: _given(row.cells, found), file=file, problems=problems))
    ref_ids = made_ids([one.ref_id for one in given])
    sent_ids = iter(made_ids([sent_id for one in given for sent_id, _, _ in one.sentences]))
    for one, ref_id in zip(given, ref_ids, strict=True):
        sentences = tuple(Sentence(next(sent_ids), text, raw) for _, text, raw in one.sentences)
        yield Ref(ref_id, one.image_id, one.split, one.ann_ids, sentences)


def _given(row: dict[str, Any], found: Instances) -> _Given:
    """Raises Unusable: the row is broken, or refers to what is not there."""
    try:
        image_id = identifier(row["image_id"], "image_id")
        ref_id = None if row.get("ref_id") is None else identifier(row["ref_id"], "ref_id")
        split = string(row.get("split") or "", "split")
        ann_ids = _ann_ids(row)
        sentences = tuple(_sentence(sentence) for sentence in row["sentences"])
    except KeyError as error:
        raise Unusable(Reason.BROKEN_REF, f"no {error.args[0]}") from error
    except (TypeError, ValueError, AttributeError) as error:
        raise Unusable(Reason.BROKEN_REF, str(error)) from error
    # Here, where text is still what it was: later ids are numbers.
    if image_id not in found.photos and image_id not in found.broken_photos:
        raise Unusable(Reason.UNKNOWN_IMAGE, f"image {brief(row['image_id'])}")
    for ann_id in ann_ids:
        if found.image_of.get(ann_id) != image_id:
            of = "of another image" if ann_id in found.image_of else f"not in {found.file}"
            raise Unusable(Reason.UNKNOWN_ANNOTATION, f"{brief(row['ann_id'])}: {of}")
    return _Given(ref_id, image_id, split, ann_ids, sentences)


def _ann_ids(row: dict[str, Any]) -> tuple[int, ...]:
    """None for no target, which the row says by -1 or by no_target."""
    said = row.get("no_target")
    no_target = said is not None and flag(said, "no_target")
    value = row.get("ann_id", [] if no_target else None)
    if value is None:
        raise KeyError("ann_id")
    listed = value if isinstance(value, list | tuple) else [value]
    ann_ids = [identifier(one, "ann_id") for one in listed]
    targets = tuple(ann_id for ann_id in ann_ids if ann_id != NO_TARGET)
    if len(targets) not in (0, len(listed)):
        raise ValueError("ann_id with targets and -1 together")
    if not targets and not listed and not no_target:
        raise ValueError("ann_id is empty; where there is no target, it is -1, or no_target is true")
    if said is not None and no_target == bool(targets):
        raise ValueError("ann_id and no_target disagree")
    return targets


def _sentence(row: Any) -> tuple[int | None, str, str]:
    """A phrase, or a row with one of `sent` and `raw`, or both."""
    if isinstance(row, str):
        return None, row, row
    sent, raw = row.get("sent"), row.get("raw")
    text = string(raw if sent is None else sent, "sent")
    sent_id = row.get("sent_id")
    number = None if sent_id is None else identifier(sent_id, "sent_id")
    return number, text, string(sent if raw is None else raw, "raw")
