"""One's own annotated photos to prepared data: `refseg prepare coco` with phrases from a table or generated ones, and
`refseg prepare refer` for other sets in REFER's layout.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from refseg_cli.data.sources import Draft, Problem, Reason, Ref, instances, own_refer, phrase_rows, splits
from refseg_cli.data.sources.catalogue import SOURCES
from refseg_cli.data.sources.instances import Instances
from refseg_cli.data.sources.values import identifier
from refseg_cli.engine import generated
from refseg_cli.engine.prepare import Material, Output, PrepareReport, find_photos, photo_folder, read_refs, write
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent

SPLIT_BY = "own"  # whose splits: the user's
ONLY_SPLIT = "train"  # of data of which nothing says how it is split: what one can train on
COCO = "coco"  # the source of COCO's image ids
_NAME = re.compile(r"\w[\w.+-]*", re.ASCII)
_TAKEN = frozenset({*SOURCES, "scenes", *(source.image_source for source in SOURCES.values())})
_COCO_FILE = "--annotations is a COCO file: images, annotations and categories in JSON"
_INSTANCES_FILE = "--instances is a COCO file: images, annotations and categories in JSON"


@dataclass(frozen=True, slots=True)
class CocoRequest:
    """A COCO file and phrases about what is annotated in it.

    phrases: a table, see `sources.phrase_rows`; None to generate them.
    name: of the dataset; None for that of the output folder.
    splits: shares as in ``train=0.8,val=0.2``, or a table of images and splits; None for those of `phrases`.
    seed: of the shares, and of generated phrases.
    image_source: whose image ids these are, as in `Manifest`; None for the dataset's own.
    """

    annotations: Path
    images: Path
    phrases: Path | None
    output: Output
    name: str | None = None
    splits: str | None = None
    seed: int = 0
    image_source: str | None = None


@dataclass(frozen=True, slots=True)
class ReferRequest:
    """A set in REFER's layout, under a name of its own.

    refs: references as a pickle or JSON.  instances: a COCO file.  splits: the wanted ones; none for all.
    name, image_source: as in `CocoRequest`.
    """

    refs: Path
    instances: Path
    images: Path
    output: Output
    name: str | None = None
    splits: tuple[str, ...] = ()
    image_source: str | None = None


def prepare_coco(request: CocoRequest, *, progress: Progress = silent) -> PrepareReport:
    """Prepare one's own data.

    Raises:
        RefsegError: a file that is missing or of another form, a name that is taken, and as `prepare.write`.
    """
    return write(_read(request, progress), request.output, progress=progress)


def prepare_refer(request: ReferRequest, *, progress: Progress = silent) -> PrepareReport:
    """Prepare a set in REFER's layout that is none of REFER's.

    Raises:
        RefsegError: as `prepare_coco`.
    """
    return write(_read_refer(request), request.output, progress=progress)


def _read(request: CocoRequest, progress: Progress) -> Material:
    name = own_name(request.name, request.output)
    folder = photo_folder(request.images)
    problems: list[Problem] = []
    found, digest = instances.read(request.annotations, number=identifier, hint=_COCO_FILE)
    hashes = {f"annotations/{request.annotations.name}": digest}
    source: dict[str, Any] = {"sha256": hashes}
    if request.phrases:
        refs, hashes[f"phrases/{request.phrases.name}"] = phrase_rows.read(request.phrases, found, problems)
        file = request.phrases.name
    else:
        refs, kinds = generated.references(found, folder, request.output, request.seed, problems, progress)
        file = request.annotations.name
        source["generator"] = {"seed": request.seed, "phrases": dict(sorted(kinds.items()))}
    refs = list(_in_splits(refs, found, request, hashes, problems))
    drafts = instances.drafts(refs, found, splits=(), file=file, problems=problems)
    image_source = request.image_source or name
    if image_source == COCO:
        drafts = [replace(draft, image_id=_coco_id(draft, found, name)) for draft in drafts]
    return _material(name, image_source, source, drafts, refs, folder, problems)


def _read_refer(request: ReferRequest) -> Material:
    name = own_name(request.name, request.output)
    folder = photo_folder(request.images)
    problems: list[Problem] = []
    rows, refs_digest = read_refs(request.refs)
    found, digest = instances.read(request.instances, number=identifier, hint=_INSTANCES_FILE)
    refs = list(own_refer.refs(rows, found, file=request.refs.name, problems=problems))
    if not any(ref.split for ref in refs):
        refs = [replace(ref, split=ONLY_SPLIT) for ref in refs]
    drafts = instances.drafts(refs, found, splits=request.splits, file=request.refs.name, problems=problems)
    wanted = [ref for ref in refs if not request.splits or ref.split in request.splits]
    source = {"sha256": {f"refs/{request.refs.name}": refs_digest, f"instances/{request.instances.name}": digest}}
    material = _material(name, request.image_source or name, source, drafts, wanted, folder, problems)
    return replace(material, whole=not request.splits)


def _material(
    name: str,
    image_source: str,
    source: dict[str, Any],
    drafts: Sequence[Draft],
    refs: Iterable[Ref],
    folder: Path,
    problems: list[Problem],
) -> Material:
    return Material(
        name,
        SPLIT_BY,
        image_source,
        {**source, "content": _content(drafts)},
        tuple(find_photos(drafts, [folder], problems)),
        {ref.ref_id: ref.split for ref in refs if instances.SPLIT_NAME.fullmatch(ref.split)},
        tuple(problems),
    )


def own_name(name: str | None, output: Output) -> str:
    """The name of one's own dataset; if none is given that of the output folder.

    Raises:
        RefsegError: it is none, or that of another dataset, whose image ids and published counts are not these.
    """
    chosen = PurePosixPath(output.out.rstrip("/")).name if name is None else name
    told = f"--name {chosen}" if name is not None else f"--out {output.out}"
    if not _NAME.fullmatch(chosen):
        raise RefsegError(
            f"{told}: {chosen!r} is not a valid dataset name",
            hint="letters, digits and any of _ . + -" + ("" if name is not None else "; or give one with --name"),
        )
    if chosen in _TAKEN:
        raise RefsegError(f"{told}: {chosen} is the name of another dataset", hint="choose another with --name")
    return chosen


def _in_splits(
    refs: Sequence[Ref], found: Instances, request: CocoRequest, hashes: dict[str, str], problems: list[Problem]
) -> Iterator[Ref]:
    """The references with their splits; those that are in none are appended to `problems`."""
    split_of: Mapping[int, str] = {}
    if request.splits is None:
        if not any(ref.split for ref in refs):
            split_of = dict.fromkeys((ref.image_id for ref in refs), ONLY_SPLIT)
    elif "=" in request.splits:
        split_of = _dealt((ref.image_id for ref in refs), found, splits.shares_of(request.splits), request.seed)
    else:
        path = Path(request.splits)
        split_of, hashes[f"splits/{path.name}"] = splits.read(path, found, problems)
    for ref in refs:
        split = split_of.get(ref.image_id, "") if split_of else ref.split
        if split:
            yield replace(ref, split=split)
        else:
            detail = f"{found.photos[ref.image_id][0]} is in no split"
            problems.append(Problem(Reason.BROKEN_REF, found.file, (ref.ref_id,), detail))


def _dealt(image_ids: Iterable[int], found: Instances, shares: Mapping[str, float], seed: int) -> dict[int, str]:
    """The split of each image. By file names, so that no photo of two ids is in two splits."""
    names = {image_id: found.photos[image_id][0] for image_id in image_ids}
    dealt = splits.deal(names.values(), shares, seed=seed)
    return {image_id: dealt[name] for image_id, name in names.items()}


def _coco_id(draft: Draft, found: Instances, name: str) -> int:
    """COCO's id of the photo: the one that the file gives, or the image id where it gives none at all.

    A photo without one among others that have it is none of COCO's, so its id is one that COCO does not use.
    """
    if not found.coco_ids:
        return draft.image_id
    return found.coco_ids.get(draft.image_id, -identifier(f"{name}/{draft.image_id}", "image_id"))


def _content(drafts: Sequence[Draft]) -> str:
    """SHA-256 of what was read, masks that lie in files of their own included."""
    digest = hashlib.sha256()
    for draft in drafts:
        digest.update(repr(draft).encode("utf-8", "backslashreplace"))
    return digest.hexdigest()
