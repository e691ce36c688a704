"""The game: who gets what to do, and what becomes of what they hand in."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random, SystemRandom
from typing import Any

from refseg_cli.annotate.gallery import Gallery, Key, selectable
from refseg_cli.annotate.rules import Answer, Refused, Role, State, choice, clean_phrase, same
from refseg_cli.annotate.store import Store, Task
from refseg_cli.annotate.views import View, view_of
from refseg_cli.errors import RefsegError
from refseg_cli.records import Record

OFFERS = 6  # phrases of other pictures that an annotator may take for a no-target phrase
LATEST = 500  # accepted phrases of this game that they come from where the data has too few
VIEWS_KEPT = 256
UNLUCKY = 20  # broken pictures in a row after which the data is to blame

DRAWN, GENERATED = "drawn", "generated"  # origins of offers


@dataclass(frozen=True, slots=True)
class Offer:
    """A phrase that the page offers.

    origin: {"kind": "drawn", "image_id": of the other picture}, or {"kind": "generated"}.
    targets: what it means here; none for one that nothing here should fit.
    """

    phrase: str
    origin: dict[str, Any]
    targets: tuple[int, ...] = ()


class Game:
    """A running game.

    Args:
        generate: makes phrases about a picture, see `models.Phrases`; None to offer none.
        rng: draws pictures.
    """

    def __init__(
        self,
        store: Store,
        gallery: Gallery,
        *,
        generate: Callable[[Record, Random], Sequence[Offer]] | None = None,
        rng: Random | None = None,
    ) -> None:
        self.store, self.gallery = store, gallery
        self._generate, self._rng = generate, rng or SystemRandom()
        self._broken: set[Key] = set()
        self.view = lru_cache(VIEWS_KEPT)(self._view)

    def _view(self, key: Key) -> View:
        return view_of(self.gallery.record(key))

    # Annotators

    def to_annotate(self, player: str) -> Task:
        """The picture that the player has, or a random one that the player has not had yet, as far as there are any.

        Raises:
            RefsegError: the pictures are broken.
        """
        task = self.store.open_task(player, "annotate")
        if task is not None and task_key(task) in self.gallery.entries:
            return task
        if task is not None:
            self.store.skip(task.id, player)
        fault: RefsegError | None = None
        for _ in range(UNLUCKY):
            key = self._draw(player)
            try:
                record = self.gallery.record(key)
            except RefsegError as error:
                self._broken.add(key)
                fault = error
                continue
            return self.store.begin(player, key, [_row(offer) for offer in self._offers(key, record)])
        raise fault or RefsegError("no picture")

    def _draw(self, player: str) -> Key:
        seen = self.store.seen(player)
        usable = [key for key in self.gallery.keys if key not in self._broken]
        new = [key for key in usable if key not in seen]
        return self._rng.choice(new or usable or self.gallery.keys)

    def _offers(self, key: Key, record: Record) -> list[Offer]:
        """Phrases of other pictures of the same split; and, if they are wanted, generated ones of this picture."""
        rng = Random(self._rng.getrandbits(64))
        here = self._phrases(key)
        drawn = dict(self.gallery.others_phrases(key, OFFERS, rng))
        if len(drawn) < OFFERS:
            latest = self.store.latest_accepted(key[0], LATEST)
            others = [s for s in latest if s.targets and s.image_id != key[1] and s.phrase not in drawn]
            picked = rng.sample(others, min(OFFERS - len(drawn), len(others)))
            drawn.update((sample.phrase, sample.image_id) for sample in picked)
        offers = [Offer(text, {"kind": DRAWN, "image_id": other}) for text, other in drawn.items()]
        offers += self._generate(record, rng) if self._generate else ()
        return [offer for offer in offers if not any(same(offer.phrase, phrase) for phrase in here)]

    def _phrases(self, key: Key) -> list[str]:
        known = [known.text for known in self.gallery.entries[key].known]
        return known + [sample.phrase for sample in self.store.of_picture(*key)]

    def known(self, task: Task) -> list[tuple[str, tuple[int, ...]]]:
        """The picture's expressions and their targets, for an annotator to look at: the data's, and accepted ones."""
        listed = [(known.text, known.targets) for known in self.gallery.entries[task_key(task)].known]
        made = self.store.of_picture(*task_key(task))
        return listed + [(sample.phrase, sample.targets) for sample in made if sample.state is State.ACCEPTED]

    def annotate(self, task: Task, targets: Iterable[int], nothing: bool, text: str) -> int:
        """Keep what an annotator hands in; the sample's id.

        Raises:
            Refused: the rules do not allow it.
        """
        chosen = self._choice(task, targets, nothing)
        phrase = clean_phrase(text)
        if any(same(phrase, known.text) for known in self.gallery.entries[task_key(task)].known):
            raise Refused("The picture has this phrase already. Find another one.")
        return self.store.submit_sample(task.id, task.player, phrase, chosen, _origin(task, phrase, chosen))

    # Validators

    def to_validate(self, player: str) -> Task | None:
        """The sample that the player has, or the oldest one of somebody else that waits; None for none."""
        return self.store.open_task(player, "validate") or self.store.next_sample(player, self.gallery.splits)

    def validate(self, task: Task, targets: Iterable[int], nothing: bool) -> State:
        """Keep what a validator has found, and let the referee decide.

        Raises:
            Refused: the rules do not allow it.
        """
        chosen = self._choice(task, targets, nothing)
        return self.store.submit_answer(task.id, task.player, Answer(chosen))

    def reject(self, task: Task, reason: str) -> State:
        """Keep a validator's rejection; reason: a key of `rules.REASONS`."""
        return self.store.submit_answer(task.id, task.player, Answer(reason=reason))

    def owned(self, task_id: int, player: str, role: Role | None = None) -> Task:
        """A task of the player's, open or not.

        Raises:
            Refused: there is none.
        """
        task = self.store.task(task_id)
        if task is None or task.player != player or role not in (None, task.role):
            raise Refused("This page is not yours. Go back to the start.")
        if task_key(task) not in self.gallery.entries:
            raise Refused("This picture is no longer in the game.")
        return task

    def _choice(self, task: Task, targets: Iterable[int], nothing: bool) -> frozenset[int]:
        return choice(targets, nothing, (i.ann_id for i in selectable(self.gallery.record(task_key(task)))))


def task_key(task: Task) -> Key:
    """The picture of a task."""
    return task.split, task.image_id


def _row(offer: Offer) -> Mapping[str, Any]:
    return {"phrase": offer.phrase, "origin": offer.origin, "targets": list(offer.targets)}


def _origin(task: Task, phrase: str, targets: frozenset[int]) -> Mapping[str, Any]:
    """How a phrase came about: one of those that were offered, for what they were offered, or the player's own."""
    for offer in task.offers:
        if same(offer["phrase"], phrase) and frozenset(offer["targets"]) == targets:
            return offer["origin"]
    return {"kind": "own"}
