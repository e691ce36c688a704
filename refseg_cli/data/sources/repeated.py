"""Ids that stand for more than one thing: legal, and easily overlooked."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from refseg_cli.data.sources import Draft

_NAMED = 3  # ids that a sentence spells out


def repeated_ids(drafts: Iterable[Draft]) -> tuple[str, ...]:
    """A sentence for each kind of repetition: sent_ids, ref_ids, and references that are there twice as they are."""
    expressions: Counter[tuple[str, int, int, int, str]] = Counter()
    references: dict[int, set[tuple[str, int, frozenset[int]]]] = defaultdict(set)
    for draft in drafts:
        for e in draft.expressions:
            expressions[draft.split, draft.image_id, e.ref_id, e.sent_id, e.text] += 1
            references[e.ref_id].add((draft.split, draft.image_id, frozenset(e.targets)))
    sent_ids = Counter(sent_id for _, _, _, sent_id, _ in expressions)
    kinds = (
        (
            "sent_id",
            [sent_id for sent_id, count in sent_ids.items() if count > 1],
            "of several expressions; `eval --from` then needs ref_id, or image and phrase, beside it",
        ),
        (
            "ref_id",
            [ref_id for ref_id, places in references.items() if len(places) > 1],
            "of several references; `eval --from` then needs sent_id, or image and phrase, beside it",
        ),
        (
            "ref_id",
            list(dict.fromkeys(ref_id for (_, _, ref_id, _, _), count in expressions.items() if count > 1)),
            "with the same sentences more than once, which count as often",
        ),
    )
    return tuple(f"{name} {_listed(ids)}: {what}" for name, ids, what in kinds if ids)


def _listed(ids: Sequence[int]) -> str:
    named = ", ".join(str(one) for one in ids[:_NAMED])
    return f"{named} and {len(ids) - _NAMED} more" if len(ids) > _NAMED else named
