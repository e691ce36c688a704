"""People who visit the pages of a game, without a network."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from starlette.testclient import TestClient

from refseg_cli.annotate import server
from refseg_cli.annotate.players import Player

PLAYERS = (
    *(Player(name, "annotator") for name in ("Ann", "Bob")),
    *(Player(name, "validator") for name in ("Vic", "Val", "Vera")),
    Player("Eve <b>", "both"),
)


class Visitor:
    """A browser: its cookies, and the forms of the page that it has."""

    def __init__(self, app: server.App) -> None:
        self.http = TestClient(app, base_url="http://testserver", follow_redirects=True)
        self.page = ""

    def get(self, path: str, status: int = 200) -> str:
        answer = self.http.get(path)
        assert answer.status_code == status, answer.text
        self.page = answer.text
        return self.page

    def post(self, path: str, status: int = 200, headers: dict[str, str] | None = None, **fields: object) -> str:
        """With the hidden fields of the page, unless others are given."""
        hidden = dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', self.page))
        answer = self.http.post(path, data={**hidden, **fields}, headers=headers)
        assert answer.status_code == status, answer.text
        self.page = answer.text
        return self.page

    @property
    def image(self) -> int:
        """Of the picture on the page, whose objects are numbered after it."""
        return int(re.search(r'name="target" value="(\d+)"', self.page)[1]) // 10

    @property
    def task(self) -> int:
        return int(re.search(r'name="task" value="(\d+)"', self.page)[1])


Come = Callable[[str], Visitor]


def write(ann: Visitor, phrase: str, places: Sequence[int]) -> int:
    """What an annotator hands in; the picture's id."""
    ann.get("/annotate")
    image = ann.image
    chosen = {"target": [10 * image + place for place in places]} if places else {"nothing": "1"}
    assert "Saved" in ann.post("/annotate", phrase=phrase, **chosen)
    return image


def find(vic: Visitor, places: Sequence[int]) -> str:
    vic.get("/validate")
    chosen = {"target": [10 * vic.image + place for place in places]} if places else {"nothing": "1"}
    return vic.post("/validate", **chosen)


def hidden(page: str) -> dict[str, str]:
    return dict(re.findall(r'type="hidden" name="(\w+)" value="([^"]*)"', page))
