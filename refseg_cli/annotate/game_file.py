"""The file of a game: its tables, and how one is begun and opened."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from refseg_cli.errors import RefsegError

FILE = "game.sqlite"
FORMAT = 1
APPLICATION = 0x72_65_66_67  # "refg", SQLite's application_id
PATIENCE = 10.0  # seconds that a writer waits for another process


TABLES = """
CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE tasks (
  id INTEGER PRIMARY KEY, player TEXT NOT NULL, role TEXT NOT NULL, split TEXT NOT NULL, image_id INTEGER NOT NULL,
  sample INTEGER REFERENCES samples, offers TEXT NOT NULL, opened REAL NOT NULL, outcome TEXT) STRICT;
CREATE UNIQUE INDEX one_open_task ON tasks (player, role) WHERE outcome IS NULL;
CREATE INDEX tasks_of_player ON tasks (player, role, split, image_id);
CREATE INDEX leases ON tasks (sample) WHERE outcome IS NULL;
CREATE TABLE samples (
  id INTEGER PRIMARY KEY, split TEXT NOT NULL, image_id INTEGER NOT NULL, phrase TEXT NOT NULL, targets TEXT NOT NULL,
  origin TEXT NOT NULL, author TEXT, opened REAL, submitted REAL NOT NULL, state TEXT NOT NULL, imported TEXT) STRICT;
CREATE INDEX samples_of_picture ON samples (split, image_id);
CREATE INDEX samples_in_state ON samples (state, split);
CREATE TABLE answers (
  id INTEGER PRIMARY KEY, sample INTEGER NOT NULL REFERENCES samples, player TEXT NOT NULL, targets TEXT NOT NULL,
  reason TEXT, opened REAL NOT NULL, submitted REAL NOT NULL, UNIQUE (sample, player)) STRICT;
CREATE TABLE opinions (
  sample INTEGER PRIMARY KEY REFERENCES samples, model TEXT NOT NULL, mask TEXT NOT NULL, found INTEGER NOT NULL
) STRICT;
"""


def begin_game(folder: Path, about: Mapping[str, Any]) -> None:
    """Make the file of a game, whole or not at all; an existing one stays as it is.

    Raises:
        RefsegError: it cannot be written.
    """
    path = folder / FILE
    if path.exists():
        return
    part = folder / f".{FILE}-{secrets.token_hex(4)}.part"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        os.close(os.open(part, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))  # it holds the secret of all links
        db = sqlite3.connect(part, isolation_level=None)
        db.executescript(f"BEGIN; PRAGMA application_id = {APPLICATION}; PRAGMA user_version = {FORMAT}; {TABLES}")
        values = (("about", json.dumps(about)), ("secret", secrets.token_hex(32)))
        db.executemany("INSERT INTO meta VALUES (?, ?)", values)
        db.execute("COMMIT")
        db.close()
        os.link(part, path)  # fails if another process was faster, whose game it is then
    except FileExistsError:
        if not path.is_file():
            raise RefsegError(f"{folder}: not a folder", hint="--out is the folder of the game") from None
    except (OSError, sqlite3.Error) as error:
        raise RefsegError(f"{folder}: cannot begin a game: {error}") from error
    finally:
        if part.parent.is_dir():
            part.unlink(missing_ok=True)


@contextmanager
def explained(folder: Path) -> Iterator[None]:
    """What SQLite complains of, in one line with the file's name; of damage it hears when it reads that page."""
    try:
        yield
    except sqlite3.Error as error:
        raise RefsegError(f"{folder / FILE}: {error}", hint="is it the file of a game, and whole?") from error


def connect(folder: Path) -> sqlite3.Connection:
    """Open the file of a game; each statement is a transaction of its own until one is begun.

    Raises:
        RefsegError: there is no game, the file is none of ours, or it cannot be read.
    """
    path = folder / FILE
    if not path.is_file():
        raise RefsegError(f"{folder}: no game here", hint="`refseg annotate serve --out` begins one")
    with explained(folder):
        db = sqlite3.connect(path, timeout=PATIENCE, isolation_level=None, check_same_thread=False)
        db.row_factory = sqlite3.Row
        for pragma in ("journal_mode = WAL", "foreign_keys = ON"):
            db.execute(f"PRAGMA {pragma}")
        found = [db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")]
    if found != [APPLICATION, FORMAT]:
        raise RefsegError(f"{path}: no game, or one of another version of refseg", hint="name another folder")
    return db
