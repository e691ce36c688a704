"""Raw annotations and photos to prepared data: `refseg prepare DATASET` and `refseg prepare scenes`."""

from __future__ import annotations

import gc
import tempfile
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from refseg_cli import __version__
from refseg_cli.data import storage
from refseg_cli.data.shards import Manifest
from refseg_cli.data.sources import Draft, Problem, Reason, instances, photos, pickles
from refseg_cli.data.sources.catalogue import ALL, FORMS, PUBLISHED, RELEASED, SOURCES, Source
from refseg_cli.data.sources.repeated import repeated_ids
from refseg_cli.data.sources.whereabouts import Photos
from refseg_cli.data.tally import SplitInfo
from refseg_cli.engine import sharding
from refseg_cli.engine.sharding import Entry, OnError
from refseg_cli.errors import RefsegError, unknown_name
from refseg_cli.progress import Progress, silent

SHARD_BYTES = 256 << 20  # of photos: large enough for object stores, small enough to fetch again


@dataclass(frozen=True, slots=True)
class Output:
    """How shards are made, whatever they are made of.

    out:         folder or URI for the shards.
    workers:     processes, each of which makes whole shards.
    on_error:    whether a broken input stops the run, or is left out and reported.
    overwrite:   replace what other inputs or options have left in `out`.
    shard_bytes: photos in one shard, at most.
    rules:       which way up masks were drawn, and how large a photo may be.
    engine:      processes of this machine, or of a Ray cluster that sees the photos and `out`.
    """

    out: str
    workers: int = 1
    on_error: OnError = "fail"
    overwrite: bool = False
    shard_bytes: int = SHARD_BYTES
    rules: photos.Rules = photos.RULES
    engine: sharding.Engine = "local"


@dataclass(frozen=True, slots=True)
class PrepareRequest:
    """Which dataset of the RefCOCO family to prepare.

    dataset:  a name in `SOURCES`.
    root:     folder that holds `refcoco/`, `grefcoco/` and the like.
    images:   folder of the photos; None for `root/images` and `root`.
    split_by: whose splits; None for the usual ones.
    splits:   the wanted ones; none for all.
    """

    dataset: str
    root: Path
    output: Output
    images: Path | None = None
    split_by: str | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Difference:
    """A count that is not the published one.

    split: "all" for the whole dataset.  what: a field of `SplitInfo`.  released: the count of the file that the authors
    released, if it is known to be another one.
    """

    split: str
    what: str
    found: int
    published: int
    released: int | None = None

    def __str__(self) -> str:
        released = "" if self.released is None else f" and released are {self.released}"
        return f"{self.split}: {self.found} {self.what}, published are {self.published}{released}"


@dataclass(frozen=True, slots=True)
class PrepareReport:
    """What was prepared.

    written, kept: shards made now, and those that were there already.
    problems:      what was left out; `OUT/_problems.jsonl` says the same.
    differences:   from the published counts; none if the counts are those of the file as released.
    """

    out: str
    manifest: Manifest
    written: int
    kept: int
    problems: tuple[Problem, ...]
    differences: tuple[Difference, ...]
    repeated: tuple[str, ...]  # what to know of ids that stand for more than one thing

    def published(self, split: str) -> int | None:
        """How many expressions the split has by its authors' count; None if that is not known."""
        splits = PUBLISHED.get((self.manifest.dataset, self.manifest.split_by), {})
        return splits.get(split, {}).get("expressions")

    def is_release(self) -> bool:
        """Whether this is all of a file whose counts as released are not those of the paper."""
        return _is_release(self.manifest)


@dataclass(frozen=True, slots=True)
class Material:
    """What was read before anything is written.

    dataset ... source: as in `Manifest`.  split_of: ref id -> its split, of the wanted splits; broken refs among them.
    whole: all splits were asked for, so that totals can be compared with published ones.
    without_masks: splits whose targets nobody says, as in `SplitInfo`.
    """

    dataset: str
    split_by: str
    image_source: str
    source: dict[str, Any]
    entries: tuple[Entry, ...]
    split_of: dict[int, str]
    problems: tuple[Problem, ...] = field(default=())
    whole: bool = True
    without_masks: frozenset[str] = frozenset()


def prepare(request: PrepareRequest, *, progress: Progress = silent) -> PrepareReport:
    """Prepare a dataset of the RefCOCO family.

    Raises:
        RefsegError: missing or refused annotation files, other data in `out`, a full disk; with `on_error="fail"`
            the first broken input, too.
    """
    try:
        with _without_collection():
            material = _read(request)
            gc.freeze()  # what was read is there to the end
        return write(material, request.output, progress=progress)
    finally:
        gc.unfreeze()


@contextmanager
def _without_collection() -> Iterator[None]:
    """While objects only come, and none in cycles, looking for cycles among all of them again and again finds none."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def prepare_scenes(
    out: str,
    *,
    images: Mapping[str, int],
    seed: int = 0,
    raw: Path | None = None,
    workers: int = 1,
    engine: sharding.Engine = "local",
    overwrite: bool = False,
    progress: Progress = silent,
) -> PrepareReport:
    """Generate the embedded dataset in the raw gRefCOCO layout, and prepare it like any other.

    Args:
        images: split -> number of scenes.
        raw: folder that keeps the raw files; None to throw them away.

    Raises:
        RefsegError: as `prepare`, or an unknown split.
    """
    from refseg_cli.data import scenes

    with tempfile.TemporaryDirectory(prefix="refseg-scenes-") as temporary:
        folder = raw or Path(temporary)
        scenes.generate(
            folder,
            images=images,
            seed=seed,
            progress=lambda done, total: progress("scenes", done, total),
            workers=workers,
        )
        output = Output(out, workers=workers, engine=engine, overwrite=overwrite)
        material = _read(PrepareRequest("grefcoco", folder, output))
        generator = {"seed": seed, "images": dict(images)}
        # Not by seed alone: an id means the same picture only for the same seed.
        material = replace(
            material,
            dataset="scenes",
            image_source=f"scenes/{seed}",
            source={**material.source, "generator": generator},
        )
        return write(material, output, progress=progress)


def share_scenes(number: int, usual: Mapping[str, int]) -> dict[str, int]:
    """`number` scenes shared out among the splits as they usually are, at least one to each.

    Raises:
        RefsegError: fewer scenes than splits.
    """
    if number < len(usual):
        each = f"at least {len(usual)}, one for each of {', '.join(usual)}"
        raise RefsegError(f"cannot make {number} scenes", hint=f"{each}; or name splits, e.g. train=1")
    whole = sum(usual.values())
    shares = {split: max(1, number * share // whole) for split, share in usual.items()}
    return {**shares, "train": shares["train"] + number - sum(shares.values())}


def _read(request: PrepareRequest) -> Material:
    """Read the annotations, find the photos, and note what is broken as far as that shows without opening them."""
    if request.dataset not in SOURCES:
        raise unknown_name("dataset", request.dataset, SOURCES)
    source = SOURCES[request.dataset]
    folder = request.root / source.folder
    split_by = request.split_by or source.split_by[0]
    path = _refs_path(folder, source, split_by)
    problems: list[Problem] = []
    rows, refs_digest = read_refs(path)
    refs = list(source.parse(rows, file=path.name, problems=problems))
    del rows
    wanted = [ref for ref in refs if not request.splits or ref.split in request.splits]
    found, digest = instances.read(folder / "instances.json", wanted={ref.image_id for ref in wanted})
    drafts = instances.drafts(refs, found, splits=request.splits, file=path.name, problems=problems)
    entries = tuple(find_photos(drafts, _photo_folders(request), problems))
    hashes = {f"{source.folder}/{path.name}": refs_digest, f"{source.folder}/instances.json": digest}
    return Material(
        request.dataset,
        split_by,
        source.image_source,
        {"sha256": hashes},
        entries,
        {ref.ref_id: ref.split for ref in wanted if instances.SPLIT_NAME.fullmatch(ref.split)},
        tuple(problems),
        whole=not request.splits,
    )


def _refs_path(folder: Path, source: Source, split_by: str) -> Path:
    """The references' file, in the first form that is there."""
    name = source.refs.format(split_by)
    for form in FORMS:
        if (path := folder / f"{name}{form}").is_file():
            return path
    there = sorted(other.name for form in FORMS for other in folder.glob(f"{source.refs.format('*')}{form}"))
    hint = f"there is {', '.join(there)}: see --split-by" if there else f"--root is the folder of {source.folder}/"
    raise RefsegError(f"{folder / name}{' or '.join(FORMS)}: no such file", hint=hint)


def read_refs(path: Path) -> tuple[Iterable[Any], str]:
    """The rows of a references' file of either form, as JSON has them, and its SHA-256.

    Raises:
        RefsegError: no such file, or none of references.
    """
    if path.suffix == ".json":
        rows, digest = instances.load_json(path, hint=None)
    else:
        rows, digest = pickles.read(path), storage.locate(path).sha256()
    if not isinstance(rows, list | tuple):
        raise RefsegError(f"{path}: holds a {type(rows).__name__} in place of a list of references")
    return rows if path.suffix == ".json" else pickles.rows(rows), digest


def find_photos(drafts: Sequence[Draft], folders: Sequence[Path], problems: list[Problem]) -> Iterator[Entry]:
    """The drafts whose photos are there, with these; the others are appended to `problems`."""
    index = Photos(folders)
    paths = {name: index.find(name) for name in {draft.file_name for draft in drafts}}
    names = Counter(path for path in paths.values() if path)
    for draft in drafts:
        path = paths[draft.file_name]
        if not path:
            fault = f"not in {index.searched}"
        elif names[path] > 1 and not path.as_posix().endswith(f"/{draft.file_name}"):
            fault = f"{path} may be another photo, for {names[path]} names lead there"
        else:
            yield draft, path
            continue
        losers = tuple(dict.fromkeys(e.ref_id for e in draft.expressions))
        problems.append(Problem(Reason.MISSING_IMAGE, draft.file_name, losers, fault))


def _photo_folders(request: PrepareRequest) -> list[Path]:
    """Where photos are looked for."""
    if request.images is None:
        return [folder for folder in (request.root / "images", request.root) if folder.is_dir()]
    return [photo_folder(request.images)]


def photo_folder(images: Path) -> Path:
    """The folder that the user names.

    Raises:
        RefsegError: it is not there.
    """
    if not images.is_dir():
        raise RefsegError(f"{images}: no such folder", hint="--images is the folder of the photos")
    return images


def write(material: Material, output: Output, *, progress: Progress = silent) -> PrepareReport:
    """Make the shards that are not there yet, then the list of problems, then the manifest.

    Raises:
        RefsegError: nothing is left of a split, other data in `out`, a full disk; with `on_error="fail"` the first
            broken input, too.
    """
    if output.on_error == "fail":
        sharding.stop(material.problems)
    _refuse_emptied(material.split_of, {draft.split for draft, _ in material.entries}, material.problems)
    if not material.entries:
        why = "no reference has a usable image" if material.split_of else "the annotations give no reference"
        raise RefsegError(f"{material.dataset}: nothing to prepare", hint=why)
    jobs = sharding.plan(
        material.entries,
        out=output.out,
        source=[material.dataset, material.split_by, material.image_source, material.source],
        shard_bytes=output.shard_bytes,
        on_error=output.on_error,
        rules=output.rules,
    )
    folder = storage.locate(output.out)
    with storage.locked(folder):
        made, kept = sharding.run(
            jobs, workers=output.workers, engine=output.engine, overwrite=output.overwrite, progress=progress
        )
        problems = [*material.problems, *(problem for job in jobs for problem in made[job.name].problems)]
        splits: dict[str, SplitInfo] = {}
        for job in jobs:
            split = splits.get(job.split, SplitInfo(masks=job.split not in material.without_masks))
            splits[job.split] = split.plus(made[job.name].info)
        left = {split for split, info in splits.items() if info.images}
        for job in jobs:
            if job.split not in left:
                (folder / job.name).delete()
        _refuse_emptied(material.split_of, left, problems)
        manifest = Manifest(
            dataset=material.dataset,
            split_by=material.split_by,
            image_source=material.image_source,
            source=material.source,
            plan=jobs[0].plan,
            splits=splits,
            problems=dict(sorted(Counter(str(problem.reason) for problem in problems).items())),
            refseg=__version__,
        )
        sharding.finish(folder, manifest, problems)
    found = differences(manifest, whole=material.whole)
    repeated = repeated_ids(draft for draft, _ in material.entries if not draft.clip)
    return PrepareReport(output.out, manifest, len(jobs) - kept, kept, tuple(problems), found, repeated)


def _refuse_emptied(split_of: Mapping[int, str], left: Collection[str], problems: Sequence[Problem]) -> None:
    """See that every split has an image left.

    Raises:
        RefsegError: one has none; with the first reasons.
    """
    for split in dict.fromkeys(split_of.values()):
        if split not in left:
            losses = (p for p in problems if not p.caution)
            reasons = [str(p) for p in losses if any(split_of.get(ref_id) == split for ref_id in p.ref_ids)]
            more = f" (and {len(reasons) - 3} more)" if len(reasons) > 3 else ""
            raise RefsegError(
                f"split {split}: nothing of it is left: {'; '.join(reasons[:3]) or 'no expression'}{more}",
                hint="fix the inputs, or choose other splits with --splits",
            )


def differences(manifest: Manifest, *, whole: bool) -> tuple[Difference, ...]:
    """The counts that are not as published.

    whole: all splits were asked for, so that the totals can be compared and a missing split is worth a word.
    """
    if _is_release(manifest):
        return ()
    key = (manifest.dataset, manifest.split_by)
    counts = {**({ALL: _total(manifest)} if whole else {}), **manifest.splits}
    released = RELEASED.get(key, {})
    found = [
        Difference(
            split, what, getattr(counts.get(split, SplitInfo()), what), number, released.get(split, {}).get(what)
        )
        for split, numbers in PUBLISHED.get(key, {}).items()
        for what, number in numbers.items()
        if split in counts or whole
    ]
    return tuple(difference for difference in found if difference.found != difference.published)


def _is_release(manifest: Manifest) -> bool:
    released = RELEASED.get((manifest.dataset, manifest.split_by))
    counts = {ALL: _total(manifest), **manifest.splits}
    return released is not None and all(
        getattr(counts.get(split, SplitInfo()), what) == number
        for split, numbers in released.items()
        for what, number in numbers.items()
    )


def _total(manifest: Manifest) -> SplitInfo:
    total = SplitInfo()
    for split in manifest.splits.values():
        total = total.plus(split)
    return total
