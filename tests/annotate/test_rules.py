from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from refseg_cli.annotate.rules import (
    LONGEST,
    OPEN,
    REASONS,
    VALIDATORS,
    Answer,
    Refused,
    State,
    choice,
    clean_phrase,
    kind,
    verdict,
)

RIGHT, WRONG = Answer(frozenset({1, 2})), Answer(frozenset({1}))
NOTHING, REJECTED = Answer(), Answer(reason="language")


@pytest.mark.parametrize(
    ("answers", "state"),
    [
        ([], State.WAITING),
        ([RIGHT], State.ACCEPTED),
        ([WRONG], State.DISPUTED),
        ([NOTHING], State.DISPUTED),
        ([REJECTED], State.REJECTED),
        ([WRONG, RIGHT], State.ACCEPTED),
        ([WRONG, WRONG], State.DISCARDED),  # both found the same, but not what is meant
        ([WRONG, NOTHING], State.DISCARDED),
        ([WRONG, REJECTED], State.REJECTED),
    ],
)
def test_the_referee_compares_selections(answers: list[Answer], state: State) -> None:
    assert verdict([2, 1], answers) is state


def test_a_no_target_phrase_is_accepted_by_choosing_nothing_and_not_by_rejecting() -> None:
    assert verdict([], [NOTHING]) is State.ACCEPTED
    assert verdict([], [Answer(reason="irrelevant")]) is State.REJECTED
    assert verdict([], [WRONG]) is State.DISPUTED


answers = st.one_of(
    st.frozensets(st.integers(1, 3)).map(Answer),
    st.sampled_from(sorted(REASONS)).map(lambda reason: Answer(reason=reason)),
)


@given(st.frozensets(st.integers(1, 3)), st.lists(answers, min_size=VALIDATORS, max_size=4))
def test_a_decision_stays_whatever_is_answered_later(targets: frozenset[int], given: list[Answer]) -> None:
    states = [verdict(targets, given[:n]) for n in range(VALIDATORS + 1)]
    first = next(n for n, state in enumerate(states) if state not in OPEN)
    if states[first] is not State.DISCARDED:
        assert {verdict(targets, given[:n]) for n in range(first, len(given) + 1)} == {states[first]}


def test_a_selection_is_objects_or_nothing() -> None:
    assert choice([2, 1, 2], False, [1, 2, 3]) == {1, 2}
    assert choice([], True, [1]) == frozenset()
    for targets, nothing, told in (([1], True, "not both"), ([], False, "Choose"), ([9], False, "no such object")):
        with pytest.raises(Refused, match=told):
            choice(targets, nothing, [1, 2])


def test_phrases_are_kept_as_typed_but_for_spaces() -> None:
    assert clean_phrase("  Two  people\ton left\n") == "Two people on left"
    assert clean_phrase("cafe\u0301") == "café"
    assert clean_phrase("<b>'; DROP TABLE samples; --") == "<b>'; DROP TABLE samples; --"
    assert clean_phrase("x" * LONGEST) == "x" * LONGEST


@pytest.mark.parametrize(
    "text", ["", "  ", "?!", "a\0b", "a\x1b[31mb", "left \u202eright", "a\ud800", "x" * (LONGEST + 1)]
)
def test_what_is_no_phrase_is_refused(text: str) -> None:
    with pytest.raises(Refused):
        clean_phrase(text)


def test_kinds_are_those_of_prepared_data() -> None:
    assert [kind([]), kind([7]), kind([7, 8])] == ["no_target", "single", "multi"]
