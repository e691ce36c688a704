from __future__ import annotations

import pytest

from refseg_cli.annotate.figures import Agreement, figures_of, tables
from refseg_cli.annotate.rules import Answer, State, verdict
from refseg_cli.annotate.store import Judged, Sample

OBJECTS = frozenset(range(1, 6))  # of every picture


def sample(
    number: int, targets: tuple[int, ...], *answers: tuple[str, tuple[int, ...] | str], author: str | None = "Ann"
) -> Sample:
    """Written in 10 x number seconds, each answer in 4 x number."""
    judged = tuple(
        Judged(
            player,
            Answer(reason=given) if isinstance(given, str) else Answer(frozenset(given)),
            1000.0,
            1000.0 + 4 * number,
        )
        for player, given in answers
    )
    state = verdict(targets, [one.answer for one in judged]) if author else State.ACCEPTED
    opened = 500.0 if author else None
    origin = {"kind": "own" if author else "imported"}
    submitted = 500.0 + 10 * number
    return Sample(
        number, "train", number, f"phrase {number}", targets, origin, author, opened, submitted, state, None, judged
    )


SAMPLES = [
    sample(1, (1,), ("Vic", (1,))),
    sample(2, (1, 2), ("Vic", (1,)), ("Val", (1, 2))),
    sample(3, (), ("Val", (3,)), ("Vic", (4,))),
    sample(4, (), ("Vic", "irrelevant")),
    sample(5, (2,)),
    sample(6, (2,), author=None),
]


def objects(split: str, image_id: int) -> frozenset[int]:
    return OBJECTS


def test_counts_by_kind_and_state() -> None:
    counts = figures_of(SAMPLES, objects).counts
    assert counts["single"] == {"waiting": 1, "disputed": 0, "accepted": 2, "discarded": 0, "rejected": 0}
    assert counts["multi"]["accepted"] == 1
    assert (counts["no_target"]["discarded"], counts["no_target"]["rejected"]) == (1, 1)
    assert figures_of(SAMPLES, objects).pictures == 6


def test_kappa_by_hand() -> None:
    # Observed 70 of 100; by chance (60 x 50 + 40 x 50) / 100^2 = 0.5.
    assert Agreement(both=40, first=20, second=10, neither=30).kappa() == pytest.approx(0.4)
    assert Agreement(both=5, neither=7).kappa() == 1.0
    assert Agreement(first=5, second=5).kappa() == -1.0
    assert Agreement(neither=9).kappa() is None  # nothing else was to be expected
    assert Agreement().kappa() is None


def test_agreement_is_counted_object_by_object() -> None:
    found = figures_of(SAMPLES, objects)
    # Sample 1: one object by both; 2: Vic misses one, Val none; 3: each finds another one. A rejection selects nothing.
    assert found.agreement == Agreement(both=1 + 1 + 2, first=1, second=1 + 1, neither=4 + 3 + 3 + 4 + 4, samples=5)
    assert found.pairs["Ann", "Vic"] == Agreement(both=2, first=1, second=1, neither=4 + 3 + 4, samples=3)
    # The pair in the order of their names, whoever came first.
    assert found.pairs["Val", "Vic"] == Agreement(both=1, first=1 + 1, second=1, neither=3 + 3, samples=2)
    assert set(found.pairs) == {("Ann", "Val"), ("Ann", "Vic"), ("Val", "Vic")}


def test_times_and_players() -> None:
    found = figures_of(SAMPLES, objects)
    assert found.seconds["annotate"] == {"single": 30.0, "multi": 20.0, "no_target": 35.0}
    assert found.seconds["validate"] == {"single": 4.0, "multi": 8.0, "no_target": 12.0}
    ann, val, vic = found.players
    assert (ann.player, ann.written, ann.accepted, ann.decided, ann.validated) == ("Ann", 5, 2, 4, 0)
    assert (ann.seconds_annotating, ann.seconds_validating) == (30.0, None)
    assert (val.validated, vic.validated, vic.seconds_validating) == (2, 4, 10.0)
    assert found.reasons == {"irrelevant": 1}
    assert found.origins == {"own": 5, "imported": 1}


def test_tables_name_everything_and_leave_out_what_is_empty() -> None:
    titles = [table.title for table in tables(figures_of(SAMPLES, objects))]
    assert titles == [
        *("Phrases", "Agreement on objects", "Median seconds", "Players", "Rejected because", "Where phrases come from")
    ]
    phrases = tables(figures_of(SAMPLES, objects))[0]
    assert phrases.columns == ("kind", "waiting", "disputed", "accepted", "discarded", "rejected")
    assert phrases.rows[-1] == ("all", 1, 0, 3, 1, 1)
    assert [table.title for table in tables(figures_of([], objects))] == ["Phrases", "Median seconds"]
