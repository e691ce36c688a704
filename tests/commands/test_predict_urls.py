"""Pictures by URL: read by fsspec, named by their URLs, and a clear line where something is amiss."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import numpy as np
import pytest
from answering import Answering
from fsspec.registry import known_implementations
from PIL import Image

import refseg_cli
from refseg_cli import library
from refseg_cli.app import main
from refseg_cli.data.remote import is_url, path_of, read_url
from refseg_cli.errors import ERROR, FOUND, RefsegError
from refseg_cli.segmenters import choice
from refseg_cli.segmenters.base import Found

Capture = pytest.CaptureFixture[bytes]


class FakeSegmenter(Answering):
    """Finds everything that is dark; needs pixels or bytes."""

    def predict(self, image: np.ndarray | bytes, phrases: Sequence[str]) -> Iterator[Found]:
        shape = (6, 9) if isinstance(image, bytes) else image.shape[1:]
        return (Found(phrase, np.ones(shape, bool), True, 0.75, 54) for phrase in phrases)


@pytest.fixture(autouse=True)
def picture(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[bytes]:
    """A PNG, which is also memory://yard/below/a.png."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(choice, "open_segmenter", FakeSegmenter)
    monkeypatch.setattr(library, "open_segmenter", FakeSegmenter)
    Image.new("RGB", (9, 6)).save("local.png")
    data = Path("local.png").read_bytes()
    files = fsspec.filesystem("memory")
    files.pipe("/yard/below/a.png", data)
    files.pipe("/yard/notes.txt", b"once upon a time")
    yield data
    files.rm("/yard", recursive=True)


def test_urls_and_files_side_by_side(capfdbinary: Capture) -> None:
    assert main(["predict", "local.png", "memory://yard/below/a.png", "-p", "dog", "--json"]) == FOUND
    lines = [json.loads(line) for line in capfdbinary.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == ["local.png", "memory://yard/below/a.png"]


@pytest.mark.parametrize(
    ("options", "made"),
    [
        (["-o", "m/"], "m/a.mask.png"),
        (["-o", "m/{folder}/{name}"], "m/yard/below/a.png"),
        (["-f", "labelme", "-o", "m/"], "m/a.json"),
    ],
)
def test_answers_are_named_after_the_file(capfdbinary: Capture, options: list[str], made: str) -> None:
    assert main(["predict", "memory://yard/below/a.png", "dog", *options]) == FOUND
    assert [str(p) for p in Path("m").rglob("*") if p.is_file()] == [made]
    if made.endswith(".json"):
        assert json.loads(Path(made).read_text())["imagePath"] == "memory://yard/below/a.png"


def test_a_request_may_name_a_url(capfdbinary: Capture) -> None:
    Path("in.jsonl").write_text('{"image": "memory://yard/below/a.png", "phrase": "dog"}\n')
    assert main(["predict", "--jsonl", "in.jsonl"]) == FOUND
    assert json.loads(capfdbinary.readouterr().out)["results"][0]["image"] == "memory://yard/below/a.png"


def test_python_takes_urls() -> None:
    assert refseg_cli.load()("memory://yard/below/a.png", "dog")[0].exists
    with pytest.raises(RefsegError, match="no such file"):
        refseg_cli.load()("memory://yard/gone.png", "dog")


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("memory://yard/gone.png", "memory://yard/gone.png: cannot read the image: no such file"),
        ("memory://yard/notes.txt", "memory://yard/notes.txt: cannot read the image: cannot identify image file"),
        ("gopher://yard/a.png", "gopher://yard/a.png: cannot read the image: Protocol not known: gopher"),
        ("nowhere://yard/a.png", "nowhere://yard/a.png: cannot read the image: Install gone_fs (pip install it)"),
        ("memory://" + "x" * 5000, "cannot read the image: no such file"),
    ],
)
def test_what_is_amiss_is_said(capfdbinary: Capture, monkeypatch: pytest.MonkeyPatch, url: str, message: str) -> None:
    missing = {"class": "gone_fs.Nowhere", "err": "Install gone_fs"}
    monkeypatch.setitem(known_implementations, "nowhere", missing)
    assert main(["predict", url, "local.png", "-p", "dog", "-l"]) == ERROR
    out, err = capfdbinary.readouterr()
    assert out == b"local.png\n"  # one that cannot be read stops no other
    assert message in err.decode()
    assert err.count(b"\n") == 3  # that, the progress, and how many


def test_a_host_that_does_not_answer_is_no_missing_file() -> None:
    pytest.importorskip("aiohttp")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # and nobody listens
        with pytest.raises(RefsegError, match="cannot read the image: Cannot connect to host"):
            read_url(f"http://127.0.0.1:{taken.getsockname()[1]}/a.png", max_pixels=100)


def test_a_file_that_is_too_large_is_not_read_to_its_end(picture: bytes) -> None:
    url = "memory://yard/below/a.png"
    assert read_url(url, max_pixels=len(picture)) == picture
    with pytest.raises(RefsegError, match="a file of more than"):
        read_url(url, max_pixels=len(picture) // 3 - 1)


def test_the_size_of_its_picture_is_limited_as_a_file_s(capfdbinary: Capture) -> None:
    assert main(["predict", "memory://yard/below/a.png", "dog", "--max-pixels", "53", "-q"]) == ERROR
    assert b"(--max-pixels 54 reads it)" in capfdbinary.readouterr().err


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("https://host:80/a/b.jpg?x=/y.png#z", "host:80/a/b.jpg"),
        ("s3://bucket/a.png", "bucket/a.png"),
        ("zip://in/a.png::https://host/all.zip", "in/a.png"),
        ("memory:///a.png", "a.png"),
        ("photos/a.png", None),
        ("a::b.png", None),
        ("1://x", None),
    ],
)
def test_what_is_a_url(name: str, path: str | None) -> None:
    assert is_url(name) == (path is not None)
    if path is not None:
        assert str(path_of(name)) == path


@pytest.mark.parametrize("url", ["memory://yard/..", "memory://yard/../..", "memory://"])
def test_no_url_leads_out_of_a_folder(capfdbinary: Capture, url: str) -> None:
    from refseg_cli.commands._places import Places

    [sink] = Places("png", "m/{stem}/{folder}/m.png", ["dog"]).of(url)
    assert sink.path is not None
    assert ".." not in sink.path.parts
    assert sink.path.parts[0] == "m"


def test_http(capfdbinary: Capture, picture: bytes) -> None:
    """By a server in this process."""
    pytest.importorskip("aiohttp")

    class Serving(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            there = self.path == "/a.png?token=1"
            self.send_response(200 if there else 403 if self.path == "/c.png" else 404)
            self.send_header("Content-Length", str(len(picture) if there else 0))
            self.end_headers()
            self.wfile.write(picture if there else b"")

        do_HEAD = do_GET

        def log_message(self, *of: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Serving) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            here = f"http://127.0.0.1:{server.server_address[1]}"
            assert main(["predict", f"{here}/a.png?token=1", "dog", "-o", "m/"]) == FOUND
            assert Path("m/a.mask.png").exists()
            assert main(["predict", f"{here}/b.png", "dog", "-o", "m/"]) == ERROR
            assert f"{here}/b.png: cannot read the image: no such file" in capfdbinary.readouterr().err.decode()
            assert main(["predict", f"{here}/c.png", "dog", "-o", "m/"]) == ERROR
            assert "c.png: cannot read the image: 403, message='Forbidden'" in capfdbinary.readouterr().err.decode()
        finally:
            server.shutdown()
