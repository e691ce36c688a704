"""docs/own-data.md from beginning to end: its files, its commands as they stand there, and what it says they print.

The pictures are made, and the small model for scenes stands in for the one for photographs.
"""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
import yard

from refseg_cli import checkpoint
from refseg_cli.app import main
from refseg_cli.errors import FOUND, NO_TARGET

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs/own-data.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
PICTURES = 20
SMALLER = {'base = "vlt-photos"': 'base = "vlt-tiny"', "epochs = 10": "epochs = 1", "--init photos": "--init scenes"}
SMALLER |= {"--model photos": "--model scenes", "[train]": "[data]\nsize = [64, 64]\n\n[train]"}


def smaller(text: str) -> str:
    for as_written, instead in SMALLER.items():
        text = text.replace(as_written, instead)
    return text


def of_kind(kind: str) -> list[str]:
    return [text for found, text in BLOCKS if found == kind]


def test_the_page_from_beginning_to_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    yard.make(tmp_path, pictures=PICTURES)
    yard.make(tmp_path / "new", pictures=1)
    shutil.copy("new/photos/yard_001.jpg", "new.jpg")
    ((table,), (recipe,)) = of_kind("csv"), of_kind("toml")
    assert Path("phrases.csv").read_text("utf-8").startswith(table)
    assert all(as_written in PAGE for as_written in SMALLER)
    Path("mine.toml").write_text(smaller(recipe), "utf-8")
    printed = {}
    for command in "".join(of_kind("sh")).splitlines():
        program, *arguments = shlex.split(smaller(command))
        assert program == "refseg"
        status = main(arguments)
        printed[command] = capsys.readouterr()
        allowed = (FOUND, NO_TARGET) if arguments[0] == "predict" else (FOUND,)
        assert status in allowed, f"{command}\n{printed[command].err}"
    for shown in of_kind(""):
        assert shown in [said.out for said in printed.values()]
    for name in ("mine", "made"):
        assert Path(name, "_preview.html").stat().st_size > 10_000
    assert Path("report.html").stat().st_size > 10_000
    assert "the model does not know 'forklift'" in next(s.err for c, s in printed.items() if "forklift" in c)
    assert len(list(Path("found").iterdir())) == 2
    for run in ("mine", "made", "both"):
        assert checkpoint.load(f"runs/{run}").tokenizer.read("the crate on the left a cone").unknown == ()


def test_links_lead_somewhere() -> None:
    for name, anchor in re.findall(r"\]\(([\w.-]*)#([\w-]+)\)", PAGE):
        text = (ROOT / "docs" / (name or "own-data.md")).read_text("utf-8")
        headings = [re.sub(r"[^\w -]", "", line.lstrip("# ")).lower() for line in text.splitlines() if line[:1] == "#"]
        assert anchor in [heading.replace(" ", "-") for heading in headings], (name, anchor)
