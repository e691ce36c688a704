from __future__ import annotations

from pathlib import Path

import pytest

from refseg_cli.annotate.players import Keys, Player, choose_players
from refseg_cli.errors import RefsegError


def test_players_of_a_file(tmp_path: Path) -> None:
    path = tmp_path / "players.txt"
    path.write_text('\ufeff# who plays\nAnn, annotator\n\n Vic ,Validator\nMary  Jane\n"Doe, John", both\n', "utf-8")
    ann, vic, mary, john = choose_players(str(path))
    assert (ann, vic) == (Player("Ann", "annotator"), Player("Vic", "validator"))
    assert (mary, john) == (Player("Mary Jane"), Player("Doe, John"))
    assert [ann.may("annotate"), ann.may("validate"), mary.may("annotate"), mary.may("validate")] == [1, 0, 1, 1]


def test_players_without_names() -> None:
    assert [player.name for player in choose_players("2")] == ["player-1", "player-2"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("Ann, judge", "players.txt, line 1: Ann is judge (a role is one of: annotator, validator, both)"),
        ("Ann\nANN", "line 2: ANN is there twice"),
        ("# nobody", "names no player"),
        ('"Ann, annotator', "players.txt, line 1: unexpected end of data"),
        (", annotator", "line 1: not a name"),
        ("x" * 61, "line 1: not a name"),
        ("a\x07b", "line 1: not a name"),
    ],
)
def test_a_broken_file_is_named(tmp_path: Path, text: str, told: str) -> None:
    path = tmp_path / "players.txt"
    path.write_text(text)
    with pytest.raises(RefsegError) as caught:
        choose_players(str(path))
    assert told in str(caught.value)


def test_what_is_no_file_and_no_number_is_named(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\xff")
    for text, told in (
        ("0", "1 to 1000"),
        (str(tmp_path / "none"), "No such file"),
        (str(tmp_path / "bytes"), "UTF-8"),
    ):
        with pytest.raises(RefsegError, match=told):
            choose_players(text)


def test_tokens_are_their_owners_alone() -> None:
    keys, others = Keys(b"secret"), Keys(b"other")
    made = [keys.of_player("Ann"), keys.of_player("Bob"), keys.of_host(), keys.form(keys.of_host())]
    made += [others.of_player("Ann"), others.of_host()]
    assert len(set(made)) == 6
    assert {len(token) for token in made} == {22}
    assert Keys(b"secret").of_player("Ann") == made[0]
    assert keys.cookie != others.cookie
