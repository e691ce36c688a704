"""What a game remembers: one SQLite file, in which an answer is before its player hears that it is saved.

A write-ahead log, and for each answer one transaction that waits for the disk: a process that is killed, or a machine
that loses its power, loses no answer that was acknowledged. Several threads and processes may use the same file; the
referee decides inside the transaction, so that no two of them decide differently.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from refseg_cli.annotate.game_file import connect
from refseg_cli.annotate.rules import OPEN, Answer, Refused, Role, State, same, verdict

LEASE = 600.0  # seconds for which a sample that a validator looks at is given to no other


@dataclass(frozen=True, slots=True)
class Task:
    """What a player has on the page: a picture to annotate, or a sample to validate.

    sample: the one to validate, or the one that became of the picture; None while it is annotated.
    offers: phrases that the page offers to the annotator, as `game.Offer` rows.  opened: seconds since 1970.
    outcome: None while it is open; `done`, `skipped`, or `late` where others decided first.
    """

    id: int
    player: str
    role: Role
    split: str
    image_id: int
    sample: int | None
    offers: tuple[dict[str, Any], ...]
    opened: float
    outcome: str | None


@dataclass(frozen=True, slots=True)
class Judged:
    """A validator's answer as it is kept; times in seconds since 1970."""

    player: str
    answer: Answer
    opened: float
    submitted: float


@dataclass(frozen=True, slots=True)
class Sample:
    """A phrase with what its annotator means.

    targets: annotation ids, ascending; none for a no-target phrase.
    origin: how the phrase came about: {"kind": "own" | "drawn" | "generated" | "imported", ...}.
    author: None for an imported one.  opened: None for an imported one.  imported: the provenance it came with.
    """

    id: int
    split: str
    image_id: int
    phrase: str
    targets: tuple[int, ...]
    origin: dict[str, Any]
    author: str | None
    opened: float | None
    submitted: float
    state: State
    imported: dict[str, Any] | None
    answers: tuple[Judged, ...] = ()


class Store:
    """A game's file.

    Args:
        folder: of the game.  clock: seconds since 1970.

    Raises:
        RefsegError: there is no game, the file is none of ours, or it cannot be read.
    """

    def __init__(self, folder: Path, *, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._db, self._lock = connect(folder), threading.Lock()
        self._readers, self._local = [self._db], threading.local()

    def close(self) -> None:
        for db in self._readers:
            db.close()

    @contextmanager
    def _writing(self, *, answer: bool = False) -> Iterator[sqlite3.Connection]:
        """A transaction; nothing else is written meanwhile.

        answer: wait until it is on the disk. What only says which page a player has may be lost with the power.
        """
        with self._lock:
            self._db.execute(f"PRAGMA synchronous = {'FULL' if answer else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @property
    def _reader(self) -> sqlite3.Connection:
        """A connection of the thread's own, which sees what is written but never waits for a writer's disk."""
        if not hasattr(self._local, "db"):
            self._local.db = connect(self._folder)
            self._readers.append(self._local.db)
        return self._local.db

    def _rows(self, query: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        return self._reader.execute(query, values).fetchall()

    def about(self) -> dict[str, Any]:
        """What the game was begun with."""
        [row] = self._rows("SELECT value FROM meta WHERE name = 'about'")
        return json.loads(row["value"])

    def secret(self) -> bytes:
        """What tokens are made of."""
        [row] = self._rows("SELECT value FROM meta WHERE name = 'secret'")
        return bytes.fromhex(row["value"])

    # Tasks

    def task(self, task_id: int) -> Task | None:
        rows = self._rows("SELECT * FROM tasks WHERE id = ?", (task_id,))
        return _task(rows[0]) if rows else None

    def open_task(self, player: str, role: Role) -> Task | None:
        """What the player has not finished; a sample that others have decided meanwhile is taken away."""
        rows = self._rows(
            "SELECT tasks.*, samples.state FROM tasks LEFT JOIN samples ON samples.id = tasks.sample"
            " WHERE player = ? AND role = ? AND outcome IS NULL",
            (player, role),
        )
        if not rows or rows[0]["state"] in (None, *OPEN):
            return _task(rows[0]) if rows else None
        with self._writing() as db:
            db.execute("UPDATE tasks SET outcome = 'late' WHERE id = ? AND outcome IS NULL", (rows[0]["id"],))
        return None

    def seen(self, player: str) -> set[tuple[str, int]]:
        """(split, image id) of the pictures that the player has had to annotate."""
        query = "SELECT DISTINCT split, image_id FROM tasks WHERE player = ? AND role = 'annotate'"
        return {(row["split"], row["image_id"]) for row in self._rows(query, (player,))}

    def begin(self, player: str, picture: tuple[str, int], offers: Sequence[Mapping[str, Any]] = ()) -> Task:
        """Give the player a picture to annotate, unless another request of theirs has just done so."""
        with self._writing() as db:
            db.execute(
                "INSERT OR IGNORE INTO tasks (player, role, split, image_id, offers, opened) VALUES (?, ?, ?, ?, ?, ?)",
                (player, "annotate", *picture, _json(list(offers)), self._clock()),
            )
            query = "SELECT * FROM tasks WHERE player = ? AND role = 'annotate' AND outcome IS NULL"
            return _task(db.execute(query, (player,)).fetchone())

    def skip(self, task_id: int, player: str) -> None:
        """The player wants another picture."""
        with self._writing() as db:
            db.execute(
                "UPDATE tasks SET outcome = 'skipped' WHERE id = ? AND player = ? AND role = 'annotate'"
                " AND outcome IS NULL",
                (task_id, player),
            )

    def next_sample(self, player: str, splits: Iterable[str]) -> Task | None:
        """Give the player a sample to validate: the oldest one of others that nobody else looks at; None for none."""
        now = self._clock()
        names = tuple(splits)
        with self._writing() as db:
            row = db.execute(
                f"""SELECT * FROM samples AS s
                WHERE state IN (?, ?) AND split IN ({", ".join("?" * len(names))}) AND author IS NOT ?
                AND NOT EXISTS (SELECT 1 FROM answers WHERE sample = s.id AND player = ?)
                AND NOT EXISTS (
                  SELECT 1 FROM tasks WHERE sample = s.id AND outcome IS NULL AND player != ? AND opened > ?)
                ORDER BY id LIMIT 1""",
                (*OPEN, *names, player, player, player, now - LEASE),
            ).fetchone()
            if row is None:
                return None
            db.execute(
                "INSERT OR IGNORE INTO tasks (player, role, split, image_id, sample, offers, opened)"
                " VALUES (?, 'validate', ?, ?, ?, '[]', ?)",
                (player, row["split"], row["image_id"], row["id"], now),
            )
            query = "SELECT * FROM tasks WHERE player = ? AND role = 'validate' AND outcome IS NULL"
            return _task(db.execute(query, (player,)).fetchone())

    # Answers

    def submit_sample(
        self, task_id: int, player: str, phrase: str, targets: Iterable[int], origin: Mapping[str, Any]
    ) -> int:
        """Keep what an annotator wrote; the sample's id, the same one if it comes again.

        Raises:
            Refused: the picture is not the player's to annotate, or has that phrase already.
        """
        with self._writing(answer=True) as db:
            task = _own(db, task_id, player, "annotate")
            if task.outcome == "done" and task.sample is not None:
                return task.sample
            if task.outcome is not None:
                raise Refused("You have gone on to another picture.")
            if any(same(phrase, other.phrase) for other in _of_picture(db, task.split, task.image_id)):
                raise Refused("Somebody has written this phrase for this picture already. Find another one.")
            sample = db.execute(
                "INSERT INTO samples (split, image_id, phrase, targets, origin, author, opened, submitted, state)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (
                    *(task.split, task.image_id, phrase, _json(sorted(targets)), _json(origin)),
                    *(player, task.opened, self._clock(), State.WAITING),
                ),
            ).lastrowid
            assert sample is not None
            db.execute("UPDATE tasks SET outcome = 'done', sample = ? WHERE id = ?", (sample, task_id))
        return sample

    def submit_answer(self, task_id: int, player: str, answer: Answer) -> State:
        """Keep a validator's answer and let the referee decide; the sample's state, also if the answer comes again.

        Raises:
            Refused: the sample is not the player's to validate, or others have decided it meanwhile.
        """
        with self._writing(answer=True) as db:
            task = _own(db, task_id, player, "validate")
            sample = _whole(db, db.execute("SELECT * FROM samples WHERE id = ?", (task.sample,)).fetchone())
            if task.outcome == "done":
                return sample.state
            if task.outcome is not None or sample.state not in OPEN:
                raise Refused("Others have decided about this phrase meanwhile.")
            if sample.author == player:
                raise Refused("Nobody validates their own phrases.")
            values = (task.sample, player, _json(sorted(answer.targets)), answer.reason, task.opened, self._clock())
            db.execute(
                "INSERT INTO answers (sample, player, targets, reason, opened, submitted) VALUES (?, ?, ?, ?, ?, ?)",
                values,
            )
            state = verdict(sample.targets, [*(judged.answer for judged in sample.answers), answer])
            db.execute("UPDATE samples SET state = ? WHERE id = ?", (state, sample.id))
            db.execute("UPDATE tasks SET outcome = 'done' WHERE id = ?", (task_id,))
        return state

    def add_imported(self, samples: Iterable[tuple[str, int, str, Sequence[int], Mapping[str, Any]]]) -> int:
        """Take over accepted samples of an earlier game; how many were new.

        samples: split, image id, phrase, targets and provenance of each. A picture has each phrase once.
        """
        added = 0
        with self._writing(answer=True) as db:
            for split, image_id, phrase, targets, provenance in samples:
                if any(same(phrase, other.phrase) for other in _of_picture(db, split, image_id)):
                    continue
                db.execute(
                    "INSERT INTO samples (split, image_id, phrase, targets, origin, submitted, state, imported)"
                    ' VALUES (?, ?, ?, ?, \'{"kind": "imported"}\', ?, ?, ?)',
                    (
                        *(split, image_id, phrase, _json(sorted(targets))),
                        *(self._clock(), State.ACCEPTED, _json(provenance)),
                    ),
                )
                added += 1
        return added

    # What there is

    def sample(self, sample_id: int) -> Sample:
        [row] = self._rows("SELECT * FROM samples WHERE id = ?", (sample_id,))
        return _whole(self._reader, row)

    def samples(self) -> list[Sample]:
        """All of them with their answers, in the order in which they came."""
        answers: dict[int, list[Judged]] = {}
        self._reader.execute("BEGIN")  # one moment for both
        try:
            for row in self._rows("SELECT * FROM answers ORDER BY id"):
                answers.setdefault(row["sample"], []).append(_judged(row))
            rows = self._rows("SELECT * FROM samples ORDER BY id")
        finally:
            self._reader.execute("COMMIT")
        return [_sample(row, answers.get(row["id"], ())) for row in rows]

    def of_picture(self, split: str, image_id: int) -> list[Sample]:
        """The samples of a picture that still stand, without their answers."""
        return _of_picture(self._reader, split, image_id)

    def latest_accepted(self, split: str, count: int) -> list[Sample]:
        """The last accepted samples of a split, without their answers."""
        query = "SELECT * FROM samples WHERE state = ? AND split = ? ORDER BY id DESC LIMIT ?"
        return [_sample(row) for row in self._rows(query, (State.ACCEPTED, split, count))]

    def tally(self, player: str) -> dict[str, int]:
        """How many samples of the player are in each state, and as ``validated`` how many of others they answered."""
        counts = {str(state): 0 for state in State}
        for row in self._rows("SELECT state, COUNT(*) FROM samples WHERE author = ? GROUP BY state", (player,)):
            counts[row[0]] = row[1]
        [validated] = self._rows("SELECT COUNT(*) FROM answers WHERE player = ?", (player,))
        return {**counts, "validated": validated[0]}

    def waiting_for(self, player: str, splits: Iterable[str]) -> int:
        """How many samples the player could validate."""
        names = tuple(splits)
        [row] = self._rows(
            f"""SELECT COUNT(*) FROM samples AS s
            WHERE state IN (?, ?) AND split IN ({", ".join("?" * len(names))}) AND author IS NOT ?
            AND NOT EXISTS (SELECT 1 FROM answers WHERE sample = s.id AND player = ?)""",
            (*OPEN, *names, player, player),
        )
        return row[0]

    # A model's opinion

    def opinion(self, sample_id: int, model: str) -> tuple[str, bool] | None:
        """The counts of the mask that the model has answered, and whether it says that there is something."""
        query = "SELECT mask, found FROM opinions WHERE sample = ? AND model = ?"
        rows = self._rows(query, (sample_id, model))
        return (rows[0]["mask"], bool(rows[0]["found"])) if rows else None

    def keep_opinion(self, sample_id: int, model: str, mask: str, found: bool) -> None:
        with self._writing() as db:
            db.execute("INSERT OR REPLACE INTO opinions VALUES (?, ?, ?, ?)", (sample_id, model, mask, int(found)))


def _own(db: sqlite3.Connection, task_id: int, player: str, role: Role) -> Task:
    """Raises Refused: there is no such task of the player's."""
    query = "SELECT * FROM tasks WHERE id = ? AND player = ? AND role = ?"
    row = db.execute(query, (task_id, player, role)).fetchone()
    if row is None:
        raise Refused("This page is not yours. Go back to the start.")
    return _task(row)


def _of_picture(db: sqlite3.Connection, split: str, image_id: int) -> list[Sample]:
    query = "SELECT * FROM samples WHERE split = ? AND image_id = ? AND state IN (?, ?, ?) ORDER BY id"
    return [_sample(row) for row in db.execute(query, (split, image_id, *OPEN, State.ACCEPTED))]


def _whole(db: sqlite3.Connection, row: sqlite3.Row) -> Sample:
    return _sample(
        row, [_judged(a) for a in db.execute("SELECT * FROM answers WHERE sample = ? ORDER BY id", (row["id"],))]
    )


def _sample(row: sqlite3.Row, answers: Iterable[Judged] = ()) -> Sample:
    imported = None if row["imported"] is None else json.loads(row["imported"])
    return Sample(
        id=row["id"],
        split=row["split"],
        image_id=row["image_id"],
        phrase=row["phrase"],
        targets=tuple(json.loads(row["targets"])),
        origin=json.loads(row["origin"]),
        author=row["author"],
        opened=row["opened"],
        submitted=row["submitted"],
        state=State(row["state"]),
        imported=imported,
        answers=tuple(answers),
    )


def _judged(row: sqlite3.Row) -> Judged:
    answer = Answer(frozenset(json.loads(row["targets"])), row["reason"])
    return Judged(row["player"], answer, row["opened"], row["submitted"])


def _task(row: sqlite3.Row) -> Task:
    return Task(
        row["id"],
        row["player"],
        row["role"],
        row["split"],
        row["image_id"],
        row["sample"],
        tuple(json.loads(row["offers"])),
        row["opened"],
        row["outcome"],
    )


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)
