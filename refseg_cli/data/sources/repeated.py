"""Ids that stand for more than one thing: legal, and easily overlooked."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from refseg_cli.data.sources import Draft

_NAMED = 3  # ids that a sentence spells out


def repeated_ids(drafts: Iterable[Draft]) -> tuple[str, ...]:
    """A sentence for each kind of repetition: sent_ids, ref_ids, and references that are there twice as they are."""
    drafts = list(drafts)
    places: dict[int, tuple[Draft, tuple[int, ...]]] = {}
    moved: set[int] = set()  # ref_ids of more than one place
    for draft in drafts:
        for e in draft.expressions:
            here = draft, e.targets
            there = places.setdefault(e.ref_id, here)
            if there != here and _place(*there) != _place(*here):
                moved.add(e.ref_id)
    sent_ids, expressions = _repeated_sentences(drafts)
    kinds = (
        (
            "sent_id",
            sent_ids,
            "of several expressions; `eval --from` then needs ref_id, or image and phrase, beside it",
        ),
        (
            "ref_id",
            [ref_id for ref_id in places if ref_id in moved],
            "of several references; `eval --from` then needs sent_id, or image and phrase, beside it",
        ),
        (
            "ref_id",
            expressions,
            "with the same sentences more than once, which count as often",
        ),
    )
    return tuple(f"{name} {_listed(ids)}: {what}" for name, ids, what in kinds if ids)


def _place(draft: Draft, targets: Sequence[int]) -> tuple[str, int, frozenset[int]]:
    return draft.split, draft.image_id, frozenset(targets)


def _repeated_sentences(drafts: Sequence[Draft]) -> tuple[list[int], list[int]]:
    """The sent_ids of several expressions, and the ref_ids of expressions that are there more than once."""
    ids = [e.sent_id for draft in drafts for e in draft.expressions]
    if len(set(ids)) == len(ids):
        return [], []
    counts = Counter(
        (draft.split, draft.image_id, e.ref_id, e.sent_id, e.text) for draft in drafts for e in draft.expressions
    )
    of_sent_ids = Counter(sent_id for _, _, _, sent_id, _ in counts)
    twice = dict.fromkeys(ref_id for (_, _, ref_id, _, _), count in counts.items() if count > 1)
    return [sent_id for sent_id, count in of_sent_ids.items() if count > 1], list(twice)


def _listed(ids: Sequence[int]) -> str:
    named = ", ".join(str(one) for one in ids[:_NAMED])
    return f"{named} and {len(ids) - _NAMED} more" if len(ids) > _NAMED else named
