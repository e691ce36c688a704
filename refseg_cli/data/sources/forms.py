"""The forms in which people have referring data, beside that of the REFER downloads; which one a file is of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg_cli.data import tables
from refseg_cli.data.sources import Ref, cris, jxu124, labelme, lmms_lab, mdetr, moondream, phrasecut, reasonseg, seqtr
from refseg_cli.data.sources.gathering import File, Gathering, Tells
from refseg_cli.errors import RefsegError, unknown_name

PARQUET, JSON = ".parquet", ".json"


@dataclass(frozen=True, slots=True)
class Form:
    """A form that files may have.

    tells:       whether what `probe` gives is of this form.
    read:        the references of a file; what else is there goes into the gathering. The collection names the splits
        that the files' names tell.
    per_picture: there is a file for each picture, named as the picture is, so that its name tells no split.
    beside:      what else it may need: `instances` or `masks`, as the options are called.
    """

    tells: Tells
    read: Callable[[File, Gathering, Collection[str]], Iterator[Ref]]
    per_picture: bool = False
    beside: frozenset[str] = frozenset()


FORMS: dict[str, Form] = {
    "jxu124": Form(jxu124.tells, jxu124.read),
    "lmms-lab": Form(lmms_lab.tells, lmms_lab.read),
    "moondream": Form(moondream.tells, moondream.read),
    "mdetr": Form(mdetr.tells, mdetr.read, beside=frozenset({"instances"})),
    "seqtr": Form(seqtr.tells, seqtr.read),
    "reasonseg": Form(reasonseg.tells, reasonseg.read, per_picture=True),  # before labelme, which it is like
    "labelme": Form(labelme.tells, labelme.read, per_picture=True),
    "phrasecut": Form(phrasecut.tells, phrasecut.read),
    "cris": Form(cris.tells, cris.read, beside=frozenset({"masks"})),
}


def find(paths: Sequence[Path], name: str | None) -> str:
    """The form of some files, which `name` says if it is given; otherwise the first one that can be read tells it.

    Raises:
        RefsegError: there is no such form, or the file is of none.
    """
    if name is not None:
        if name not in FORMS:
            raise unknown_name("form", name, FORMS)
        return name
    path, value = _first(paths)
    found = next((name for name, form in FORMS.items() if form.tells(value)), None)
    if found is None:
        raise RefsegError(
            f"{path}: unknown form: {_what(value)}",
            hint=f"forms are {', '.join(FORMS)}; see docs/data.md",
        )
    return found


def _first(paths: Sequence[Path]) -> tuple[Path, Any]:
    """The first file that can be read, and its value.

    Raises:
        RefsegError: what is wrong with the first one, if all are broken.
    """
    faults: list[RefsegError] = []
    for path in paths:
        try:
            return path, probe(path)
        except RefsegError as error:
            faults.append(error)
    raise faults[0]


def probe(path: Path) -> Any:
    """What tells a file's form: the names of its columns, or its JSON value.

    Raises:
        RefsegError: it cannot be read.
    """
    return tables.column_names(str(path)) if path.suffix == PARQUET else labelme.load(path)


def _what(value: Any) -> str:
    """A few words on a file that is of no form."""
    if isinstance(value, tuple):
        return f"Parquet with the columns {', '.join(value)}"
    if isinstance(value, dict):
        return f"JSON with the keys {', '.join(map(str, list(value)[:8]))}"
    first = value[0] if isinstance(value, list) and value else None
    if isinstance(first, dict):
        return f"JSON, a list of rows with the keys {', '.join(map(str, list(first)[:8]))}"
    return f"JSON, a {type(value).__name__}"
