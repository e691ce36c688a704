"""Who may do what over HTTP, and what no request can do."""

from __future__ import annotations

import re
import socket

import pytest
from visitors import PLAYERS, Come, Visitor, find, write

from refseg_cli.annotate import server
from refseg_cli.annotate.game import Game
from refseg_cli.annotate.players import Keys
from refseg_cli.annotate.rules import State
from refseg_cli.errors import RefsegError


def test_every_answer_has_the_headers_that_keep_it_safe(come: Come) -> None:
    ann = come("Ann")
    ann.get("/annotate")
    policy = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; form-action 'self'; "
    for path in ("/", "/annotate", f"/picture/{ann.task}", "/game.js", "/game.css", "/nothing", "/dashboard", "/skip"):
        headers = ann.http.get(path).headers
        assert headers["content-security-policy"].startswith(policy), path
        assert headers["x-content-type-options"] == "nosniff"
        assert headers["referrer-policy"] == "same-origin"
        assert headers["cache-control"] == ("no-cache" if path.startswith("/game") else "no-store")


def test_pages_have_no_inline_script_and_no_inline_style(come: Come) -> None:
    ann, host = come("Ann"), come("host")
    for page in (ann.get("/"), ann.get("/annotate"), host.get("/dashboard"), ann.get("/join")):
        assert re.findall(r"<script[^>]*>", page) == ['<script src="/game.js" defer>']
        assert not re.search(r"<style|\sstyle=|\son\w+=|javascript:|https?://", page)


def test_strangers_see_the_door_only(come: Come, game: Game, keys: Keys) -> None:
    stranger = Visitor(server.build(game, PLAYERS, keys))
    for path in ("/", "/annotate", "/validate", "/dashboard", "/picture/1", "/opinion/1"):
        assert "Open your link again" in stranger.get(path, 401)
    for path in ("/annotate", "/validate", "/skip", "/reject"):
        stranger.post(path, 401, task="1", key="x", phrase="x")
    assert "no longer" in stranger.post("/join", 403, token="wrong")
    assert "no longer" in stranger.post("/join", 403)
    stranger.http.cookies.set(keys.cookie, "wrong")
    stranger.get("/", 401)
    assert game.store.samples() == []


def test_parts_are_kept_apart(come: Come, game: Game) -> None:
    ann, vic, host, eve = come("Ann"), come("Vic"), come("host"), come("Eve <b>")
    ann.get("/validate", 403)
    vic.get("/annotate", 403)
    host.get("/annotate", 403)
    assert "Dashboard" in host.get("/")
    for visitor in (ann, vic):
        visitor.get("/dashboard", 403)
    eve.get("/annotate")
    eve.get("/validate")
    assert 'href="/validate"' not in ann.get("/")
    assert 'href="/annotate"' not in vic.get("/")
    assert 'href="/annotate"' not in vic.get("/validate")


def test_nobody_sees_or_uses_the_tasks_of_others(come: Come, game: Game, keys: Keys) -> None:
    ann, bob, vic, val = (come(name) for name in ("Ann", "Bob", "Vic", "Val"))
    ann.get("/annotate")
    task = ann.task
    assert ann.http.get(f"/picture/{task}").headers["content-type"] == "image/png"
    bob.get("/annotate")
    assert bob.http.get(f"/picture/{task}").status_code == 409
    assert "not yours" in bob.post("/annotate", 409, task=str(task), nothing="1", phrase="of Bob")
    bob.get("/annotate")
    bob.post("/skip", task=str(task))
    assert f'name="task" value="{task}"' in ann.get("/annotate")
    write(ann, "the upper one", [1])
    vic.get("/validate")
    stolen = vic.task
    val.page = vic.page
    val.post("/validate", 403, nothing="1")
    val_key = keys.form(keys.of_player("Val"))
    assert "not yours" in val.post("/validate", 409, task=str(stolen), key=val_key, nothing="1")
    assert game.store.samples()[0].state is State.WAITING


def test_nobody_validates_their_own_over_http(come: Come, game: Game) -> None:
    eve = come("Eve <b>")
    write(eve, "the upper one", [1])
    assert "0 phrases wait" in eve.get("/")
    assert "Nothing to check" in eve.get("/validate")


@pytest.mark.parametrize(
    ("header", "value"),
    [
        ("origin", "https://evil.example"),
        ("origin", "null"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ],
)
def test_forms_of_other_sites_are_refused(come: Come, game: Game, header: str, value: str) -> None:
    headers = {header: value}
    ann = come("Ann")
    ann.get("/annotate")
    assert "another site" in ann.post("/annotate", 403, headers=headers, nothing="1", phrase="the purple one")
    ann.get("/annotate")
    ann.post("/annotate", 403, key="", nothing="1", phrase="the purple one")
    ann.get("/annotate")
    ann.post("/join", 403, headers=headers, token="x")
    assert game.store.samples() == []
    ann.get("/annotate")
    good = {"origin": "http://testserver", "sec-fetch-site": "same-origin"}
    assert "Saved" in ann.post("/annotate", headers=good, nothing="1", phrase="the purple one")


def test_behind_a_proxy_the_players_address_counts(game: Game, keys: Keys) -> None:
    visitor = Visitor(server.build(game, PLAYERS, keys, origin="https://game.example.org/"))
    headers = {"origin": "https://game.example.org", "x-forwarded-proto": "https"}
    answer = visitor.http.post("/join", data={"token": keys.of_player("Ann")}, headers=headers, follow_redirects=False)
    cookie = answer.headers["set-cookie"]
    assert "Secure" in cookie


def test_the_cookie_is_out_of_reach(game: Game, keys: Keys) -> None:
    visitor = Visitor(server.build(game, PLAYERS, keys))
    answer = visitor.http.post("/join", data={"token": keys.of_player("Ann")}, follow_redirects=False)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")
    assert {"HttpOnly", "SameSite=strict", "Path=/"} <= set(answer.headers["set-cookie"].split("; "))


@pytest.mark.parametrize(
    "path", ["/picture/x", "/picture/-1", "/picture/../game.sqlite", "/game.sqlite", "/..%2fgame.sqlite", "/game.py"]
)
def test_no_address_leads_to_a_file(come: Come, path: str) -> None:
    ann = come("Ann")
    ann.get("/annotate")
    answer = ann.http.get(path)
    assert answer.status_code == 404
    assert b"SQLite" not in answer.content


def test_broken_and_huge_forms_are_refused(come: Come, game: Game) -> None:
    ann = come("Ann")
    ann.get("/annotate")
    for fields, status in (
        ({"task": "x"}, 409),
        ({"task": "9" * 30}, 409),
        ({"target": "1 OR 1"}, 409),
        ({"phrase": "x" * server.LONGEST_FORM}, 413),
        ({"phrase": "x" * 300, "nothing": "1"}, 422),
    ):
        ann.get("/annotate")
        ann.post("/annotate", status, **fields)
    for body, status in ((b"\xff\xfe", 400), (b"&".join([b"a=1"] * (server.MOST_FIELDS + 1)), 400), (b"", 403)):
        assert ann.http.post("/annotate", content=body).status_code == status
    assert game.store.samples() == []


def test_a_form_that_is_sent_twice_is_saved_once(come: Come, game: Game) -> None:
    ann = come("Ann")
    page = ann.get("/annotate")
    for _ in range(2):
        ann.page = page
        assert "Saved" in ann.post("/annotate", nothing="1", phrase="the purple one")
    assert len(game.store.samples()) == 1


def test_who_was_overtaken_is_told(come: Come, game: Game) -> None:
    ann, vic, val = come("Ann"), come("Vic"), come("Val")
    write(ann, "the upper one", [1])
    vic.get("/validate")
    game.store._db.execute("UPDATE tasks SET opened = opened - 10000")
    assert "accepted" in find(val, [1])
    assert "meanwhile" in vic.post("/validate", 409, nothing="1")
    assert "Nothing to check" in vic.get("/validate")


def test_answers_are_not_held_back_by_nagle() -> None:
    """asyncio turns it off for sockets that say that they are TCP only."""
    with server.listen("127.0.0.1", 0) as bound, socket.create_connection(bound.getsockname()):
        accepted, _ = bound.accept()
        with accepted:
            assert accepted.proto == socket.IPPROTO_TCP


def test_addresses_that_cannot_be_had_are_named() -> None:
    with server.listen("127.0.0.1", 0) as bound, pytest.raises(RefsegError, match="cannot listen on 127"):
        server.listen(*bound.getsockname())
    with pytest.raises(RefsegError, match="cannot listen on no such host"):
        server.listen("no such host", 0)
