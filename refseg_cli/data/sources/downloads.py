"""What came in place of an annotation file: downloads go wrong in a handful of ways, and each has its remedy."""

from __future__ import annotations

import re

from refseg_cli.errors import RefsegError

_PACKED = {
    b"\x1f\x8b": "gzip",
    b"BZh": "bzip2",
    b"\xfd7zXZ\0": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"PK\x03\x04": "zip",
    b"7z\xbc\xaf\x27\x1c": "7z",
    b"Rar!": "rar",
}
_LFS = b"version https://git-lfs.github.com/spec/"
_PAGE = re.compile(rb"(?:\xef\xbb\xbf)?\s*<(?:!doctype|html|head|body|script|\?xml|error|!--)", re.IGNORECASE)


def recognised(path: object, data: bytes, *, form: str, otherwise: RefsegError) -> RefsegError:
    """The error for a file that cannot be read, which says what it is if that can be told.

    Args:
        data: the file's bytes.
        form: what it should be: "pickle" or "JSON".
        otherwise: the error if it cannot be told.
    """
    found, hint = _kind(data, form)
    return RefsegError(f"{path}: {found} in place of {form}", hint=hint) if found else otherwise


def _kind(data: bytes, form: str) -> tuple[str, str]:
    """(what the file is, what to do about it); empty if it is nothing known."""
    if not data.strip(b" \t\r\n\0"):
        return "an empty file", "download it again"
    if data.startswith(_LFS):
        return "a Git LFS pointer", "`git lfs pull` in the repository that it comes from fetches the file itself"
    if _PAGE.match(data):
        return "a web page", "the download failed, or wants a click in a browser; download the file again"
    for start, name in _PACKED.items():
        if data.startswith(start):
            return f"a {name} file", "unpack it first"
    if data[257:262] == b"ustar":
        return "a tar file", "unpack it first"
    if form == "pickle" and data.lstrip()[:1] in (b"[", b"{") and data.rstrip()[-1:] in (b"]", b"}"):
        return "JSON", "give it the ending .json"
    if form == "JSON" and data[:1] == b"\x80" and data[-1:] == b".":
        return "a pickle", "give it the ending .p"
    return "", ""
