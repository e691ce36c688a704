"""The page in a real browser, opened from disk as a person does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import browser
import pytest
import samples
from browser import Browser

from refseg_cli.report import page
from refseg_cli.report.content import Interval, Table
from refseg_cli.report.page import render

needs_browser = pytest.mark.skipif(
    browser.find() is None, reason="needs Chromium (Debian: apt-get install chromium), or REFSEG_TEST_BROWSER"
)
pytestmark = needs_browser
FOLDER = "a report #1_files"  # a name that needs care in an address


@pytest.fixture(scope="module")
def tab(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser.browsing(tmp_path_factory.mktemp("profile")) as running:
        running.size(1280, 900)
        yield running


Show = Callable[..., Browser]


@pytest.fixture
def show(tab: Browser, tmp_path: Path) -> Iterator[Show]:
    """Opens a report of made-up samples; at the end nothing may have been complained of, and nothing fetched."""

    def opened(count: int = 40, *, address: str = "", **options: object) -> Browser:
        path = tmp_path / "a report #1.html"
        for file in render(samples.report(count, **options), FOLDER):  # type: ignore[arg-type]
            place = tmp_path / FOLDER / file.name if file.name else path
            place.parent.mkdir(exist_ok=True)
            place.write_bytes(file.data)
        tab.open("about:blank#" + tmp_path.name, ready=False)
        tab.complaints.clear()
        tab.requests.clear()
        tab.seconds = tab.open(path.as_uri() + address)
        return tab

    yield opened
    tab.scheme("light")
    assert tab.complaints == []
    assert {url.split(":")[0] for url in tab.requests} <= {"file", "data"}


def text(tab: Browser, selector: str) -> str:
    return tab.run(f"document.querySelector({selector!r}).textContent")


def cards(tab: Browser) -> list[str]:
    return tab.run("[...document.querySelectorAll('.card .phrase')].map((e) => e.textContent)")


def test_it_loads_with_tables_charts_and_cards(show: Show) -> None:
    tab = show()
    assert tab.run("document.title").startswith("<tiny> & co")
    assert text(tab, "#tables td").startswith("63.40")
    assert tab.run("document.querySelectorAll('#charts polyline').length") == 1
    rows = tab.run("[...document.querySelectorAll('#slice-tables tbody th')].map((e) => e.textContent)")
    assert rows == ["number of targets", "one", "<b>two</b>"]
    assert cards(tab)[0] == samples.HOSTILE
    assert text(tab, "#count") == "40 of 40, gIoU 70.6"
    assert tab.run("document.querySelectorAll('img[onerror], main script').length") == 0
    tab.click("#split-switch button:nth-child(2)")
    assert text(tab, "#charts h3") == "Reliability"


def test_filters(show: Show) -> None:
    tab = show()
    tab.run("document.querySelector('#search').focus()")
    for letter in "red 7":
        tab.press(letter)
    tab.wait("document.querySelector('#count').textContent.startsWith('4 of 40')")
    assert cards(tab) == [f"phrase {n} of the red car" for n in (7, 17, 27, 37)]
    tab.click("[data-failure='1']")  # missed target: 4 to 7
    assert cards(tab) == ["phrase 7 of the red car"]
    tab.click("#clear")
    assert text(tab, "#count").startswith("40 of 40")
    tab.run("choose = document.querySelector('#slice'); choose.value = 2; choose.dispatchEvent(new Event('change'))")
    assert cards(tab) == [
        samples.HOSTILE,
        *(f"phrase {n} of the {'red' if n % 2 else 'blue'} car" for n in range(5, 40, 5)),
    ]
    tab.run(
        "choose = document.querySelector('#order'); choose.value = 'best'; choose.dispatchEvent(new Event('change'))"
    )
    assert cards(tab)[-1] == samples.HOSTILE
    tab.run("choose = document.querySelector('#split'); choose.value = 1; choose.dispatchEvent(new Event('change'))")
    assert cards(tab) == ["phrase 30 of the blue car", "phrase 15 of the red car", samples.HOSTILE]
    tab.press("/")
    for letter in "nowhere":
        tab.press(letter)
    tab.wait("!document.querySelector('#nothing').hidden")
    assert cards(tab) == []


def test_ten_metrics_fit_beside_one_another(show: Show) -> None:
    names = ("cIoU", "mIoU", "gIoU", "Pr@0.5", "Pr@0.6", "Pr@0.7", "Pr@0.8", "Pr@0.9", "N-acc", "T-acc")
    row = ["testA, in the paper", *(Interval(100.0, 100.0, 100.0) for _ in names)]
    tab = show(scores=Table("Protocol refseg", ("split", *names), [row]))
    assert tab.run("((e) => e.scrollWidth - e.clientWidth)(document.querySelector('#tables .table'))") == 0


def test_a_slice_of_the_table_is_browsed(show: Show) -> None:
    tab = show()
    tab.click("#slice-tables .link")
    assert text(tab, "#count").startswith("13 of 40")  # the even ones of "val"
    assert tab.run("document.querySelector('#filters').getBoundingClientRect().top < 120")


def test_the_keyboard_walks_through_samples(show: Show) -> None:
    tab = show(with_maps=True)
    tab.click(".card")
    tab.wait("document.querySelector('dialog').open")
    assert text(tab, "#phrase") == samples.HOSTILE
    tab.press("ArrowRight")
    tab.press("j")
    assert text(tab, "#position") == "3 of 40"
    assert text(tab, "#phrase") == "phrase 2 of the blue car"
    tab.press("ArrowLeft")
    assert text(tab, "#phrase") == "phrase 1 of the red car"
    tab.press("End")
    tab.press("ArrowRight")  # there is nothing behind the last one
    assert text(tab, "#position") == "40 of 40"
    tab.press("ArrowLeft")
    assert text(tab, "#position") == "39 of 40"
    tab.press("2")
    assert tab.run("document.querySelector('#views [aria-pressed=true]').textContent") == "Prediction"
    tab.press("1")
    tab.press("Escape")
    tab.wait("!document.querySelector('dialog').open")


def test_the_keyboard_walks_through_the_frames_of_a_clip(show: Show) -> None:
    tab = show(12, frames=4)
    tab.click(".card")
    tab.wait("document.querySelectorAll('#strip button').length === 4")
    assert text(tab, "#phrase") == "car 0"
    current = "[...document.querySelectorAll('#strip button')].findIndex((b) => b.ariaCurrent === 'true')"
    assert tab.run(current) == 0
    for key, frame in (("ArrowRight", 1), ("ArrowRight", 2), ("ArrowRight", 3), ("ArrowRight", 3), ("ArrowLeft", 2)):
        tab.press(key)
        assert (tab.run(current), text(tab, "#phrase")) == (frame, "car 0"), "and no further than the clip goes"
    assert f"{samples.CLIP}, 2" in tab.run("[...document.querySelectorAll('#numbers dd')].map((e) => e.textContent)")
    tab.press("j")  # the next sample, which is another frame or phrase
    assert text(tab, "#position") == "4 of 12"
    tab.click("#strip button:first-child")
    assert tab.run(current) == 0
    assert tab.run("document.querySelector('#strip button').getAttribute('aria-label')").startswith("Frame 0, IoU ")
    assert tab.run("!document.querySelector('#clip-keys').hidden")


def test_the_strip_shows_truth_and_answer(show: Show) -> None:
    tab = show(12, frames=4)
    tab.click(".card")
    painted = """(() => {
        const shown = document.querySelector('#strip canvas');
        const canvas = new OffscreenCanvas(shown.width, shown.height);  // Chromium warns of several looks at one
        canvas.getContext('2d').drawImage(shown, 0, 0);
        const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const seen = new Set();
        for (let at = 0; at < data.length; at += 4)
            if (data[at + 3] === 255) seen.add([...data.slice(at, at + 3)].join(' '));
        return [...seen];
    })()"""
    tab.wait(f"{painted}.length > 2")
    css = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    missed, both, extra = (tab.run(css.format(name)) for name in ("missed", "both", "extra"))
    assert {missed, both, extra} <= set(tab.run(painted))
    tab.press("3")  # the truth alone
    tab.wait(f"!{painted}.includes({extra!r})")


def test_pictures_have_no_strip(show: Show) -> None:
    tab = show()
    tab.click(".card")
    assert tab.run("document.querySelector('#strip').hidden && document.querySelector('#clip-keys').hidden")


def test_the_masks_are_drawn_where_they_lie(show: Show) -> None:
    tab = show()
    tab.click(".card:not([data-position='0'])")  # the second: 18 pixels too far right
    # All points in one reading: Chromium warns of repeated ones.
    points = [(15, 20), (24, 20), (35, 20), (60, 40)]
    colors = tab.run(f"""(() => {{
        const canvas = document.querySelector('#stage canvas'), scale = canvas.width / {samples.WIDTH};
        const {{ data, width }} = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
        const at = ([x, y]) => 4 * (Math.round(y * scale) * width + Math.round(x * scale));
        return {[list(point) for point in points]}.map((point) => [...data.slice(at(point), at(point) + 3)]);
    }})()""")
    css = "getComputedStyle(document.documentElement).getPropertyValue('--{}').trim()"
    missed, both, extra = (tab.run(css.format(name)) for name in ("missed", "both", "extra"))

    for found, color in zip(colors, (missed, both, extra, "0 0 0"), strict=True):
        assert found == pytest.approx([int(part) for part in color.split()], abs=6)  # kept premultiplied with opacity


def test_maps_of_every_kind(show: Show) -> None:
    tab = show(with_maps=True)
    tab.click(".card")
    tab.wait("document.querySelectorAll('#maps > div').length === 5")
    headings = tab.run("[...document.querySelectorAll('#maps h3')].map((e) => e.firstChild.textContent)")
    assert headings == ["region masks", "mask feature", "word maps", "query attention", "query confidence"]
    assert "3 of 9 with the highest peaks" in text(tab, "#maps h3")
    captions = tab.run("[...document.querySelectorAll('#maps figcaption')].map((e) => e.textContent)")
    assert captions == ["1", "5", "8", "1", "2", "3", "the", "<i>car"]
    assert tab.run("[...document.querySelectorAll('.weights th[scope=col]')].map((e) => e.textContent)")[1] == "<b>"


def test_other_phrases_of_the_picture_are_a_click_away(show: Show) -> None:
    tab = show()
    tab.click("[data-failure='5']")
    tab.click(".card")
    tab.click("#siblings li .link")  # the worst of the picture, which the filter hides
    assert text(tab, "#phrase") == "phrase 2 of the blue car"
    assert text(tab, "#position") == "3 of 40"


def test_the_address_brings_back_filters_and_sample(show: Show) -> None:
    tab = show(address="#text=car&type=missed+target&order=best&sample=5")
    assert text(tab, "#phrase") == "phrase 5 of the red car"
    assert text(tab, "#position") == "3 of 4"
    tab.press("ArrowRight")
    assert tab.run("location.hash") == "#text=car&type=missed+target&order=best&sample=4"


def test_a_nonsense_address_does_no_harm(show: Show) -> None:
    tab = show(address="#sample=999999&order=constructor&type=%3Cb%3E")
    assert text(tab, "#count").startswith("40 of 40")


def test_dark_and_light(show: Show) -> None:
    tab = show()
    brightness = "getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number).reduce((a, b) => a + b)"
    light = tab.run(brightness)
    tab.scheme("dark")
    assert tab.run(brightness) < 150 < 600 < light


def test_a_large_report_loads_beside_the_page(show: Show, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page, "INLINE_BYTES", 2000)
    tab = show(400, pictures=40, with_maps=True)
    tab.wait("[...document.querySelectorAll('.thumb img')].some((e) => e.naturalWidth === 64)")
    # At once: the End key scrolls smoothly, and may still be on its way when the last card has been seen.
    tab.run("window.scrollTo({top: document.body.scrollHeight, behavior: 'instant'})")
    tab.wait("[...document.querySelectorAll('.card')].some((e) => e.dataset.position === '399')")
    assert len(cards(tab)) < 100  # only what is in sight
    tab.run("document.querySelector('[data-position=\"399\"]').click()")
    tab.wait("document.querySelectorAll('#maps > div').length === 5")
    loaded = {url.rsplit("/", 1)[1] for url in tab.requests if url.endswith(".js")}
    assert {"masks-000.js", "masks-001.js", "maps-012.js"} <= loaded
    assert "maps-005.js" not in loaded


def test_only_what_is_in_sight_of_ten_thousand_samples_is_built(show: Show) -> None:
    tab = show(10_000, pictures=500)
    assert tab.run("document.querySelectorAll('*').length") < 3000
    tab.run("window.scrollTo({top: 200000, behavior: 'instant'})")
    tab.wait("[...document.querySelectorAll('.card')].filter((e) => e.dataset.position > 1000).length > 10")
    assert tab.run("document.querySelectorAll('*').length") < 3000


@pytest.mark.slow  # it judges by the clock, and other tests run beside it
def test_ten_thousand_samples_open_and_filter_quickly(show: Show) -> None:
    tab = show(10_000, pictures=500)
    assert tab.seconds < 3  # the acceptance of the report
    filtering = """(() => {
        const start = performance.now();
        document.querySelector("[data-failure='5']").click();
        document.querySelector("#grid").offsetHeight;
        return performance.now() - start;
    })()"""
    taken = min(tab.run(filtering) for _ in range(3))  # on, off, on
    assert taken < 500


def test_narrow_screens(show: Show) -> None:
    tab = show()
    try:
        tab.size(390, 800)
        tab.wait("document.documentElement.scrollWidth <= 390")
        assert tab.run("document.querySelectorAll('.card').length") > 0
    finally:
        tab.size(1280, 900)
