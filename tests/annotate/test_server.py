"""The game over HTTP, without a network."""

from __future__ import annotations

import io
import re
import sqlite3
import threading
from pathlib import Path
from random import Random

import numpy as np
import pytest
from garden import garden
from pictures import write_split
from PIL import Image
from visitors import PLAYERS, Come, Visitor, find, write

from refseg_cli.annotate import server
from refseg_cli.annotate.gallery import open_gallery
from refseg_cli.annotate.game import Game
from refseg_cli.annotate.game_file import begin_game
from refseg_cli.annotate.models import Opinions, Phrases
from refseg_cli.annotate.players import Keys
from refseg_cli.annotate.rules import State
from refseg_cli.annotate.store import Store
from refseg_cli.records import Thresholds
from refseg_cli.segmenters.base import Found

HOSTILE = "</title><script>alert(1)</script>\"'><img src=x onerror=alert(2)> & {{7*7}} $body"


def test_a_round_of_two_annotators_and_three_validators(come: Come, game: Game) -> None:
    ann, bob, vic, val, vera = (come(name) for name in ("Ann", "Bob", "Vic", "Val", "Vera"))
    write(ann, "the upper one", [1])
    write(bob, "the purple one", [])
    write(ann, "all three", [1, 2, 3])
    write(bob, "gibberish blah", [3])
    assert "the upper one" in vic.get("/validate")
    assert "the purple one" in val.get("/validate")
    assert "all three" in vera.get("/validate")
    assert "you found what the annotator meant" in find(vic, [1]).lower()
    assert "accepted" in find(val, [])
    assert "gibberish blah" in vic.page  # the next one comes at once
    assert "another validator" in find(vera, [1, 2])
    assert "rejected" in vic.post("/reject", reason="language")
    assert "all three" in vic.page
    assert "discarded" in find(vic, [1])
    states = [sample.state for sample in game.store.samples()]
    assert states == [State.ACCEPTED, State.ACCEPTED, State.DISCARDED, State.REJECTED]
    assert "Nothing to check" in vera.get("/validate")
    home = ann.get("/")
    assert re.findall(r"<dd>(\d)</dd>", home) == ["1", "0", "1", "0"]


def test_the_validator_is_not_shown_what_the_annotator_chose(come: Come) -> None:
    ann, vic = come("Ann"), come("Vic")
    image = write(ann, "the upper one", [1])
    page = vic.get("/validate")
    assert "checked" not in page.replace("checkbox", "")
    assert "small one" not in page  # nor the picture's known expressions
    assert "Suggestions" not in page
    assert sorted(re.findall(r'name="target" value="(\d+)"', page)) == [f"{image}{n}" for n in (1, 2, 3)]


def test_the_annotator_is_shown_known_expressions_and_suggestions(come: Come) -> None:
    page = come("Ann").get("/annotate")
    assert "Expressions of this picture (4)" in page
    assert page.count('class="offer"') == 6
    assert "val one" not in page


def test_a_refused_form_keeps_what_was_entered(come: Come) -> None:
    ann = come("Ann")
    ann.get("/annotate")
    image, task = ann.image, ann.task
    page = ann.post("/annotate", 422, target=[10 * image + 1], nothing="1", phrase=HOSTILE)
    assert 'role="alert"' in page
    assert page.count(" checked") == 2
    assert "&lt;script&gt;" in page
    assert "<script>alert" not in page
    assert ann.task == task
    assert "Write a phrase" in ann.post("/annotate", 422, target=[10 * image + 1], phrase="  ")
    vic = come("Vic")
    write(ann, "one", [1])
    vic.get("/validate")
    assert "Choose the objects" in vic.post("/validate", 422)
    assert "Say why" in vic.post("/reject", 422, reason="no such reason")


def test_hostile_words_are_text_everywhere(come: Come, game: Game, prepared: Path) -> None:
    ann, vic, eve = come("Ann"), come("Vic"), come("Eve <b>")
    assert "Eve &lt;b&gt;" in eve.get("/")
    write(ann, HOSTILE, [1])
    pages = [vic.get("/validate"), find(vic, [1])]
    game.store.add_imported([("train", n, HOSTILE + str(n), (10 * n + 1,), {}) for n in range(1, 5)])
    write(eve, HOSTILE + " by Eve", [2])
    pages += [ann.get("/annotate"), eve.get("/annotate"), come("host").get("/dashboard")]
    for page in pages:
        assert "<script>alert" not in page
        assert "<img src=x" not in page
        assert "<b>'s" not in page
        assert page.count("<title>") == page.count("</title>") == 1
    assert "onerror=alert(2)&gt;" in pages[2]
    assert "Eve &lt;b&gt;" in pages[-1]


def test_several_play_at_once(come: Come, game: Game) -> None:
    """Threads of five players; each sample is decided once, and by others than its author."""
    names = [player.name for player in PLAYERS]
    visitors = [come(name) for name in names]
    faults: list[BaseException] = []

    def play(visitor: Visitor, name: str) -> None:
        try:
            for n in range(6):
                if 'href="/annotate"' in visitor.get("/"):
                    write(visitor, f"phrase {n} of {name}", [1])
                if name not in ("Ann", "Bob") and 'id="play"' in visitor.get("/validate"):
                    find(visitor, [1 + n % 2])
        except BaseException as error:
            faults.append(error)

    threads = [threading.Thread(target=play, args=pair) for pair in zip(visitors, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert faults == []
    samples = game.store.samples()
    assert len(samples) == 18
    for sample in samples:
        players = [judged.player for judged in sample.answers]
        assert sample.author not in players
        assert len(set(players)) == len(players) <= 2


# A model


class Half:
    """Finds the left half of every picture, or nothing for a phrase with "none" in it."""

    name = "half <1>"
    thresholds = Thresholds()

    def __init__(self) -> None:
        self.asked: list[str] = []

    def predict(self, image, phrases):
        [phrase] = phrases
        self.asked.append(phrase)
        mask = np.zeros(image.shape[1:], dtype=bool)
        mask[:, : image.shape[2] // 2] = "none" not in phrase
        yield Found(phrase, mask, bool(mask.any()), 0.5, int(mask.sum()))

    def cautions(self, name, phrases):
        return []


def test_a_models_opinion_comes_after_the_players_own(game: Game, keys: Keys) -> None:
    model = Half()
    app = server.build(game, PLAYERS, keys, opinions=Opinions(model, game.store))
    ann, vic = Visitor(app), Visitor(app)
    for visitor, name in ((ann, "Ann"), (vic, "Vic")):
        visitor.post("/join", token=keys.of_player(name))
    ann.get("/annotate")
    task = ann.task
    assert ann.http.get(f"/opinion/{task}").status_code == 404
    assert model.asked == []
    page = ann.post("/annotate", target=[10 * ann.image + 2], phrase="the large one here")
    assert "half &lt;1&gt;" in page
    assert "M0 0h40v60h-40v-60z" in page
    assert f"{40 * 30 / (60 * 40):.0%}" in page  # the large one lies in the left half
    assert 'href="/annotate"' in page
    vic.get(f"/opinion/{task}", 409)
    page = find(vic, [3])
    assert "0%" in page
    assert 'href="/validate"' in page
    assert model.asked == ["the large one here"]  # once for both
    assert ann.http.get(f"/opinion/{task}").status_code == 200
    write_none = ann.get("/annotate") and ann.post("/annotate", nothing="1", phrase="none of them")
    assert "It finds nothing" in write_none


def test_generated_phrases_are_offered_only_if_wanted(scenes: Path, tmp_path: Path) -> None:
    gallery = open_gallery(str(scenes), splits=["train"])
    begin_game(tmp_path / "g", gallery.about)
    keys = Keys(b"k")
    pages = []
    for generate in (None, Phrases(gallery.categories)):
        game = Game(Store(tmp_path / "g"), gallery, generate=generate, rng=Random(5))
        visitor = Visitor(server.build(game, PLAYERS, keys))
        visitor.post("/join", token=keys.of_player("Ann"))
        if pages:
            visitor.get("/annotate")
            visitor.post("/skip")
        pages.append(visitor.get("/annotate"))
    assert ["Suggestions by refseg" in page for page in pages] == [False, True]


# The host


def test_the_dashboard_counts(come: Come) -> None:
    ann, vic, host = (come(name) for name in ("Ann", "Vic", "host"))
    write(ann, "the upper one", [1])
    write(ann, "the purple one", [])
    find(vic, [1])
    find(vic, [1])
    page = host.get("/dashboard")
    assert "2 of 4 pictures" in page
    rows = [re.findall(r"<td[^>]*>([^<]*)</td>", row) for row in re.findall(r"<tr>(.*?)</tr>", page)]
    assert ["single", "0", "0", "1", "0", "0"] in rows
    assert ["no target", "0", "1", "0", "0", "0"] in rows
    # One object by both of six, one by the validator alone: (6 * 5 - (1 * 2 + 5 * 4)) / (36 - 22).
    assert ["annotators", "validators", "2", "6", f"{8 / 14:.2f}"] in rows


def test_failures_are_told_in_words(come: Come, game: Game, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*answer: object) -> int:
        raise sqlite3.OperationalError("database or disk is full")

    ann = come("Ann")
    ann.get("/annotate")
    with monkeypatch.context() as patched:
        patched.setattr(game.store, "submit_sample", full)
        assert "Not saved" in ann.post("/annotate", 503, nothing="1", phrase="the purple one")
    ann.get("/annotate")
    assert "Saved" in ann.post("/annotate", nothing="1", phrase="the purple one")


def test_pictures_come_as_browsers_take_them(come: Come, tmp_path: Path) -> None:
    ann = come("Ann")
    ann.get("/annotate")
    with Image.open(io.BytesIO(ann.http.get(f"/picture/{ann.task}").content)) as image:
        assert image.size == (80, 60)
    assert 'viewBox="0 0 80 60"' in ann.page


def test_a_thousand_pictures(tmp_path: Path) -> None:
    folder = tmp_path / "many"
    folder.mkdir()
    write_split(folder, "train", garden("train", range(1, 1001)))
    gallery = open_gallery(str(folder))
    begin_game(tmp_path / "g", gallery.about)
    game = Game(Store(tmp_path / "g"), gallery, rng=Random(5))
    keys = Keys(b"k")
    visitor = Visitor(server.build(game, PLAYERS, keys))
    visitor.post("/join", token=keys.of_player("Ann"))
    assert len({write(visitor, f"phrase {n}", [1]) for n in range(20)}) == 20
