"""Drafts to complete shards: the plan, what is kept of earlier runs, and the processes that make the rest.

The whole plan is made before the first byte is written. It depends on annotations and options alone, so a rerun knows
the shards of others; of its own it keeps those whose photos are still the same, byte for byte, and makes the rest anew.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

from refseg_cli.data import shards, storage
from refseg_cli.data.shards import Manifest
from refseg_cli.data.sources import Draft, Problem, Reason, photos
from refseg_cli.data.storage import Place
from refseg_cli.data.tally import ShardInfo, SplitInfo
from refseg_cli.errors import RefsegError
from refseg_cli.files import is_part
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Record
from refseg_cli.segmenters.memory import keep_freed_memory

OnError = Literal["fail", "skip"]
Engine = Literal["local", "ray"]
Entry = tuple[Draft, Path]  # a row to be, and where its photo is

PROBLEMS = "_problems.jsonl"
_LISTS = dict(zip(shards.MANIFESTS, (PROBLEMS, "problems.jsonl"), strict=True))  # beside a manifest of each name
ROWS_AT_A_TIME = 32  # whose polygons are drawn together
IMAGES_FOR_A_PROCESS = 200  # with fewer it has hardly begun when the work is done
_SHARD_NAME = re.compile(r"\w+-\d{5}-of-\d{5}\.parquet")
_OLD_PART = re.compile(r"\..+\.unfinished")  # what earlier versions called a file that is still being written


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to make, as one process gets it."""

    out: str
    name: str
    split: str
    plan: str
    entries: tuple[Entry, ...]
    on_error: OnError
    rules: photos.Rules


@dataclass(frozen=True, slots=True)
class Made:
    """A complete shard: its counts and what was left out of it."""

    info: SplitInfo
    problems: tuple[Problem, ...]


def plan(
    entries: Sequence[Entry],
    *,
    out: str,
    source: object,
    shard_bytes: int,
    on_error: OnError,
    rules: photos.Rules = photos.RULES,
) -> list[Job]:
    """Cut the rows into shards of at most `shard_bytes` of photos, split by split.

    A shard has at least one row, and all frames of a clip that it has one of: a clip that is larger than `shard_bytes`
    makes a larger shard of its own.

    The fingerprint names no photo's size or content, so that a photo may be repaired without the run becoming another.

    Args:
        source: what else the result depends on, for the fingerprint; JSON.
    """
    groups: list[tuple[str, list[Entry]]] = []
    filled = 0
    for (split, _, _), part in groupby(entries, key=_together):
        rows = list(part)
        size = sum(path.stat().st_size for _, path in rows)
        if not groups or groups[-1][0] != split or filled + size > shard_bytes:
            groups.append((split, []))
            filled = 0
        groups[-1][1].extend(rows)
        filled += size
    names = _names([split for split, _ in groups])
    named = [[draft.split, draft.image_id, draft.file_name] for draft, _ in entries]
    inputs = [shards.FORMAT, source, on_error, shard_bytes, named, rules.masks_on]
    fingerprint = hashlib.sha256(json.dumps(inputs).encode()).hexdigest()
    return [
        Job(out, name, split, fingerprint, tuple(group), on_error, rules)
        for name, (split, group) in zip(names, groups, strict=True)
    ]


def _together(entry: Entry) -> tuple[str, str, int]:
    """Equal for neighbours that must be in one shard."""
    draft = entry[0]
    return draft.split, draft.clip, 0 if draft.clip else draft.image_id


def _names(splits: Sequence[str]) -> list[str]:
    """``val-00000-of-00002.parquet`` for each shard, given the splits that they belong to."""
    seen: dict[str, int] = {}
    names = []
    for split in splits:
        number = seen.get(split, 0)
        seen[split] = number + 1
        names.append(f"{split}-{number:05d}-of-{splits.count(split):05d}.parquet")
    return names


def run(
    jobs: Sequence[Job], *, workers: int, engine: Engine = "local", overwrite: bool, progress: Progress = silent
) -> tuple[dict[str, Made], int]:
    """Make the shards that are not there yet.

    Returns:
        name -> shard for all of the jobs, and how many of them were kept.

    Raises:
        RefsegError: other data is in the way, a broken input with `on_error="fail"`, a full disk.
    """
    folder = storage.locate(jobs[0].out)
    hashes = _take_over(folder, jobs[0].plan, overwrite)
    made = _kept(folder, jobs, hashes, progress)
    kept = len(made)
    todo = [job for job in jobs if job.name not in made]
    if todo:  # what says "complete" no longer tells the truth
        for name in shards.MANIFESTS:
            _withdraw(folder, name)
    wanted = {job.name for job in jobs}
    for name in folder.names():
        if _SHARD_NAME.fullmatch(name) and name not in wanted:
            (folder / name).delete()  # of this plan, from when photos of other sizes took more shards or fewer
    images = sum(len(job.entries) for job in jobs)
    missing = sum(len(job.entries) for job in todo)
    done = images - missing
    if engine == "local":
        workers = min(workers, len(todo), missing // IMAGES_FOR_A_PROCESS)
    elif not storage.is_shared(folder):
        raise RefsegError(f"{folder.uri}: no other process sees what is there", hint="choose another --out")
    if engine == "ray" or (workers > 1 and storage.is_shared(folder)):
        for job, shard in _in_processes(todo, workers) if engine == "local" else _on_cluster(todo, workers):
            made[job.name] = shard
            done += len(job.entries)
            progress("shards", done, images)
        return made, kept
    for job in todo:
        made[job.name] = make(job, progress=progress, done=done, total=images)
        done += len(job.entries)
    return made, kept


def make(job: Job, *, progress: Progress = silent, done: int = 0, total: int = 0) -> Made:
    """Make one shard.

    Args:
        done, total: images of the whole run, for progress.
    """
    problems: list[Problem] = []
    rows: list[dict[str, Any]] = []

    def records() -> Iterator[Record]:
        for number, (draft, path, drawn) in enumerate(_with_masks(job.entries), start=done + 1):
            record = photos.finish(draft, path, problems, job.rules, drawn)
            found = problems[len(rows) :]
            if job.on_error == "fail":
                stop(found)
            rows.extend(map(asdict, found))
            if record:
                yield record
            progress("shards", number, total)

    keep_freed_memory()  # a photo's is that of the next one
    place = storage.locate(job.out) / job.name
    info = shards.write_shard(place, records(), plan=job.plan, problems=rows)
    return Made(info, tuple(problems))


def _with_masks(entries: Sequence[Entry]) -> Iterator[tuple[Draft, Path, photos.Drawn]]:
    """The entries with what is known of their masks, some at a time."""
    for start in range(0, len(entries), ROWS_AT_A_TIME):
        some = entries[start : start + ROWS_AT_A_TIME]
        known = photos.drawn([draft for draft, _ in some])
        yield from ((draft, path, drawn) for (draft, path), drawn in zip(some, known, strict=True))


def stop(problems: Sequence[Problem]) -> None:
    """Stop if expressions are lost, and name the first of the broken inputs.

    Raises:
        RefsegError: there is a problem that is no caution.
    """
    losses = [problem for problem in problems if not problem.caution]
    if not losses:
        return
    more = f" (and {len(losses) - 1} more)" if len(losses) > 1 else ""
    raise RefsegError(f"{losses[0]}{more}", hint=f"--on-error skip skips such inputs and lists them in OUT/{PROBLEMS}")


def finish(folder: Place, manifest: Manifest, problems: Sequence[Problem]) -> None:
    """Write the list of what was left out, if there is any, and then the manifest."""
    lines = "".join(json.dumps(asdict(problem), ensure_ascii=False) + "\n" for problem in problems)
    # Names of folders may be no Unicode; what stands for such bytes is escaped, as JSON has it.
    listed = lines.encode("utf-8", "backslashreplace")
    for name, data in ((PROBLEMS, listed), (shards.MANIFEST, manifest.to_json())):
        place = folder / name
        there = place.read() if place.exists() else b""
        if there and not data:
            place.delete()
        elif there != data:  # a rerun that finds all in order writes nothing
            storage.write(place, data)
    for name in shards.MANIFESTS[1:]:
        _withdraw(folder, name)


def _withdraw(folder: Place, manifest: str) -> None:
    """Delete a manifest, if it is there, and the list of problems that goes with it."""
    if (folder / manifest).exists():
        for place in (folder / manifest, folder / _LISTS[manifest]):
            if place.exists():
                place.delete()


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Made]]:
    """Shards as they are finished, each made by one of several processes."""
    # Forking a process that runs threads (Arrow's) may hang, so the workers start from scratch.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=follow_parent)
    try:
        futures = {pool.submit(make, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _on_cluster(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Made]]:
    from refseg_cli.engine import cluster

    for job, made in cluster.spread(_maker, jobs, workers=workers, threads=1):
        if isinstance(made, RefsegError):
            raise made
        yield job, made


def _maker() -> Callable[[Job], Made]:
    return make


def follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _take_over(folder: Place, plan: str, overwrite: bool) -> dict[str, str]:
    """Remove what a killed run has left half-written, and what was made by other plans.

    Returns:
        name -> SHA-256 of the shards, as a manifest of this plan has them; none if there is no such manifest.

    Raises:
        RefsegError: there is data of another plan, and it is not to be overwritten.
    """
    names = folder.names()
    for name in names:
        if is_part(name) or _OLD_PART.fullmatch(name):
            (folder / name).delete()
    manifests = {name: _manifest(folder / name) for name in shards.MANIFESTS if name in names}
    ours = [manifest for manifest in manifests.values() if manifest and manifest.plan == plan]
    strange_manifests = [name for name, manifest in manifests.items() if manifest not in ours]
    # A shard that our manifest names and that is no longer of our plan is damaged, and ours to repair.
    hashes = {
        file.name: file.sha256 for manifest in ours[:1] for split in manifest.splits.values() for file in split.files
    }
    present = [name for name in names if _SHARD_NAME.fullmatch(name) and name not in hashes]
    strange = [name for name in present if (about := shards.about_shard(folder / name)) is None or about.plan != plan]
    if (others := [*strange_manifests, *strange]) and not overwrite:
        raise RefsegError(
            f"{folder.uri}: contains data prepared from other inputs, with other options or by another version "
            f"({others[0]})",
            hint="choose another --out, or replace it with --overwrite",
        )
    for name in strange_manifests:  # before the shards, without which they would be a lie
        _withdraw(folder, name)
    for name in strange:
        (folder / name).delete()
    return hashes


def _kept(folder: Place, jobs: Sequence[Job], hashes: Mapping[str, str], progress: Progress) -> dict[str, Made]:
    """The shards that are there, whole, and as they would be made now.

    Those that lost something are not among them: what a photo or a mask was left out for may have been mended since, in
    the inputs or in this program.
    """
    names = set(folder.names())
    present = [job for job in jobs if job.name in names]
    found: dict[str, Made] = {}
    for number, job in enumerate(present, start=1):
        place = folder / job.name
        about = shards.about_shard(place)
        problems = tuple(map(_to_problem, about.problems)) if about else ()
        if about and about.plan == job.plan and all(problem.caution for problem in problems):
            digest = place.sha256()
            if hashes.get(job.name, digest) == digest and _is_current(place, job):
                file = ShardInfo(job.name, place.size(), digest, about.counts.images)
                found[job.name] = Made(replace(about.counts, files=(file,)), problems)
        progress("check what is there", number, len(present))
    return found


def _is_current(place: Place, job: Job) -> bool:
    """Whether a shard has the images of its job, with their photos as they are now."""
    try:
        return shards.holds(place, ((draft.image_id, path.read_bytes()) for draft, path in job.entries))
    except OSError:  # a photo that is gone: making the shard again says which
        return False


def _manifest(place: Place) -> Manifest | None:
    """A manifest, unless it is damaged or of another format."""
    try:
        return shards.parse_manifest(place)
    except RefsegError:
        return None


def _to_problem(row: dict[str, Any]) -> Problem:
    about = Problem(Reason(row["reason"]), row["file"], tuple(row["ref_ids"]), row["detail"])
    return replace(about, caution=row.get("caution", False))  # older shards have none
