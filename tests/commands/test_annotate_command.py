"""`refseg annotate`: what reaches the game, what is printed, and how a served one ends."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from garden import prepare_garden

from refseg_cli.annotate import hosting
from refseg_cli.annotate.gallery import open_gallery
from refseg_cli.annotate.game_file import FILE, begin_game
from refseg_cli.annotate.hosting import Hosted, ServeRequest
from refseg_cli.annotate.players import Player
from refseg_cli.annotate.rules import Answer
from refseg_cli.annotate.store import Store
from refseg_cli.app import main
from refseg_cli.errors import ERROR, FOUND, RefsegError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return prepare_garden(tmp_path / "data")


@pytest.fixture
def played(data: Path, tmp_path: Path) -> Path:
    """A game with two accepted phrases and one that waits."""
    begin_game(tmp_path / "game", open_gallery(str(data)).about)
    store = Store(tmp_path / "game")
    for split, image, targets in (("train", 1, (11,)), ("val", 5, ()), ("train", 2, (21, 22))):
        task = store.begin("Ann", (split, image))
        store.submit_sample(task.id, "Ann", f"Phrase {image}", targets, {"kind": "own"})
        if image != 2:
            asked = store.next_sample("Vic", ["train", "val"])
            assert asked is not None
            store.submit_answer(asked.id, "Vic", Answer(frozenset(targets)))
    store.close()
    return tmp_path / "game"


def test_every_option_reaches_the_game(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[ServeRequest] = []

    def stop(request: ServeRequest) -> Hosted:
        seen.append(request)
        raise RefsegError("enough")

    monkeypatch.setattr(hosting, "prepare_to_serve", stop)
    options = ["--split", "train, val,train", "--players", "2", "--host", "::1", "--port", "0", "--images", "photos"]
    options += ["--url", "https://x.example", "--suggest", "--model", "scenes", "--device", "cpu"]
    assert main(["annotate", "serve", "--data", "data", "-o", "game", *options]) == ERROR
    assert main(["annotate", "serve", "--data", "data", "--out", "game"]) == ERROR
    both = (Player("player-1"), Player("player-2"))
    assert seen == [
        ServeRequest(
            data="data",
            out=Path("game"),
            players=both,
            images=Path("photos"),
            splits=("train", "val"),
            host="::1",
            port=0,
            url="https://x.example",
            model="scenes",
            device="cpu",
            generate=True,
        ),
        ServeRequest("data", Path("game"), (*both, Player("player-3"))),
    ]


@contextmanager
def serve(*words: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "refseg_cli", "annotate", "serve", "--data", "data", "--out", "game", *words]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as server:
        try:
            yield server
        finally:
            server.kill()  # if it has not stopped, which the `with` would wait for


def test_a_served_game_prints_its_links_and_stops_at_ctrl_c(data: Path) -> None:
    with serve("--port", "0") as server:
        assert server.stdout is not None
        assert server.stderr is not None
        lines = [server.stdout.readline() for _ in range(6)]
        assert "6 pictures, at http://127.0.0.1:" in server.stderr.readline()
        server.send_signal(signal.SIGINT)
        _, talk = server.communicate(timeout=60)
    assert server.returncode == FOUND
    assert lines[1].split() == ["player", "role", "link"]
    links = re.findall(r"http://127\.0\.0\.1:\d+/join#[\w-]{22}\n", "".join(lines))
    assert len(set(links)) == 4
    assert talk == "stopped; the game is in game\n"
    assert stat.S_IMODE(Path("game", FILE).stat().st_mode) == 0o600
    with serve("--port", "0", "--json", "--quiet") as server:
        assert server.stdout is not None
        told = json.loads(server.stdout.readline())
        server.send_signal(signal.SIGTERM)
        assert server.communicate(timeout=60) == ("", "")
    again = {told["dashboard"].split("#")[1], *(player["link"].split("#")[1] for player in told["players"])}
    assert again == {link.strip().split("#")[1] for link in links}  # they outlive a restart


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--data", "nowhere"], "nowhere: no complete prepared data here"),
        (["--data", "data", "--split", "test"], "unknown split"),
        (["--data", "data", "--players", "nobody.txt"], "nobody.txt: No such file"),
        (["--data", "data", "--url", "game.example.org"], "--url game.example.org: not an address"),
        (["--data", "data", "--host", "no.such.host.invalid"], "cannot listen on no.such.host.invalid, port 8765"),
        (["--data", "data", "--model", "no/model"], "no/model"),
        (["--data", "data", "--split", "val", "--out", "game"], "not the data that this game was begun with"),
        (["--data", "data", "--out", "data/_manifest.json"], "not a folder"),
    ],
)
def test_what_stands_in_the_way_is_one_line(
    data: Path, played: Path, capsys: Capture, words: list[str], told: str
) -> None:
    words = words if "--out" in words else [*words, "--out", "new"]
    assert main(["annotate", "serve", *words]) == ERROR
    talk = capsys.readouterr().err
    assert told in talk
    assert talk.count("\n") == 1


def test_a_taken_port_is_named(data: Path, capsys: Capture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert main(["annotate", "serve", "--data", "data", "--out", "game", "--port", str(port)]) == ERROR
    assert f"cannot listen on 127.0.0.1, port {port}" in capsys.readouterr().err


def test_missing_packages_are_named(data: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "refseg_cli.annotate.server", None)
    monkeypatch.delattr("refseg_cli.annotate.server", raising=False)
    assert main(["annotate", "serve", "--data", "data", "--out", "game"]) == ERROR
    assert "pip install 'refseg[annotate]'" in capsys.readouterr().err


def test_status_shows_a_game_in_figures(played: Path, capsys: Capture) -> None:
    assert main(["annotate", "status", "game"]) == FOUND
    shown = capsys.readouterr().out
    assert re.search(r"single +0 +0 +1 +0 +0\n", shown)
    assert re.search(r"all +1 +0 +2 +0 +0\n", shown)
    assert re.search(r"Ann +Vic +2 +6 +1\.00\n", shown)
    assert main(["annotate", "status", "game", "--json"]) == FOUND
    told = json.loads(capsys.readouterr().out)
    assert told["counts"]["multi"]["waiting"] == 1
    assert told["agreement"] == {"both": 1, "first": 0, "second": 0, "neither": 5, "samples": 2, "kappa": 1.0}
    assert told["pairs"] == [{"players": ["Ann", "Vic"], **told["agreement"]}]


def test_an_export_is_prepared_and_evaluated(played: Path, untrained: Path, capsys: Capture) -> None:
    """The whole way from the game to a score."""
    assert main(["annotate", "export", "game", "--out", "raw"]) == FOUND
    assert "raw: 2 expressions of 2 pictures" in capsys.readouterr().out
    assert main(["annotate", "export", "game", "--out", "raw", "--json"]) == FOUND
    report = json.loads(capsys.readouterr().out)
    assert report["splits"] == {"train": {"single": 1}, "val": {"no_target": 1}}
    assert main(["prepare", "grefcoco", "--root", "raw", "--out", "prepared", "-q"]) == FOUND
    words = ["--split", "train,val", "--device", "cpu", "--protocol", "rela", "--resamples", "0"]
    assert main(["eval", "--model", str(untrained), "--data", "prepared", *words, "--json"]) == FOUND
    scores = capsys.readouterr().out
    assert "gIoU" in scores
    assert main(["annotate", "import", "game", "--root", "raw"]) == FOUND
    assert capsys.readouterr().out == "0 phrases imported, 2 known already\n"


def test_importing_tells_what_it_left_out(played: Path, data: Path, tmp_path: Path, capsys: Capture) -> None:
    assert main(["annotate", "export", "game", "--out", "raw", "-q"]) == FOUND
    begin_game(tmp_path / "other", open_gallery(str(data), splits=["train"]).about)
    assert main(["annotate", "import", "other", "--root", "raw", "--json"]) == FOUND
    streams = capsys.readouterr()
    assert json.loads(streams.out)["added"] == 1
    assert "image 5 of val is not in this game" in streams.err
    assert main(["annotate", "import", "other", "--root", "nowhere"]) == ERROR
    assert "nowhere" in capsys.readouterr().err


@pytest.mark.parametrize("words", [["status"], ["export", "--out", "raw"], ["import", "--root", "raw"]])
def test_where_there_is_no_game_it_is_said(data: Path, capsys: Capture, words: list[str]) -> None:
    assert main(["annotate", words[0], "data", *words[1:]]) == ERROR
    assert "data: no game here" in capsys.readouterr().err


def test_moved_data_is_found_where_it_is_now(played: Path, data: Path, capsys: Capture) -> None:
    data.rename("moved")
    assert main(["annotate", "status", "game"]) == ERROR
    capsys.readouterr()
    for words in (["status", "game"], ["export", "game", "--out", "raw"], ["import", "game", "--root", "raw"]):
        assert main(["annotate", *words, "--data", "moved"]) == FOUND


def test_help_needs_none_of_the_games_packages() -> None:
    code = (
        "import sys\nfrom refseg_cli.app import main\n"
        "main(['annotate', 'serve', '--help'])\n"
        "sys.exit(bool({'starlette', 'uvicorn', 'torch', 'numpy', 'pyarrow'} & set(sys.modules)))"
    )
    run = subprocess.run([sys.executable, "-c", code], env={**os.environ}, stdout=subprocess.DEVNULL)
    assert run.returncode == 0


@pytest.mark.parametrize("cut", [False, True])
def test_a_damaged_game_is_named(played: Path, data: Path, capsys: Capture, cut: bool) -> None:
    whole = (played / FILE).read_bytes()
    (played / FILE).write_bytes(whole[:5000] if cut else whole[:4096] + bytes(len(whole) - 4096))
    serve = ["serve", "--data", str(data), "--out", "game", "--port", "0"]
    for words in (["status", "game"], ["export", "game", "--out", "raw"], ["import", "game", "--root", "raw"], serve):
        assert main(["annotate", *words]) == ERROR
        err = capsys.readouterr().err
        assert re.fullmatch(r"refseg: \S*game\.sqlite: database disk image is malformed \(is it .*whole\?\)\n", err)
