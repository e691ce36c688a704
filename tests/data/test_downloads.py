"""What comes in place of an annotation file is named, with its remedy."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
import pickle
import tarfile
import zipfile
from pathlib import Path

import pytest

from refseg_cli.data.sources import instances, pickles
from refseg_cli.errors import RefsegError

ROWS = [{"ref_id": 1}]
LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 12345\n"


def zipped(data: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("refs(unc).p", data)
    return file.getvalue()


def tarred(data: bytes) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        about = tarfile.TarInfo("refs(unc).p")
        about.size = len(data)
        archive.addfile(about, io.BytesIO(data))
    return file.getvalue()


DATA = pickle.dumps(ROWS)
WRONG = [
    (LFS, "a Git LFS pointer", "git lfs pull"),
    (b"\n<!DOCTYPE html><html><title>Google Drive - Virus scan warning</title>", "a web page", "download"),
    (b'<?xml version="1.0"?><Error><Code>AccessDenied</Code></Error>', "a web page", "download"),
    (gzip.compress(DATA, mtime=0), "a gzip file", "unpack"),
    (bz2.compress(DATA), "a bzip2 file", "unpack"),
    (lzma.compress(DATA), "a xz file", "unpack"),
    (zipped(DATA), "a zip file", "unpack"),
    (tarred(DATA), "a tar file", "unpack"),
    (b"", "an empty file", "download"),
    (b"\0" * 600, "an empty file", "download"),
]


@pytest.mark.parametrize(("data", "kind", "remedy"), WRONG)
def test_what_is_no_annotation_file_is_named(tmp_path: Path, data: bytes, kind: str, remedy: str) -> None:
    for name, read, form in (("x.p", pickles.read, "pickle"), ("x.json", instances.load_json, "JSON")):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(RefsegError, match=f"{kind} in place of {form}") as told:
            read(tmp_path / name)
        assert remedy in str(told.value.hint)


def test_a_file_with_the_other_ending_is_named(tmp_path: Path) -> None:
    (tmp_path / "x.p").write_text(json.dumps(ROWS))
    (tmp_path / "x.json").write_bytes(DATA)
    with pytest.raises(RefsegError, match=r"JSON in place of pickle \(give it the ending \.json"):
        pickles.read(tmp_path / "x.p")
    with pytest.raises(RefsegError, match=r"a pickle in place of JSON \(give it the ending \.p"):
        instances.load_json(tmp_path / "x.json")


def test_what_is_damaged_otherwise_keeps_its_own_message(tmp_path: Path) -> None:
    (tmp_path / "x.p").write_bytes(DATA[:-3])
    (tmp_path / "x.json").write_text('{"a": ')
    with pytest.raises(RefsegError, match="damaged pickle"):
        pickles.read(tmp_path / "x.p")
    with pytest.raises(RefsegError, match="not JSON: Expecting value"):
        instances.load_json(tmp_path / "x.json")
    (tmp_path / "x.json").write_text("[" * 5000)
    with pytest.raises(RefsegError, match="nested too deeply"):
        instances.load_json(tmp_path / "x.json")
