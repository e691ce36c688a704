"""A game with a handful of pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from garden import prepare_garden
from visitors import PLAYERS, Come, Visitor

from refseg_cli.annotate import server
from refseg_cli.annotate.gallery import open_gallery
from refseg_cli.annotate.game import Game
from refseg_cli.annotate.game_file import begin_game
from refseg_cli.annotate.players import Keys
from refseg_cli.annotate.store import Store


@pytest.fixture
def prepared(tmp_path: Path) -> Path:
    return prepare_garden(tmp_path / "prepared")


@pytest.fixture
def game(prepared: Path, tmp_path: Path) -> Iterator[Game]:
    """A game with the train pictures."""
    gallery = open_gallery(str(prepared), splits=["train"])
    begin_game(tmp_path / "game", gallery.about)
    store = Store(tmp_path / "game")
    yield Game(store, gallery, rng=Random(1))
    store.close()


@pytest.fixture
def keys(game: Game) -> Keys:
    return Keys(game.store.secret())


@pytest.fixture
def come(game: Game, keys: Keys) -> Come:
    """A visitor who has opened the link of a player, or of the host."""
    app = server.build(game, PLAYERS, keys)

    def opened(name: str) -> Visitor:
        visitor = Visitor(app)
        visitor.post("/join", token=keys.of_host() if name == "host" else keys.of_player(name))
        return visitor

    return opened
