"""Where output goes: whole or not at all, and into what is there, not over it."""

from __future__ import annotations

import os
import stat
import threading
from pathlib import Path

import pytest

from refseg_cli import files
from refseg_cli.errors import RefsegError
from refseg_cli.files import whole


def put(path: Path, data: bytes = b"new") -> None:
    with whole(path) as part:
        part.write_bytes(data)


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def fifo(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


class Reader(threading.Thread):
    """Reads a FIFO to its end."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self.path, self.data = path, b""
        self.start()

    def run(self) -> None:
        self.data = self.path.read_bytes()

    def all(self) -> bytes:
        self.join(timeout=30)
        return self.data


def test_a_failure_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    with pytest.raises(TypeError), whole(path) as part:
        part.write_bytes("no bytes")
    assert [(p.name, p.read_bytes()) for p in tmp_path.iterdir()] == [("out", b"old")]


def test_a_fifo_is_written_to(fifo: Path) -> None:
    reader = Reader(fifo)
    put(fifo)
    assert reader.all() == b"new"
    assert stat.S_ISFIFO(fifo.stat().st_mode)


def test_a_failure_ends_the_fifo(fifo: Path) -> None:
    reader = Reader(fifo)
    with pytest.raises(TypeError), whole(fifo) as part:
        part.write_bytes("no bytes")
    reader.join(timeout=30)
    assert not reader.is_alive()


def test_a_stream_reaches_the_fifo_as_it_is_written(fifo: Path, tmp_path: Path) -> None:
    seen: list[bytes] = []
    first = threading.Event()

    def read() -> None:
        with fifo.open("rb") as file:
            seen.append(file.readline())
            first.set()
            seen.append(file.readline())

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    with files.stream(fifo) as out:
        out.write(b"one\n")
        out.flush()
        assert first.wait(timeout=30)
        out.write(b"two\n")
    reader.join(timeout=30)
    assert seen == [b"one\n", b"two\n"]


def test_a_device_stays_one(tmp_path: Path) -> None:
    device = tmp_path / "null"
    try:
        os.mknod(device, 0o666 | stat.S_IFCHR, os.makedev(1, 3))
        device.write_bytes(b"")
    except PermissionError:
        pytest.skip("device nodes are made by root, on file systems that have them")
    put(device)
    assert stat.S_ISCHR(device.stat().st_mode)


def test_links_are_followed(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    target, link = tmp_path / "real/out", tmp_path / "link"
    link.symlink_to("real/out")
    put(link)  # a dangling one, too
    assert (link.is_symlink(), target.read_bytes()) == (True, b"new")
    put(link, b"newer")
    assert (link.is_symlink(), target.read_bytes()) == (True, b"newer")


def test_a_link_to_itself_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RefsegError, match="loop: cannot write"):
        put(tmp_path / "loop")
    assert (tmp_path / "loop").is_symlink()


def test_a_file_in_the_place_of_a_folder_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    for path in ("file/out", "file/folder/out"):
        with pytest.raises(RefsegError, match=f"{path}: cannot write: .*/file is a file, not a folder .choose another"):
            put(tmp_path / path)


def test_our_own_standard_output_is_written_where_it_stands(tmp_path: Path) -> None:
    """`(before; refseg ... -o /dev/stdout; after) > file` keeps all three."""
    with (tmp_path / "file").open("wb", buffering=0) as file:
        file.write(b"before ")
        put(Path(f"/dev/fd/{file.fileno()}"), b"new ")
        file.write(b"after")
    assert (tmp_path / "file").read_bytes() == b"before new after"


@pytest.mark.parametrize("kept", [0o600, 0o640, 0o777])
def test_the_mode_of_a_replaced_file_stays(tmp_path: Path, kept: int) -> None:
    path = tmp_path / "out"
    path.write_bytes(b"old")
    path.chmod(kept)
    with whole(path) as part:
        part.write_bytes(b"new")
        assert mode(part) & 0o077 == 0  # nobody reads over its shoulder
    assert (mode(path), path.read_bytes()) == (kept, b"new")


def test_a_new_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        put(tmp_path / "out")
    finally:
        os.umask(before)
    assert mode(tmp_path / "out") == 0o640


def test_two_writers_do_not_share_a_part(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    with whole(path) as one, whole(path) as other:
        assert one != other
        one.write_bytes(b"one")
        other.write_bytes(b"other")
    assert path.read_bytes() == b"one"  # the last to end
    assert [p.name for p in tmp_path.iterdir()] == ["out.png"]


@pytest.mark.parametrize("name", ["out.parquet", "o" * 255, "ö" * 120 + ".png"])
def test_a_part_is_known_by_its_name(tmp_path: Path, name: str) -> None:
    with whole(tmp_path / name) as part:
        part.touch()
        assert files.is_part(part.name)
    assert (tmp_path / name).exists()
    assert not files.is_part(name)


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(RefsegError, match="it is a folder"):
        put(tmp_path)


def test_an_input_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "photo.png").write_bytes(b"picture")
    (tmp_path / "link").symlink_to("photo.png")
    for output in ("photo.png", "link"):
        with pytest.raises(RefsegError, match="is the input"):
            files.refuse_input(tmp_path / output, tmp_path / "photo.png")
    for output, source in (("new", "photo.png"), ("photo.png", "gone"), ("link", "new")):
        files.refuse_input(tmp_path / output, tmp_path / source)
    files.refuse_input(Path(os.devnull), Path(os.devnull))  # nothing is lost
