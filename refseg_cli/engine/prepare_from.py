"""Referring data in the forms of others to prepared data: `refseg prepare from`."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from refseg_cli.data import storage
from refseg_cli.data.sources import Draft, Problem, Reason, Ref, forms, instances
from refseg_cli.data.sources.forms import FORMS, JSON, PARQUET
from refseg_cli.data.sources.gathering import File, Gathering
from refseg_cli.data.sources.whereabouts import Photos
from refseg_cli.engine.prepare import Material, Output, PrepareReport, write
from refseg_cli.engine.sharding import Entry
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent

_FORMS = "see docs/data.md for the forms"
_SPLITS = {name.lower(): name for name in ("train", "val", "test", "testA", "testB", "testC", "miniv")}
_SPLITS |= {"validation": "val"}


@dataclass(frozen=True, slots=True)
class FromRequest:
    """Which files to prepare.

    inputs:    files of one form, or folders of them.
    name:      of the dataset.
    form:      a name in `FORMS`; None to find out.
    images:    folder of the photos; None for the folders of the files.
    split:     of all references; None to go by columns and names.
    instances: COCO's annotation file, for forms that have ids in place of masks.
    masks:     folder of mask files, for forms that have such; None for the usual place.
    """

    inputs: tuple[Path, ...]
    name: str
    output: Output
    form: str | None = None
    images: Path | None = None
    split: str | None = None
    instances: Path | None = None
    masks: Path | None = None


def prepare_from(request: FromRequest, *, progress: Progress = silent) -> PrepareReport:
    """Prepare referring data of one of `FORMS`.

    Raises:
        RefsegError: no such files, files of no form, of several or of another than named, a reference of no split, and
            as `prepare`.
    """
    if request.split is not None and not instances.SPLIT_NAME.fullmatch(request.split):
        raise RefsegError(f"--split {request.split}: not a valid split name", hint="letters, digits and _")
    with tempfile.TemporaryDirectory(prefix="refseg-photos-") as folder:
        return write(_read(request, Path(folder), progress), request.output, progress=progress)


def _read(request: FromRequest, folder: Path, progress: Progress) -> Material:
    inputs = [(path, root) for root in request.inputs for path in _files(root)]
    name = forms.find([path for path, _ in inputs], request.form)
    form = FORMS[name]
    for option in ("instances", "masks"):
        if getattr(request, option) is not None and option not in form.beside:
            raise RefsegError(f"--{option} is not for {name} files", hint="they contain their masks")
    files = [_file(path, root, request.split, by_name=not form.per_picture) for path, root in inputs]
    problems: list[Problem] = []
    known, digests = None, {}
    if request.instances:
        if not request.instances.is_file():
            raise RefsegError(f"{request.instances}: no such file", hint="--instances is COCO's annotation file")
        known, digests["instances"] = instances.read(request.instances)
    gathering = Gathering(
        photos=Photos(_photo_folders(request, inputs)),
        photos_named=request.images is not None,
        folder=folder,
        problems=problems,
        known=known,
        rules=request.output.rules,
        masks=request.masks,
    )
    refs: list[Ref] = []
    file_of: dict[int, str] = {}
    splits = {file.split for file in files if file.split}
    for number, file in enumerate(files, start=1):
        found = list(form.read(file, gathering, splits))
        file_of |= {ref.ref_id: file.path.name for ref in found}
        refs += found
        progress("read", number, len(files))
    title = files[0].path.name + (f" and {len(files) - 1} more" if len(files) > 1 else "")
    if not refs:
        raise RefsegError(f"{title}: no reference" + (f": {problems[0]}" if problems else ""))
    faults: list[Problem] = []
    drafts = instances.drafts(refs, gathering.instances(title), splits=(), file=title, problems=faults)
    problems += (replace(p, file=file_of[p.ref_ids[0]]) if p.file == title and p.ref_ids else p for p in faults)
    entries = tuple(_with_photos(drafts, gathering, problems))
    return Material(
        request.name,
        name,
        gathering.image_source(request.name),
        {"form": name, "sha256": {**digests, **gathering.digests(), **_digests(files, whole=form.per_picture)}},
        entries,
        {ref.ref_id: ref.split for ref in refs if instances.SPLIT_NAME.fullmatch(ref.split)},
        tuple(problems),
    )


def _files(root: Path) -> list[Path]:
    """The files that an argument stands for, in the order of their names.

    Raises:
        RefsegError: there are none.
    """
    if root.is_file():
        if root.suffix not in (PARQUET, JSON):
            raise RefsegError(f"{root}: neither {PARQUET} nor {JSON}", hint=_FORMS)
        return [root]
    if not root.is_dir():
        raise RefsegError(f"{root}: no such file or folder")
    for ending in (PARQUET, JSON):  # repositories of Parquet hold small JSON files about it
        if found := sorted(path for path in root.rglob(f"*{ending}") if path.is_file() and path.name[0] not in "._"):
            return found
    raise RefsegError(f"{root}: no {PARQUET} and no {JSON} file in this folder, or below", hint=_FORMS)


def _file(path: Path, root: Path, split: str | None, *, by_name: bool) -> File:
    """A file with the split that is given, or that its name or one of its folders tells.

    by_name: the file's own name may, by one of its words.
    """
    if split is not None:
        return File(path, split, forced=True)
    words = set(re.findall(r"[a-z0-9]+", path.stem.lower())) if by_name else set()
    told = {_SPLITS[word] for word in words & _SPLITS.keys()}
    if len(told) == 1:
        return File(path, told.pop())
    depth = len(path.relative_to(root).parts) if path != root else 1  # folders that the user has named, or below them
    above = [folder.name.lower() for folder in path.absolute().parents][:depth]
    return File(path, next((_SPLITS[name] for name in above if name in _SPLITS), None))


def _photo_folders(request: FromRequest, inputs: Sequence[tuple[Path, Path]]) -> list[Path]:
    """Where photos are looked for.

    Raises:
        RefsegError: the folder that the user names is not there.
    """
    if request.images is None:
        return list(dict.fromkeys([*(path.parent for path, _ in inputs), *(r for _, r in inputs if r.is_dir())]))
    if not request.images.is_dir():
        raise RefsegError(f"{request.images}: no such folder", hint="--images is the folder of the photos")
    return [request.images]


def _with_photos(drafts: Sequence[Draft], gathering: Gathering, problems: list[Problem]) -> Iterator[Entry]:
    """The drafts whose photos are there, each of them of one id only."""
    paths = {draft.image_id: gathering.path(draft.image_id, draft.file_name) for draft in drafts}
    ids = Counter(path for path in paths.values() if path)
    for draft in drafts:
        path = paths[draft.image_id]
        if path and ids[path] == 1:
            yield draft, path
            continue
        fault = f"{path} stands for {ids[path]} images" if path else f"not in {gathering.photos.searched}"
        losers = tuple(dict.fromkeys(e.ref_id for e in draft.expressions))
        problems.append(Problem(Reason.MISSING_IMAGE, draft.file_name, losers, fault))


def _digests(files: Sequence[File], *, whole: bool) -> dict[str, str]:
    """SHA-256 of what was read, by the files' names, or one of all together where these do not tell them apart.

    whole: one of all together in any case.
    """
    each = [(f"{file.path.parent.name}/{file.path.name}", storage.locate(file.path).sha256()) for file in files]
    if whole or len(dict(each)) < len(each):
        return {f"{len(each)} files": hashlib.sha256(repr(each).encode()).hexdigest()}
    return dict(each)
