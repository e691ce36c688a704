"""Where the answers of `refseg predict` go: files that one can foresee, known before a picture is asked about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePath
from string import Formatter

from refseg_cli import files
from refseg_cli.commands._output import ALONE, DRAWN, ENDINGS, STDIO, Format, Sink
from refseg_cli.console import console
from refseg_cli.data.remote import is_url, path_of
from refseg_cli.errors import RefsegError, unknown_name

OF_PICTURE, OF_PHRASE = ("stem", "name", "folder"), ("phrase", "n")  # fields of a template
NAMED: tuple[Format, ...] = (
    "json",
    "polygons",
    "boxes",
    "count",
)  # lines that say which picture and phrase they are of


@dataclass(frozen=True)
class Places:
    """Without `output`, text goes to standard output, and a drawn answer down the pipe if there is one, else to
    IMAGE.mask.png in the current folder; with --quiet it goes nowhere, as the exit status is the answer. An `output`
    with fields in braces is a template of names; one that is a folder, or ends with a slash, gets files named after
    their pictures; any other names the file. Without a template several drawn answers get numbers: IMAGE.mask-1.png.

    resume: what is there already is complete, and is not asked again.  force: it may be replaced.
    """

    format: Format
    output: str | None
    phrases: Sequence[str]
    force: bool = False
    resume: bool = False

    @property
    def is_drawn(self) -> bool:
        """Whether each answer is a file of its own; otherwise it is part of a text."""
        return self.format in DRAWN

    @property
    def is_shared(self) -> bool:
        """Whether one file or pipe takes the text about all pictures."""
        return not (self.is_drawn or self._is_folder or self._is_template)

    def check(self, pictures: Sequence[str]) -> None:
        """That the answers about all of them have a place of their own, and one that is free.

        Raises:
            RefsegError: files without a folder to put them into, two of the same name, one that is there already, or
                the file that a picture is read from.
        """
        if self.resume:
            self._check_resumable()
        if len(pictures) > 1 and not self._is_nowhere:
            self._check_room(len(pictures))
        taken: dict[Path, tuple[str, int]] = {}
        for picture in pictures:
            for number, sink in enumerate(self.of(picture)):
                if sink.path is None or (self.is_shared and taken):
                    continue
                other = taken.setdefault(sink.path, (picture, number))
                if other != (picture, number):
                    raise self._both(other, (picture, number), sink.path)
                if not (self.force or self.resume):
                    files.refuse_existing(sink.path)

    def missing(self, pictures: Sequence[str]) -> list[str]:
        """Those whose answers are not all there; what a killed run left of its unfinished files is removed."""
        if self.is_shared:
            done = _continued(Path(self.output or ""), self.phrases, self.format)
            return [picture for picture in pictures if name_of(picture) not in done]
        paths = {picture: [sink.path for sink in self.of(picture) if sink.path] for picture in pictures}
        left = [picture for picture in pictures if not all(path.exists() for path in paths[picture])]
        files.sweep(path for picture in left for path in paths[picture])
        return left

    def of(self, picture: str) -> list[Sink]:
        """One sink for text, or one for each phrase's picture.

        Raises:
            RefsegError: several pictures for one pipe, a file name that promises something else than PNG, or the file
                that the picture is read from.
        """
        if self._is_nowhere:
            return []
        if self.output == STDIO or (self.output is None and not (self.is_drawn and console.on_terminal())):
            self._refuse_several()
            return [Sink(None)]
        paths = self._filled(picture) if self._is_template else self._named(picture)
        for path in paths:
            if self.is_drawn and path.suffix.lower() not in ("", ".png"):
                raise RefsegError(f"{path}: masks are written as PNG", hint="name it .png, or use --format rle or json")
            files.refuse_input(path, 0 if picture == STDIO else Path(picture))
        return [Sink(path, append=self.resume and self.is_shared) for path in paths]

    @property
    def _is_nowhere(self) -> bool:
        return self.output is None and self.is_drawn and console.quiet

    @property
    def _is_folder(self) -> bool:
        return self.output is not None and (self.output.endswith("/") or Path(self.output).is_dir())

    @property
    def _is_template(self) -> bool:
        return self.output is not None and any(brace in self.output for brace in "{}")

    def _named(self, picture: str) -> list[Path]:
        name = _file_of(picture).stem + ENDINGS[self.format]
        if self.output is None:
            file = Path(name)
        else:
            file = Path(self.output) / name if self._is_folder else Path(self.output)
        if not self.is_drawn or len(self.phrases) == 1:
            return [file]
        if files.is_special(file):
            self._refuse_several()
        return [file.with_stem(f"{file.stem}-{n}") for n in range(1, len(self.phrases) + 1)]

    def _filled(self, picture: str) -> list[Path]:
        template, file = self.output or "", _file_of(picture)
        known = (*OF_PICTURE, *OF_PHRASE)
        try:
            used = {field for _, field, _, _ in Formatter().parse(template) if field is not None}
            for field in used:
                if field not in known:
                    raise unknown_name("field in a file name", field, known)
            if not self.is_drawn and used.intersection(OF_PHRASE):
                raise RefsegError(
                    f"{template}: a file of {self.format} holds the answers to all phrases",
                    hint=f"fields for it: {', '.join(OF_PICTURE)}",
                )
            fields = {"stem": file.stem, "name": file.name, "folder": _folder_of(picture)}
            asked = list(enumerate(self.phrases, start=1)) if self.is_drawn else [(0, "")]
            return [Path(template.format(**fields, phrase=files.safe_name(phrase), n=n)) for n, phrase in asked]
        except (ValueError, LookupError) as error:
            raise RefsegError(f"{template}: {error}", hint="{{ and }} stand for the braces themselves") from error

    def _check_room(self, count: int) -> None:
        if self.is_shared and self.format in ALONE:
            raise RefsegError(
                f"{self.format} does not say which of {count} pictures it is of",
                hint="give -o FOLDER/, or --format json",
            )
        if self.is_drawn and not (self._is_folder or self._is_template):
            raise RefsegError(
                f"the answers about {count} pictures do not fit into one PNG", hint="give -o FOLDER/, or --format json"
            )

    def _check_resumable(self) -> None:
        if self.output in (None, STDIO):
            raise RefsegError("--resume goes on where files are", hint="give -o FOLDER/, or -o FILE with --format json")
        if self.is_shared and self.format not in NAMED:
            raise RefsegError(
                f"--resume: one file of {self.format} is written as a whole", hint="give -o FOLDER/, or --format json"
            )

    def _refuse_several(self) -> None:
        if len(self.phrases) > 1 and self.is_drawn:
            raise RefsegError(
                f"{len(self.phrases)} masks do not fit into one PNG", hint="give -o FOLDER/, or --format json"
            )

    def _both(self, one: tuple[str, int], other: tuple[str, int], path: Path) -> RefsegError:
        if one[0] == other[0]:
            phrases = " and ".join(repr(self.phrases[number]) for _, number in (one, other))
            return RefsegError(f"{phrases} would both become {path}", hint="{n} in the name numbers the phrases")
        told = "{folder} in the name tells them apart: -o 'out/{folder}/{stem}.png'"
        same = os.path.realpath(one[0]) == os.path.realpath(other[0])
        return RefsegError(
            f"{one[0]} and {other[0]} would both become {path}", hint="name the picture once" if same else told
        )


def name_of(picture: str) -> str:
    """What to call a picture."""
    return "stdin" if picture == STDIO else picture


def _path_of(picture: str) -> PurePath:
    return path_of(picture) if is_url(picture) else PurePath(name_of(picture))


def _file_of(picture: str) -> PurePath:
    name = _path_of(picture).name
    return PurePath("picture" if name in ("", "..") else name)


def _folder_of(picture: str) -> str:
    """The folders that lead to it, without those that lead out of the folder where they are put."""
    path = _path_of(picture)
    return "/".join(part for part in path.parts[:-1] if part not in (path.anchor, "..", ".")) or "."


def _continued(file: Path, phrases: Sequence[str], format: Format) -> set[str]:
    """The pictures about which a file of lines has an answer to each phrase; what follows the last of them is cut off.

    Raises:
        RefsegError: it holds something else.
    """
    from refseg_cli.segmenters.base import schema_of

    done: set[str] = set()
    schema = schema_of(format)
    image, asked = None, list[str]()  # of the picture whose lines are being read
    end = whole = 0  # bytes up to the end of this line, and of the last picture that is complete
    if not file.exists():
        return done
    with file.open("r+b") as lines:
        for number, line in enumerate(lines, start=1):
            if not line.endswith(b"\n"):
                break
            try:
                row = files.parse_json(line)
                name, phrase = row["image"], row["phrase"]
            except (ValueError, LookupError, TypeError) as error:
                raise RefsegError(f"{file}:{number}: no line of `refseg predict`", hint="name another file") from error
            asked = [*asked, phrase]
            if name != (image or name) or asked != phrases[: len(asked)]:
                raise RefsegError(f"{file}:{number}: an answer to another question", hint="name another file")
            if row.get("schema") != schema:
                raise RefsegError(f"{file}:{number}: not an answer in the format {format}", hint="name another file")
            image, end = name, end + len(line)
            if len(asked) == len(phrases):
                done.add(name)
                image, asked, whole = None, [], end
        lines.truncate(whole)
    return done
