"""docs/files.md against what is really written: every key is on the page with its type, and nothing else is."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import clips
import pyarrow.parquet as pq
import pytest
import yard

from refseg_cli.app import main
from refseg_cli.console import json_line
from refseg_cli.engine.importing import ImportReport, Part
from refseg_cli.engine.train import TrainResult
from refseg_cli.records import Thresholds

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/files.md").read_text("utf-8")
SECTIONS = {part.partition("\n")[0]: part for part in PAGE.split("\n## ")[1:]}
TYPES = {str: "string", bool: "boolean", int: "integer", float: "number", type(None): "null"}
NAME = re.compile(r"\b[A-Z]+\b")  # stands for any name


def documented(section: str) -> dict[str, set[str]]:
    """Types by key, of a section's table."""
    rows = re.findall(r"^\| `([^`]+)` \| ([^|]+?) \|", SECTIONS[section], re.MULTILINE)
    return {key: set(types.split(" or ")) for key, types in rows}


def written(value: Any, path: str = "") -> Iterator[tuple[str, str]]:
    """Path and type of everything in a value of JSON."""
    if isinstance(value, dict):
        yield path, "object"
        for name, inside in value.items():
            yield from written(inside, f"{path}.{name}" if path else name)
    elif isinstance(value, list):
        yield path, "list"
        for inside in value:
            yield from written(inside, f"{path}[]")
    else:
        yield path, TYPES[type(value)]


def differences(section: str, values: list[Any]) -> list[str]:
    """What the page says and files do not, and the other way round."""
    page = documented(section)
    patterns = {key: re.compile(NAME.sub("[^\0]+?", re.escape(key))) for key in page}
    said, seen = set(), set()
    for path, kind in {pair for value in values for pair in written(value)}:
        exact = [key for key in page if key == path]
        keys = exact or [key for key, pattern in patterns.items() if pattern.fullmatch(path)]
        if kind in ("object", "list"):  # such a name has dots in it, or goes on
            keys = [key for key in keys if "object" in page[key]]
        if keys:
            seen.update(keys)
            allowed = set().union(*(page[key] for key in keys))
            allowed |= {"integer"} if "number" in allowed else set()
            if not allowed & {kind, "any"}:
                said.add(f"{path}: {kind} in the file, {' or '.join(allowed)} on the page")
        elif kind not in ("object", "list"):
            inside = [key for key in page if "object" in page[key] and re.match(patterns[key].pattern + r"[.\[]", path)]
            said.update(() if inside else [f"{path}: {kind} in the file, and not on the page"])
        else:  # an empty one is not to be told from one whose keys did not come up
            seen.update(key for key in page if value_of(values, path) in ([], {}) and begins(key, path))
    return sorted(said) + [f"{key}: on the page, and in no file" for key in page if key not in seen]


def begins(key: str, path: str) -> bool:
    pairs = list(zip(key.split("."), path.split("."), strict=False))
    return len(pairs) == path.count(".") + 1 and all(
        named.rstrip("[]") == name or NAME.fullmatch(named) for named, name in pairs
    )


def value_of(values: list[Any], path: str) -> Any:
    """The value at a path, as far as it goes by names alone; None elsewhere."""
    found = values[0]
    for name in path.split("."):
        found = found.get(name) if isinstance(found, dict) else None
    return found


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory, scenes: Path, run: Path) -> dict[str, list[Any]]:
    """By section: what commands print and write, as it is read back."""
    folder = tmp_path_factory.mktemp("files")
    model = folder / "model"
    assert main(["-q", "publish", "--model", str(run), str(model)]) == 0
    data, device = ["--data", str(scenes)], ["--device", "cpu"]
    answers = str(folder / "answers.parquet")
    yard.make(folder, pictures=2)
    own = ["--annotations", str(folder / "instances.json"), "--images", str(folder / "photos")]
    own += ["--phrases", str(folder / "phrases.csv"), "--workers", "1"]
    (folder / "photos/yard_002.jpg").write_bytes(b"no picture")
    out = str(folder / "own")
    calls = {
        "predict --json": ["predict", str(ROOT / "refseg_cli/bundled/demo/cat.jpg"), "the cat"],
        "predict --data --json": [
            *("predict", *data, "--split", "testA", "--model", str(run), "--no-target-ok"),
            *("-o", str(folder / "bulk"), *device),
        ],
        "eval --json": ["eval", *data, "--model", str(run), "--records", answers, "--slices", "--curves", *device],
        "compare --json": ["compare", answers, answers],
        "calibrate --json": ["calibrate", *data, "--model", str(model), *device],
        "prepare --json": ["prepare", "coco", *own, "--on-error", "skip", "--out", out],
        "prepare check --json": ["prepare", "check", out],
        "bench --json": ["bench", "--model", str(run), "--batch-sizes", "1", "--repeat", "1", "--warmup", "0", *device],
        "export --json": ["export", "--model", str(run), "--format", "pt2", "-o", str(folder / "model.pt2")],
        "publish --json": ["publish", "--model", str(run), str(folder / "published")],
        "recipes list --json": ["recipes", "list", "--arch", "vlt"],
        "config show --json": ["config", "show", "train"],
    }
    still = clips.write_animation(folder / "still.gif", clips.pictures(1))
    found = {section: [_json(arguments)] for section, arguments in calls.items()}
    found["bench --json"].append(_json([*calls["bench --json"], "--stage", "train"]))
    found["predict --json"].append(_json(["predict", str(still), "a car", "--clip", "--no-target-ok"]))
    return found | {
        "A run's metrics.jsonl": list(map(json.loads, (run / "metrics.jsonl").read_text().splitlines())),
        "A checkpoint's config.json": [json.loads((run / "best/config.json").read_text())],
        "Prepared data: _manifest.json": [json.loads((scenes / "_manifest.json").read_text())],
        "Prepared data: _problems.jsonl": list(map(json.loads, Path(out, "_problems.jsonl").read_text().splitlines())),
        "Answers to prepared data: _answers.json": [json.loads((folder / "bulk/_answers.json").read_text())],
        "train --json": [json.loads(json_line(TrainResult(run, 1, 1, 2.5, "finished", {"gIoU": 2.5})))],
        "import --json": [
            json.loads(
                json_line(
                    ImportReport(run, run, "vlt", (Part("text", 1, 2),), {"a": "b"}, {"dim": 1}, Thresholds(), ("c",))
                )
            )
        ],
    }


def _json(arguments: list[str]) -> Any:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()) as printed:
        status = main([*arguments, "--json"])
    assert status == 0, arguments
    return json.loads(printed.getvalue())


@pytest.mark.parametrize("section", [name for name in SECTIONS if name not in ("eval --records", "What is read")])
def test_every_key_is_on_the_page(section: str, results: dict[str, list[Any]]) -> None:
    found = differences(section, results[section])
    assert not found, "\n".join(found)


def test_every_column_of_the_records_is_on_the_page(scenes: Path, run: Path, tmp_path: Path) -> None:
    file = tmp_path / "answers.parquet"
    args = ["--data", str(scenes), "--model", str(run), "--records", str(file), "--limit", "1", "--device", "cpu"]
    assert main(["-q", "eval", *args]) == 0
    columns = {field.name: {re.match(r"\w+", str(field.type))[0]} for field in pq.read_schema(file)}  # type: ignore[index]
    assert documented("eval --records") == columns


def test_columns_of_the_shards_are_on_their_page(scenes: Path) -> None:
    section = (ROOT / "docs/data.md").read_text("utf-8").partition("\n## Shards")[2].partition("\n## ")[0]
    named = {
        name for cells in re.findall(r"^\| (`.*?`) \|", section, re.MULTILINE) for name in re.findall(r"`(\w+)`", cells)
    }
    assert named == set(pq.read_schema(next(scenes.glob("val-*.parquet"))).names)


def test_a_difference_is_found() -> None:
    said = differences("publish --json", [{"place": 1, "name": "a", "more": None}])
    assert said == [
        "more: null in the file, and not on the page",
        "place: integer in the file, string on the page",
        "bytes: on the page, and in no file",
    ]
