"""What is said of a picture: proposals that turn out to be unambiguous, each in a few wordings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random

from refseg_cli.data.phrases.logic import Except, Form, Or, Placed, assert_unambiguous, targets
from refseg_cli.data.phrases.nouns import Category, Vocabulary
from refseg_cli.data.phrases.proposals import KINDS, Kinds, Proposal, View
from refseg_cli.data.phrases.scene import Scene
from refseg_cli.data.phrases.wording import Number, word

SENTENCES = (8, 14)  # phrases for a scene, about
KINDS_TRIED = 3  # before a reference is given up
PROPOSALS = 20  # of each kind; most scenes offer few relations, so that the first proposals fail
REPEATS = 3  # references to the same objects, at most
WORDINGS = (1, 1, 1, 2, 2, 3)  # phrases for one reference: one of these
SHARES = {"single": 0.53, "multi": 0.31, "no_target": 0.16}  # of the references
FITS: dict[str, Callable[[int], bool]] = {  # how many targets belong to each
    "single": lambda n: n == 1,
    "multi": lambda n: n > 1,
    "no_target": lambda n: n == 0,
}


@dataclass(frozen=True, slots=True)
class Reference:
    """One meaning and its phrases.

    kind: 'single.position' and so on.  targets: positions in `Scene.things`, none if the phrases fit nothing.
    """

    kind: str
    form: Form
    targets: tuple[int, ...]
    phrases: tuple[str, ...]


def describe(
    scene: Scene,
    nouns: Vocabulary,
    rng: Random,
    subject: Callable[[Category], bool],
    *,
    kinds: Kinds = KINDS,
    companions: Mapping[int, Mapping[Category, float]] | None = None,
    sentences: tuple[int, int] = SENTENCES,
    repeats: int = REPEATS,
) -> list[Reference]:
    """Unambiguous references to objects of the scene; none if no object may be a target.

    Args:
        subject: the categories that they may be about.
        kinds: what is said, as `proposals.KINDS`.
        companions: as in `View`.
        sentences: how many phrases, about, from and to.
        repeats: references to the same objects, at most.
    """
    view = View(scene, nouns, rng, subject, companions or {})
    if not view.subjects():
        return []
    wanted = rng.randint(*sentences)
    references: list[Reference] = []
    for _ in range(wanted):
        number = rng.choices(list(SHARES), weights=list(SHARES.values()))[0]
        reference = refer(view, number, references, kinds, repeats)
        references += [reference] if reference else []
        if sum(len(reference.phrases) for reference in references) >= wanted:
            break
    return references


def refer(view: View, number: str, earlier: list[Reference], kinds: Kinds, repeats: int = REPEATS) -> Reference | None:
    """A reference to as many objects as `number` wants, in words that the earlier ones did not use."""
    said = {phrase for reference in earlier for phrase in reference.phrases}
    known = Counter(reference.targets for reference in earlier if reference.targets)
    for kind in view.rng.choices(list(kinds[number]), weights=list(kinds[number].values()), k=KINDS_TRIED):
        for _ in range(PROPOSALS):
            proposal = kind(view)
            named = targets(proposal.form, view.scene) if proposal else None
            if proposal is None or named is None or not FITS[number](len(named)):
                continue
            if known[named] >= repeats:
                continue
            if not view.may_name(named):
                continue
            phrases = wordings(proposal, view, said)
            if phrases:
                assert_unambiguous(proposal.form, view.scene, named)
                name = kind.__name__.removeprefix("absent_")
                return Reference(f"{number}.{name}", proposal.form, named, phrases)
    return None


def wordings(proposal: Proposal, view: View, said: set[str]) -> tuple[str, ...]:
    """New phrases for the proposal, all different."""
    number = number_of(proposal.form, view.scene, proposal)
    tries = range(view.rng.choice(WORDINGS))
    return tuple(
        dict.fromkeys(p for p in (word(proposal.form, number, view.nouns, view.rng) for _ in tries) if p not in said)
    )


def number_of(form: Form, scene: Scene, proposal: Proposal) -> Number:
    """The grammatical number of the form, and of the forms joined in it."""
    count = len(targets(form, scene) or ()) or proposal.pretended
    match form:
        case Or(left, right):
            plain = Proposal(form)
            return Number(count, parts=(number_of(left, scene, plain), number_of(right, scene, plain)))
        case Except(_, part):
            return Number(count, all=True, parts=(number_of(part, scene, Proposal(part)),))
        case _:
            alone = scene.photograph and isinstance(form, Placed) and len(targets(form.of, scene) or ()) == 1
            return Number(count, counted=proposal.counted, all=proposal.all, alone=alone)
