from __future__ import annotations

import os
import signal
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest

from refseg_cli.annotate.game_file import FILE, begin_game
from refseg_cli.annotate.rules import Answer, Refused, State, verdict
from refseg_cli.annotate.store import LEASE, Store, Task
from refseg_cli.errors import RefsegError

OWN = {"kind": "own"}


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def store(tmp_path: Path, clock: Clock) -> Iterator[Store]:
    begin_game(tmp_path, {"data": "here"})
    opened = Store(tmp_path, clock=clock)
    yield opened
    opened.close()


def write(store: Store, player: str, phrase: str = "the dog", targets: tuple[int, ...] = (1,), image: int = 7) -> int:
    """A sample of the player's."""
    return store.submit_sample(store.begin(player, ("train", image)).id, player, phrase, targets, OWN)


def ask(store: Store, player: str) -> Task:
    task = store.open_task(player, "validate") or store.next_sample(player, ["train"])
    assert task is not None
    return task


def answer(store: Store, player: str, targets: tuple[int, ...] = (1,), reason: str | None = None) -> State:
    return store.submit_answer(ask(store, player).id, player, Answer(frozenset(targets), reason))


def test_the_first_validator_who_agrees_accepts(store: Store) -> None:
    sample = write(store, "Ann")
    assert answer(store, "Vic") is State.ACCEPTED
    assert store.sample(sample).state is State.ACCEPTED
    assert store.next_sample("Val", ["train"]) is None


def test_two_validators_who_choose_otherwise_discard(store: Store) -> None:
    write(store, "Ann")
    assert answer(store, "Vic", (2,)) is State.DISPUTED
    assert store.next_sample("Vic", ["train"]) is None  # the second one is another one
    assert answer(store, "Val", (1, 2)) is State.DISCARDED
    assert store.next_sample("Vera", ["train"]) is None


def test_the_second_validator_may_still_accept(store: Store) -> None:
    write(store, "Ann")
    answer(store, "Vic", ())
    assert answer(store, "Val", (1,)) is State.ACCEPTED


def test_one_rejection_ends_a_sample_and_keeps_its_reason(store: Store) -> None:
    sample = write(store, "Ann", targets=())
    assert answer(store, "Vic", (), "irrelevant") is State.REJECTED
    [judged] = store.sample(sample).answers
    assert (judged.player, judged.answer.reason) == ("Vic", "irrelevant")


def test_nobody_validates_their_own(store: Store) -> None:
    write(store, "Ann")
    assert store.next_sample("Ann", ["train"]) is None
    assert store.waiting_for("Ann", ["train"]) == 0
    task = ask(store, "Vic")
    with pytest.raises(Refused):
        store.submit_answer(task.id, "Ann", Answer(frozenset({1})))
    # Even if a task came about in another way.
    with sqlite3.connect(store._db.execute("PRAGMA database_list").fetchone()[2]) as db:
        db.execute(
            "INSERT INTO tasks (player, role, split, image_id, sample, offers, opened)"
            " VALUES ('Ann', 'validate', 'train', 7, 1, '[]', 1)"
        )
    own = store.open_task("Ann", "validate")
    assert own is not None
    with pytest.raises(Refused, match="their own"):
        store.submit_answer(own.id, "Ann", Answer(frozenset({1})))


def test_two_validators_get_two_samples_until_a_lease_ends(store: Store, clock: Clock) -> None:
    first, second = write(store, "Ann", "one"), write(store, "Ann", "two")
    assert ask(store, "Vic").sample == first
    assert ask(store, "Vic").sample == first  # a reload shows the same
    assert ask(store, "Val").sample == second
    assert store.next_sample("Vera", ["train"]) is None
    clock.now += LEASE + 1
    assert ask(store, "Vera").sample == first


def test_who_comes_too_late_is_told(store: Store, clock: Clock) -> None:
    write(store, "Ann")
    late = ask(store, "Vic")
    clock.now += LEASE + 1
    assert answer(store, "Val") is State.ACCEPTED
    with pytest.raises(Refused, match="meanwhile"):
        store.submit_answer(late.id, "Vic", Answer(frozenset({2})))
    assert store.open_task("Vic", "validate") is None
    assert len(store.samples()[0].answers) == 1


def test_a_form_that_comes_twice_counts_once(store: Store) -> None:
    task = store.begin("Ann", ("train", 7))
    assert {store.submit_sample(task.id, "Ann", "the dog", {1}, OWN) for _ in range(2)} == {1}
    asked = ask(store, "Vic")
    assert {store.submit_answer(asked.id, "Vic", Answer(frozenset({2}))) for _ in range(2)} == {State.DISPUTED}
    assert len(store.samples()[0].answers) == 1


def test_only_the_splits_of_the_game_are_given_out(store: Store) -> None:
    write(store, "Ann")
    assert store.next_sample("Vic", ["val"]) is None
    assert store.waiting_for("Vic", ["val"]) == 0
    assert store.waiting_for("Vic", ["val", "train"]) == 1


def test_tasks_belong_to_their_player(store: Store) -> None:
    task = store.begin("Ann", ("train", 7))
    for call in (
        lambda: store.submit_sample(task.id, "Vic", "the dog", {1}, OWN),
        lambda: store.submit_answer(task.id, "Ann", Answer()),
        lambda: store.submit_sample(99, "Ann", "the dog", {1}, OWN),
    ):
        with pytest.raises(Refused, match="not yours"):
            call()
    store.skip(task.id, "Vic")
    assert store.open_task("Ann", "annotate") == task
    store.skip(task.id, "Ann")
    assert store.open_task("Ann", "annotate") is None
    with pytest.raises(Refused, match="another picture"):
        store.submit_sample(task.id, "Ann", "the dog", {1}, OWN)
    assert store.seen("Ann") == {("train", 7)}


def test_a_picture_has_a_phrase_once_unless_it_came_to_nothing(store: Store) -> None:
    write(store, "Ann", "the dog")
    with pytest.raises(Refused, match="already"):
        write(store, "Bob", "The Dog", (2,))
    write(store, "Bea", "the dog", image=8)
    assert ask(store, "Vic").image_id == 7
    answer(store, "Vic", (), "language")
    write(store, "Bob", "The Dog", (2,))


def test_tallies(store: Store) -> None:
    for phrase in ("one", "two", "three", "four"):
        write(store, "Ann", phrase)
    answer(store, "Vic")
    answer(store, "Vic", (2,))
    answer(store, "Vic", (), "language")
    tally = store.tally("Ann")
    assert {name: number for name, number in tally.items() if number} == {
        **{"accepted": 1, "disputed": 1, "rejected": 1, "waiting": 1},
    }
    assert store.tally("Vic")["validated"] == 3
    assert [store.waiting_for(name, ["train"]) for name in ("Ann", "Vic", "Val")] == [0, 1, 2]


def test_a_game_goes_on_and_its_file_is_private(store: Store, tmp_path: Path) -> None:
    write(store, "Ann")
    begin_game(tmp_path, {"data": "elsewhere"})
    again = Store(tmp_path)
    assert again.about() == {"data": "here"}
    assert again.secret() == store.secret()
    assert len(again.secret()) == 32
    assert [sample.phrase for sample in again.samples()] == ["the dog"]
    assert stat.S_IMODE((tmp_path / FILE).stat().st_mode) == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.endswith(".part")) == []


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be looked at" * 9])
def test_what_is_no_game_is_named(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(RefsegError, match="no game here"):
        Store(tmp_path)
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(RefsegError, match=FILE):
        Store(tmp_path)


def test_a_game_cannot_begin_where_a_file_is(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RefsegError, match="file"):
        begin_game(tmp_path / "file", {})


# Starts a writer for each line that it reads, and tells its process id.
WRITERS = """
import os, sys
from pathlib import Path
from refseg_cli.annotate.rules import Answer
from refseg_cli.annotate.store import Store

def write(name):
    store = Store(Path(sys.argv[1]))
    print(os.getpid(), flush=True)
    for n in range(10**6):
        task = store.begin(name, ("train", n))
        sample = store.submit_sample(task.id, name, f"{name} {n}", {n}, {"kind": "own"})
        print("sample", sample, f"{name} {n}", flush=True)
        asked = store.next_sample("Vic of " + name, ["train"])
        found = {n} if n % 3 else ()
        store.submit_answer(asked.id, "Vic of " + name, Answer(frozenset(found)))
        print("answer", asked.sample, f"Vic of {name} {list(found)}", flush=True)

for line in sys.stdin:
    if os.fork() == 0:
        write(line.strip())
    os.wait()
    print("killed", flush=True)
"""
KILLS = 20


def test_a_killed_writer_loses_nothing_that_it_acknowledged(tmp_path: Path) -> None:
    """Twenty kill -9, each after another number of answers and in the middle of the next one."""
    begin_game(tmp_path, {})
    rng, told = Random(4), []
    words = [sys.executable, "-c", WRITERS, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as writers:
        assert writers.stdin is not None
        assert writers.stdout is not None
        for kill in range(KILLS):
            print(f"writer {kill}", file=writers.stdin, flush=True)
            writer = int(writers.stdout.readline())
            told += [writers.stdout.readline().split(maxsplit=2) for _ in range(rng.randint(1, 12))]
            os.kill(writer, signal.SIGKILL)
            while (line := writers.stdout.readline()) != "killed\n":  # what it acknowledged meanwhile
                told.append(line.split(maxsplit=2))
        writers.stdin.close()
    store = Store(tmp_path)
    assert store._rows("PRAGMA integrity_check")[0][0] == "ok"
    samples = {sample.id: sample for sample in store.samples()}
    assert len(told) > 2 * KILLS
    for what, number, more in told:
        sample = samples[int(number)]
        if what == "sample":
            assert sample.phrase == more.strip()
        else:
            assert more.strip() in {f"{judged.player} {sorted(judged.answer.targets)}" for judged in sample.answers}
    for sample in samples.values():
        assert sample.state is verdict(sample.targets, [judged.answer for judged in sample.answers])


def test_the_store_is_light_to_import() -> None:
    code = "import sys, refseg_cli.annotate.store; sys.exit(bool({'numpy', 'pyarrow', 'starlette'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], env={**os.environ}).returncode == 0


def test_several_processes_share_a_game(store: Store, tmp_path: Path) -> None:
    other = Store(tmp_path)
    write(store, "Ann")
    task = ask(other, "Vic")
    assert store.submit_answer(task.id, "Vic", Answer(frozenset({1}))) is State.ACCEPTED
    assert other.samples()[0].state is State.ACCEPTED


def test_imported_samples_stand_and_come_once(store: Store) -> None:
    write(store, "Ann", "the dog")
    rows = [("train", 7, "The dog", (1,), {"from": "x"}), ("train", 7, "nothing", (), {"annotator": "Eve"})]
    assert [store.add_imported(rows), store.add_imported(rows)] == [1, 0]
    added = store.samples()[-1]
    assert (added.state, added.author, added.imported) == (State.ACCEPTED, None, {"annotator": "Eve"})
    assert store.next_sample("Vic", ["train"]).sample == 1
    assert [sample.phrase for sample in store.latest_accepted("train", 5)] == ["nothing"]
