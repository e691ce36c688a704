"""Drafts to complete shards: the plan, what is kept of earlier runs, and the processes that make the rest.

The whole plan is made before the first byte is written. It depends on the inputs alone, so a rerun makes the same
bytes, keeps the shards that are there, and knows those of other inputs.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from multiprocessing import get_context, parent_process
from pathlib import Path
from typing import Any, Literal

from refseg_cli.data import shards, storage
from refseg_cli.data.shards import Manifest, ShardInfo, SplitInfo
from refseg_cli.data.sources import Draft, Problem, Reason, photos
from refseg_cli.data.storage import Place
from refseg_cli.errors import RefsegError
from refseg_cli.progress import Progress, silent
from refseg_cli.records import Record

OnError = Literal["fail", "skip"]
Entry = tuple[Draft, Path]  # a row to be, and where its photo is

PROBLEMS = "problems.jsonl"
IMAGES_FOR_A_PROCESS = 200  # with fewer it has hardly begun when the work is done
_SHARD_NAME = re.compile(r"\w+-\d{5}-of-\d{5}\.parquet")


@dataclass(frozen=True, slots=True)
class Job:
    """One shard to make, as one process gets it."""

    out: str
    name: str
    split: str
    plan: str
    entries: tuple[Entry, ...]
    on_error: OnError


@dataclass(frozen=True, slots=True)
class Made:
    """A complete shard: its counts and what was left out of it."""

    info: SplitInfo
    problems: tuple[Problem, ...]


def plan(entries: Sequence[Entry], *, out: str, source: object, shard_bytes: int, on_error: OnError) -> list[Job]:
    """Cut the rows into shards of at most `shard_bytes` of photos (and at least one row), split by split.

    Args:
        source: what else the result depends on, for the fingerprint; JSON.
    """
    groups: list[tuple[str, list[Entry]]] = []
    sizes = [path.stat().st_size for _, path in entries]
    filled = 0
    for entry, size in zip(entries, sizes, strict=True):
        split = entry[0].split
        if not groups or groups[-1][0] != split or filled + size > shard_bytes:
            groups.append((split, []))
            filled = 0
        groups[-1][1].append(entry)
        filled += size
    names = _names([split for split, _ in groups])
    rows = [
        [draft.split, draft.image_id, draft.file_name, size] for (draft, _), size in zip(entries, sizes, strict=True)
    ]
    fingerprint = hashlib.sha256(json.dumps([shards.FORMAT, source, names, rows]).encode()).hexdigest()
    return [
        Job(out, name, split, fingerprint, tuple(group), on_error)
        for name, (split, group) in zip(names, groups, strict=True)
    ]


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
    jobs: Sequence[Job], *, workers: int, overwrite: bool, progress: Progress = silent
) -> tuple[dict[str, Made], int]:
    """Make the shards that are not there yet.

    Returns:
        name -> shard for all of the jobs, and how many of them were kept.

    Raises:
        RefsegError: other data is in the way, a broken input with `on_error="fail"`, a full disk.
    """
    folder = storage.locate(jobs[0].out)
    made = _kept(folder, jobs, overwrite, progress)
    kept = len(made)
    todo = [job for job in jobs if job.name not in made]
    if todo and (folder / shards.MANIFEST).exists():
        (folder / shards.MANIFEST).delete()  # it says "complete", which is no longer so
    images = sum(len(job.entries) for job in jobs)
    missing = sum(len(job.entries) for job in todo)
    done = images - missing
    workers = min(workers, len(todo), missing // IMAGES_FOR_A_PROCESS)
    if workers > 1 and storage.is_shared(folder):
        for job, shard in _in_processes(todo, workers):
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
        for number, (draft, path) in enumerate(job.entries, start=done + 1):
            record = photos.finish(draft, path, problems)
            found = problems[len(rows) :]
            if job.on_error == "fail":
                stop(found)
            rows.extend(map(asdict, found))
            if record:
                yield record
            progress("shards", number, total)

    place = storage.locate(job.out) / job.name
    info = shards.write_shard(place, records(), plan=job.plan, problems=rows)
    return Made(info, tuple(problems))


def stop(problems: Sequence[Problem]) -> None:
    """Stop if expressions are lost, and name the first of the broken inputs.

    Raises:
        RefsegError: there is a problem that is no caution.
    """
    losses = [problem for problem in problems if not problem.caution]
    if not losses:
        return
    more = f" (and {len(losses) - 1} more)" if len(losses) > 1 else ""
    raise RefsegError(
        f"{losses[0]}{more}", hint=f"--on-error skip leaves such inputs out and lists them in OUT/{PROBLEMS}"
    )


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


def _in_processes(jobs: Sequence[Job], workers: int) -> Iterator[tuple[Job, Made]]:
    """Shards as they are finished, each made by one of several processes."""
    # Forking a process that runs threads (Arrow's) may hang, so the workers start from scratch.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_follow_parent)
    try:
        futures = {pool.submit(make, job): job for job in jobs}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _follow_parent() -> None:
    """Leave Ctrl-C to the parent, and end with it, even if it is killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = parent_process()

    def watch() -> None:
        if parent:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _kept(folder: Place, jobs: Sequence[Job], overwrite: bool, progress: Progress) -> dict[str, Made]:
    """The shards of this plan that are there and whole; removes what must not stay.

    Raises:
        RefsegError: there is data of other inputs, and it is not to be overwritten.
    """
    names = folder.names()
    for name in names:
        if name.startswith(".") and name.endswith(storage.UNFINISHED):
            (folder / name).delete()
    wanted = {job.name for job in jobs}
    plan = jobs[0].plan
    present = [name for name in names if _SHARD_NAME.fullmatch(name)]
    abouts = {name: shards.about_shard(folder / name) for name in present}
    strange = [name for name, about in abouts.items() if about is None or about.plan != plan or name not in wanted]
    hashes: dict[str, str] = {}
    if shards.MANIFEST in names:
        manifest = _manifest(folder)
        if manifest and manifest.plan == plan:
            hashes = {file.name: file.sha256 for split in manifest.splits.values() for file in split.files}
            strange = [name for name in strange if name not in wanted]  # a damaged one is ours to repair
        else:
            strange = [shards.MANIFEST, *strange]
    if strange and not overwrite:
        raise RefsegError(
            f"{folder.uri}: holds data prepared from other inputs ({strange[0]})",
            hint="choose another --out, or replace it with --overwrite",
        )
    for name in strange:  # the manifest first: without the shards it would be a lie
        (folder / name).delete()
    found: dict[str, Made] = {}
    for number, (name, about) in enumerate(abouts.items(), start=1):
        if about and about.plan == plan and name not in strange:
            digest = (folder / name).sha256()
            if hashes.get(name, digest) == digest:
                file = ShardInfo(name, (folder / name).size(), digest, about.counts.images)
                found[name] = Made(replace(about.counts, files=(file,)), tuple(map(_to_problem, about.problems)))
            progress("check what is there", number, len(abouts))
    return found


def _manifest(folder: Place) -> Manifest | None:
    """The manifest, unless it is damaged or of another format."""
    try:
        return shards.read_manifest(folder)
    except RefsegError:
        return None


def _to_problem(row: dict[str, Any]) -> Problem:
    about = Problem(Reason(row["reason"]), row["file"], tuple(row["ref_ids"]), row["detail"])
    return replace(about, caution=row.get("caution", False))  # older shards have none
