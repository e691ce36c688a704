"""How long players of the annotation game wait: simulated ones, on this machine's loopback address.

    python benchmarks/annotate_game.py [PLAYERS [SECONDS]]    (writes benchmarks/annotate_game.json)

Serves scenes in a process of its own. Each player has a connection, writes and validates in turns, loads each page's
picture as a browser does, and thinks for one to three seconds before each answer. A time is from the request until
the whole answer is there; players and server share the machine. `style` is a file of a few kilobytes that the server
has in memory: what the machine takes for any answer at all. `server_ms` is what the server used of the processor for
each request. At the end every answer that a player was told is saved is looked for in the game's file.
"""

from __future__ import annotations

import http.client
import json
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from random import Random
from urllib.parse import urlencode, urlsplit

import psutil

from refseg_cli.annotate.store import Store
from refseg_cli.engine.prepare import prepare_scenes

HERE = Path(__file__).parent
SCENES = {"train": 60}
PLAYERS, SECONDS = 50, 60.0
THINKING = (1.0, 3.0)  # seconds
PATIENCE = 30.0  # seconds for one answer
_HIDDEN = re.compile(r'type="hidden" name="(\w+)" value="([^"]*)"')
_OBJECT = re.compile(r'name="target" value="(\d+)"')


@dataclass
class Told:
    """What all players have met.  seconds: by what was asked for.  saved: answers that were acknowledged."""

    seconds: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))
    saved: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)


class Player:
    """One player with a browser."""

    def __init__(self, link: str, number: int, told: Told) -> None:
        parts = urlsplit(link)
        self.http = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=PATIENCE)
        self.rng, self.number, self.told, self.written = Random(number), number, told, 0
        self.cookie = ""
        self.ask("join", "/join", {"token": parts.fragment})

    def ask(self, what: str, path: str, fields: dict[str, object] | None = None) -> str:
        """The page that a request leads to."""
        headers = {"Cookie": self.cookie}
        if fields is not None:
            headers["Content-Type"] = "application/x-www-form-urlencoded"
        body = None if fields is None else urlencode(fields, doseq=True)
        start = time.perf_counter()
        self.http.request("GET" if fields is None else "POST", path, body, headers)
        answer = self.http.getresponse()
        data = answer.read()
        seconds = time.perf_counter() - start
        with self.told.lock:
            self.told.seconds[what].append(seconds)
            if answer.status not in (200, 303, 409, 422):
                self.told.faults.append(f"{path}: {answer.status}")
        self.cookie = (answer.getheader("Set-Cookie") or self.cookie).split(";")[0]
        if answer.status == 303:
            return self.ask("page after an answer", answer.getheader("Location") or "/")
        return data.decode("utf-8", "replace")

    def play(self, end: float) -> None:
        time.sleep(self.rng.uniform(0, THINKING[1]))  # not all come at once
        try:
            self.turns(end)
        except (OSError, http.client.HTTPException) as error:
            with self.told.lock:
                self.told.faults.append(repr(error))

    def turns(self, end: float) -> None:
        while time.monotonic() < end:
            role = self.rng.choice(("annotate", "validate"))
            page = self.ask("page", f"/{role}")
            hidden: dict[str, object] = dict(_HIDDEN.findall(page))
            if "task" in hidden:
                self.ask("picture", f"/picture/{hidden['task']}")
                self.ask("style", "/game.css")
            time.sleep(self.rng.uniform(*THINKING))
            if "task" in hidden:
                self.answer(role, hidden, _OBJECT.findall(page))

    def answer(self, role: str, hidden: dict[str, object], objects: list[str]) -> None:
        chosen: dict[str, object] = {"target": self.rng.sample(objects, 1)} if objects else {"nothing": "1"}
        if role == "annotate":
            self.written += 1
            chosen["phrase"] = f"phrase {self.written} of player {self.number}"
        page = self.ask("answer", f"/{role}", {**hidden, **chosen})
        if "Saved." in page:
            with self.told.lock:
                self.told.saved[role] += 1


def simulate(links: list[str], seconds: float) -> Told:
    """All of them at once, for so long."""
    told = Told()
    players = [Player(link, number, told) for number, link in enumerate(links)]
    end = time.monotonic() + seconds
    threads = [threading.Thread(target=player.play, args=(end,)) for player in players]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return told


def processor_seconds(process: int) -> float:
    times = psutil.Process(process).cpu_times()
    return times.user + times.system


def summary(seconds: list[float]) -> dict[str, float]:
    """Milliseconds."""
    cuts = statistics.quantiles(seconds, n=100, method="inclusive")
    found = {"p50": cuts[49], "p95": cuts[94], "p99": cuts[98], "max": max(seconds)}
    return {"requests": len(seconds), **{name: round(1000 * value, 1) for name, value in found.items()}}


def main(players: int = PLAYERS, seconds: float = SECONDS) -> None:
    with tempfile.TemporaryDirectory() as folder:
        data, game = Path(folder) / "data", Path(folder) / "game"
        prepare_scenes(str(data), images=SCENES)
        words = ["annotate", "serve", "--data", str(data), "--out", str(game), "--port", "0", "--json", "-q"]
        words = [sys.executable, "-m", "refseg_cli", *words, "--players", str(players)]
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            links = [player["link"] for player in json.loads(server.stdout.readline())["players"]]
            before = processor_seconds(server.pid)
            told = simulate(links, seconds)
            used = processor_seconds(server.pid) - before
            server.send_signal(signal.SIGINT)
        samples = Store(game).samples()
    kept = {"annotate": len(samples), "validate": sum(len(sample.answers) for sample in samples)}
    lost = {role: told.saved[role] - kept[role] for role in kept}
    everything = [value for values in told.seconds.values() for value in values]
    found = {
        "machine": f"{platform.machine()}, Python {platform.python_version()}",
        "versions": {name: version(name) for name in ("starlette", "uvicorn")},
        "players": players,
        "seconds": seconds,
        "saved": dict(told.saved),
        "lost": lost,
        "faults": told.faults,
        "server_ms": round(1000 * used / len(everything), 2),
        "milliseconds": {"all": summary(everything), **{what: summary(of) for what, of in told.seconds.items()}},
    }
    (HERE / "annotate_game.json").write_text(json.dumps(found, indent=1) + "\n")
    print(json.dumps(found, indent=1))  # noqa: T201


if __name__ == "__main__":
    main(*(kind(word) for kind, word in zip((int, float), sys.argv[1:], strict=False)))
