"""The game as people play it: a real server in a process of its own, and a real browser."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
from browser import READY, Browser
from garden import garden
from pictures import write_split

from refseg_cli.annotate.hosting import export_game
from refseg_cli.annotate.store import Store

pytestmark = pytest.mark.skipif(
    browser.find() is None, reason="needs Chromium (Debian: apt-get install chromium), or REFSEG_TEST_BROWSER"
)
HOSTILE = 'the <img src=x onerror=document.title=1> "one" & only'
PLAYERS = "Ann, annotator\nBob, annotator\nVic, validator\nVal, validator\nVera, validator\n"


class Served:
    """A running `refseg annotate serve`."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.log = folder, folder / "log"
        (folder / "players.txt").write_text(PLAYERS)
        self.links: dict[str, str] = {}
        self.start()

    def start(self) -> None:
        """On the port of the first time."""
        port = self.links["host"].split(":")[2].split("/")[0] if self.links else "0"
        words = (
            f"annotate serve --data {self.folder / 'data'} --out {self.folder / 'game'} --json --port {port}".split()
        )
        words = [sys.executable, "-m", "refseg_cli", *words, "--players", str(self.folder / "players.txt")]
        with self.log.open("a") as log:
            self.process = subprocess.Popen(words, stdout=subprocess.PIPE, stderr=log, text=True)
        assert self.process.stdout is not None
        told = json.loads(self.process.stdout.readline())
        self.links = {"host": told["dashboard"], **{one["name"]: one["link"] for one in told["players"]}}

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """As Ctrl-C does; the exit status."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(30)


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.browsing(tmp_path_factory.mktemp("profile")) as running:
        yield running


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    folder = tmp_path / "data"
    folder.mkdir()
    write_split(folder, "train", garden("train", range(1, 9)))
    running = Served(tmp_path)
    yield running
    running.kill()


Come = Callable[[str], Browser]


@pytest.fixture
def come(served: Served, chromium: Browser) -> Iterator[Come]:
    """The tab of somebody who has opened their link; nothing may have been complained of or fetched from elsewhere."""
    tabs: list[Browser] = []

    def opened(name: str) -> Browser:
        tab = chromium.person()
        tab.size(1280, 800)
        tab.open(served.links[name])
        tab.wait(f"location.pathname !== '/join' && {READY}")
        tabs.append(tab)
        return tab

    yield opened
    origin = served.links["host"].split("/join")[0]
    for tab in tabs:
        assert tab.complaints == []
        assert {url for url in tab.requests if not url.startswith((origin, "data:,"))} == set()


def go(tab: Browser, served: Served, path: str) -> None:
    tab.open(served.links["host"].split("/join")[0] + path)


def sent(tab: Browser, selector: str = "button.main") -> str:
    """Click, and wait for what the next page says."""
    following(tab, lambda: tab.click(selector))
    return told(tab)


def following(tab: Browser, act: Callable[[], object]) -> None:
    """Do what leads to another page, and wait for that."""
    tab.run("document.documentElement.dataset.ready = 'old'")
    act()
    tab.wait(READY)


def told(tab: Browser) -> str:
    return tab.run("document.querySelector('.note, .fault, h1').textContent")


def chosen(tab: Browser) -> list[int]:
    """The last digits of the chosen objects' ids: their places in the garden."""
    return tab.run("[...document.querySelectorAll('[name=target]:checked')].map((box) => box.value % 10)")


def lit(tab: Browser) -> list[int]:
    """The same of the shapes that look chosen."""
    return tab.run("[...document.querySelectorAll('svg .on')].map((shape) => shape.dataset.object % 10).sort()")


def box(place: int) -> str:
    return f"[name=target][value$='{place}']"


def shape(place: int) -> str:
    return f"svg [data-object$='{place}'] path"


def test_a_whole_game(served: Served, come: Come) -> None:
    """Two annotators, three validators, a reload, a killed server; what is accepted is exported."""
    ann, bob, vic, val, vera = (come(name) for name in ("Ann", "Bob", "Vic", "Val", "Vera"))
    go(ann, served, "/annotate")
    ann.click(shape(1))
    ann.click("#phrase")
    ann.type(HOSTILE)
    task = ann.run("document.querySelector('#play').dataset.task")
    following(ann, lambda: ann.run("location.reload()"))
    assert ann.run("document.querySelector('#play').dataset.task") == task
    assert ann.run("document.querySelector('#phrase').value") == HOSTILE
    assert chosen(ann) == lit(ann) == [1]
    assert sent(ann).startswith("Saved. Your phrase goes to a validator")
    assert chosen(ann) == []
    assert ann.run("document.querySelector('#phrase').value") == ""
    go(bob, served, "/annotate")
    bob.click("[name=nothing]")
    bob.click("#phrase")
    bob.type("the purple one")
    served.kill()  # while Bob writes
    served.start()
    assert sent(bob).startswith("Saved")
    go(bob, served, "/annotate")
    bob.click(box(2))
    bob.click(box(3))
    bob.click("#phrase")
    bob.type("two of them")
    assert sent(bob).startswith("Saved")
    for tab, words in ((vic, HOSTILE), (val, "the purple one"), (vera, "two of them")):
        go(tab, served, "/validate")
        assert tab.run("document.querySelector('h1 bdi').textContent") == words
    vic.click(shape(1))
    assert "is accepted" in sent(vic)
    vera.click(shape(3))
    assert "another validator" in sent(vera)
    val.click("summary")
    val.click("[value=irrelevant]")
    assert "is rejected" in sent(val, "[formaction='/reject']")
    assert val.run("document.querySelector('h1 bdi').textContent") == "two of them"
    val.click(box(2))
    val.click(box(3))
    assert "is accepted" in sent(val)
    host = come("host")
    assert host.run("document.querySelector('h1').textContent") == "Dashboard"
    assert "of 8 pictures have phrases" in host.run("document.querySelector('main').textContent")
    assert served.stop() == 0
    accepted = {sample.phrase for sample in Store(served.folder / "game").samples() if sample.state == "accepted"}
    assert accepted == {HOSTILE, "two of them"}
    assert export_game(served.folder / "game", served.folder / "raw").expressions == 2
    log = served.log.read_text()
    assert not any(link.split("#")[1] in log for link in served.links.values())
    assert log.count("Ctrl-C stops") == 2
    assert log.rstrip().endswith(f"stopped; the game is in {served.folder / 'game'}")
    assert "Traceback" not in log


def test_repeated_clicks_go_down_through_overlapping_objects(served: Served, come: Come) -> None:
    ann = come("Ann")
    go(ann, served, "/annotate")
    places = []
    for _ in range(4):
        ann.click(shape(1))  # which lies on top of 2
        assert lit(ann) == sorted(chosen(ann))
        places.append(sorted(chosen(ann)))
    assert places == [[1], [2], [], [1]]
    ann.click(shape(3))
    assert chosen(ann) == [1, 3] or sorted(chosen(ann)) == [1, 3]
    ann.click(shape(3))  # nothing lies below it
    assert sorted(chosen(ann)) == [1]
    assert ann.run("document.querySelector('#count').textContent") == "(1 chosen)"
    ann.click("[name=nothing]")
    assert chosen(ann) == []
    ann.click(box(2))
    assert ann.run("document.querySelector('[name=nothing]').checked") is False
    assert lit(ann) == [2]


def test_with_the_keyboard_alone(served: Served, come: Come) -> None:
    ann, vic = come("Ann"), come("Vic")
    ann.press("Tab")
    assert ann.run("document.activeElement.textContent") == "Skip to the game"
    walk(ann, "a.door")
    following(ann, lambda: ann.press("Enter"))
    walk(ann, box(3))
    ann.press(" ")
    assert ann.run("document.querySelector('svg .near').dataset.object % 10") == 3  # the picture shows where one is
    walk(ann, "#phrase")
    for letter in "one apart":
        ann.press(letter)
    following(ann, lambda: ann.press("Enter"))
    assert told(ann).startswith("Saved")
    go(vic, served, "/validate")
    walk(vic, box(3))
    vic.press(" ")
    walk(vic, "button.main")
    following(vic, lambda: vic.press("Enter"))
    assert "is accepted" in told(vic)


def walk(tab: Browser, selector: str) -> None:
    """To an element by the Tab key."""
    for _ in range(30):
        tab.press("Tab")
        if tab.run(f"document.activeElement.matches({selector!r})"):
            assert tab.run("getComputedStyle(document.activeElement).outlineStyle") != "none"
            return
    raise AssertionError(f"{selector}: the Tab key does not lead there")


def test_suggestions_fill_the_form(served: Served, come: Come) -> None:
    ann = come("Ann")
    go(ann, served, "/annotate")
    ann.click(box(1))
    ann.run("document.querySelector('details:has(.offer)').open = true")
    words = ann.run("document.querySelector('.offer').textContent")
    ann.click(".offer")
    assert ann.run("document.querySelector('#phrase').value") == words
    assert chosen(ann) == []
    assert ann.run("document.querySelector('[name=nothing]').checked") is True
    assert sent(ann).startswith("Saved")
    [sample] = Store(served.folder / "game").samples()
    assert (sample.phrase, sample.targets, sample.origin["kind"]) == (words, (), "drawn")


def test_the_link_leaves_no_code_behind(served: Served, come: Come) -> None:
    ann = come("Ann")
    code = served.links["Ann"].split("#")[1]
    assert ann.run("location.href").endswith("/")
    assert ann.run("document.cookie") == ""
    assert not any(code in url for url in ann.requests)
    stranger = come("Bob").person()
    stranger.open(served.links["Ann"].replace(code, "x" * 22), ready=False)
    stranger.wait("document.querySelector('.fault') !== null")
    assert "not, or no longer" in stranger.run("document.querySelector('.fault').textContent")


MEASURES = """(() => {
  const light = (color) => {
    const [r, g, b] = color.match(/[\\d.]+/g).map((v) => v / 255)
      .map((v) => v > .03928 ? ((v + .055) / 1.055) ** 2.4 : v / 12.92);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (e) => {
    for (; e; e = e.parentElement) {
      const color = getComputedStyle(e).backgroundColor;
      if (!color.endsWith(", 0)")) return color;
    }
    return "rgb(255, 255, 255)";
  };
  const visible = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility());
  const texts = visible("main *, header a").filter((e) => !e.closest("svg")
    && [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()));
  const contrasts = texts.map((e) => {
    const [low, high] = [light(getComputedStyle(e).color), light(ground(e))].sort((a, b) => a - b);
    return [(high + .05) / (low + .05), e.outerHTML.slice(0, 60)];
  });
  const controls = visible("main button, main input:not([type=hidden]), main summary, main a");
  return {
    contrast: contrasts.filter(([c]) => c < 4.5),
    small: controls.map((e) => e.closest("label") ?? e)
      .map((e) => [e.getBoundingClientRect().height, e.outerHTML.slice(0, 60)]).filter(([height]) => height < 24),
    nameless: controls.filter((e) => !(e.labels?.length || e.textContent.trim())).map((e) => e.outerHTML),
    pictures: visible("svg").filter((e) => !e.ariaLabel).length,
    sideways: document.documentElement.scrollWidth - innerWidth,
    count: texts.length,
  };
})()"""


def test_pages_fit_phones_and_both_schemes_and_have_names(served: Served, come: Come, tmp_path: Path) -> None:
    ann, vic, host = come("Ann"), come("Vic"), come("host")
    go(ann, served, "/annotate")
    ann.click(box(1))
    ann.click("#phrase")
    ann.type("word " * 12)
    sent(ann)
    pages = ((ann, "/"), (ann, "/annotate"), (vic, "/validate"), (host, "/dashboard"))
    for tab, path in pages:
        go(tab, served, path)
        for scheme in ("light", "dark"):
            for width in (360, 1280):
                tab.scheme(scheme)
                tab.size(width, 740)
                tab.run("document.querySelectorAll('details').forEach((e) => { e.open = true; })")
                found = tab.run(MEASURES)
                where = f"{path}, {scheme}, {width}: {found}"
                assert found.pop("count") > 5, where
                assert found.pop("sideways") <= 0, where
                assert not any(found.values()), where
                if shots := os.environ.get("REFSEG_TEST_SHOTS"):
                    tab.screenshot(Path(shots) / f"{path.strip('/') or 'home'}-{scheme}-{width}.png")


def test_pages_work_without_the_script(served: Served, come: Come) -> None:
    """Forms, labels and lists are plain HTML."""
    ann = come("Ann")
    ann._call("Emulation.setScriptExecutionDisabled", value=True)
    ann.open(served.links["host"].split("/join")[0] + "/annotate", ready=False)
    ann.wait("document.querySelector('#play') !== null")
    ann.click(box(2))
    ann.click("#phrase")
    ann.type("the large one without a script")
    ann.click("button.main")
    ann.wait("document.querySelector('.note') !== null")
    assert Store(served.folder / "game").samples()[0].phrase == "the large one without a script"
