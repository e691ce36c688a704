"""What is counted of a finished prediction: pixels at original size, all or those that count, at a network's input, or
instances.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any, NamedTuple

import numpy as np

from refseg_cli.data import masks
from refseg_cli.evaluation.answers import Answer, places_of
from refseg_cli.evaluation.instances import count_instances, of_mask
from refseg_cli.metrics.counts import Pixels, count_pixels
from refseg_cli.metrics.rules import Matching, Protocol
from refseg_cli.records import Detection, Expression, Record, Rle

# A protocol that does not compare all pixels at the picture's own size, or how instances are matched.
Counted = Protocol | Matching


class Read(NamedTuple):
    """The masks of an answer in one, upright, and all its instances; None where it tells none apart.

    lying: the mask as it lay at the input of a network, where it was given so.
    """

    mask: Rle
    instances: tuple[Detection, ...] | None
    lying: Rle | None = None


def plan(protocols: Sequence[Protocol], told: Collection[str], *, pixels: bool) -> tuple[dict[str, int], list[Counted]]:
    """What is counted besides the original size: name -> place as in `About.views`, and each of it in that order.

    Protocols that count alike share their places.

    Args:
        told: what the answers give for every instance, `boxes` or also `masks`; protocols that need more are left out.
        pixels: whether every answer has a mask; otherwise protocols of pixels are left out.
    """
    found: dict[Any, tuple[int, Counted]] = {}
    views: dict[str, int] = {}
    free = 0
    for protocol in protocols:
        matching = protocol.matching
        apart = pixels and (protocol.size or protocol.ignores)
        if matching.needs_instances and matching.of not in told if matching else not apart:
            continue
        key = matching or (protocol.grid, protocol.no_target, protocol.size, protocol.ignores)
        if key not in found:
            found[key] = (free, matching or protocol)
            free += len(places_of(protocol, free))
        views |= places_of(protocol, found[key][0])
    return views, [counted for _, counted in found.values()]


def answer(
    record: Record,
    expression: Expression,
    said: bool | None,
    read: Read,
    split: str,
    counted: Sequence[Counted],
) -> Answer:
    """said: whether there is a target, None if the prediction leaves that to its mask."""
    pixels = masks.count(read.mask, masks.targets(record, expression))
    says = True if said is None else said
    kept = pixels if says else Pixels(0, 0, pixels.target)
    views: list[int] = []
    predicted: np.ndarray | None = None
    for one in counted:
        if isinstance(one, Matching):
            told = read.instances
            found = told if told is not None else of_mask(read.mask) if says else ()
            views += count_instances(found, record, expression, one)
        elif expression.targets and one.no_target:
            views += pixels
        else:
            predicted = masks.decode(read.mask).astype(bool) if predicted is None else predicted
            views += _count_apart(predicted, read.lying, record, expression, one)
    return Answer(
        image_id=record.image_id,
        ref_id=expression.ref_id,
        sent_id=expression.sent_id,
        split=split,
        text=expression.text,
        instance_count=len(expression.targets),
        has_target=bool(expression.targets),
        says_target=says,
        # Decided already: what other thresholds would make of a probability, these masks cannot show.
        p_target=float(says),
        intersection=kept.intersection,
        union=kept.union,
        predicted=kept.predicted,
        target=pixels.target,
        mask=read.mask,
        has_head=said is not None,
        categories=tuple(sorted({record.instances[t].category for t in expression.targets})),
        raw_intersection=pixels.intersection,
        raw_predicted=pixels.predicted,
        views=tuple(views),
        instances=read.instances,
    )


def _count_apart(
    predicted: np.ndarray, lying: Rle | None, record: Record, expression: Expression, protocol: Protocol
) -> Pixels:
    """Pixels at the size of the protocol's network, where masks are brought to by its nearest neighbours unless they
    lie there, or else at the picture's own, and without those that it leaves out.
    """
    targets = masks.targets if protocol.grid.crowds else masks.targets_without_crowds
    found = [predicted, masks.decode(targets(record, expression)).astype(bool)]
    if protocol.ignores and expression.ignored:
        known = masks.decode(expression.ignored) == 0
        found = [mask & known for mask in found]
    if protocol.size:
        found = [masks.NEAREST[protocol.grid.nearest](mask, protocol.size) for mask in found]
        if lying is not None and lying.size == protocol.size:
            found[0] = masks.decode(lying).astype(bool)
    return count_pixels(*found)
