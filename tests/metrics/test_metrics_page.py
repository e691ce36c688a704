"""docs/metrics.md: the figures of its example, and its table of rules against the protocols themselves."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from refseg_cli.metrics.counts import Counts
from refseg_cli.metrics.instance_protocols import BOXES_AND_INSTANCES
from refseg_cli.metrics.protocols import PROTOCOLS
from refseg_cli.metrics.rules import Protocol
from refseg_cli.metrics.scores import scores

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
MASKS = {
    (None, False): ("checkpoint's",),
    (0.5, False): ("> 0.5", "argmax"),  # one rule, as the official code words it
    (0.5, True): ("≥ 0.5",),
    (0.35, False): ("> 0.35",),
}
SMOOTHINGS = {
    (0.0, 0.0): "I/U",
    (0.0, 1e-6): "I/(U + 1e-6)",
    (0.0, 1e-5): "I/(U + 1e-5)",
    (0.0, 1e-8): "I/(U + 1e-8)",
    (1e-10, 1e-10): "(I + 1e-10)/(U + 1e-10)",
}


def table(first: str) -> list[list[str]]:
    """The cells of the table whose header begins so, row by row, without code marks."""
    found = re.search(rf"^\| {re.escape(first)}.*\n\|[-:| ]+\|\n((?:\|.*\n)+)", PAGE.read_text("utf-8"), re.MULTILINE)
    assert found, first
    return [[cell.strip(" `") for cell in line.strip("|").split("|")] for line in found[1].splitlines()]


def rules() -> dict[str, list[str]]:
    """Protocol -> its row; what is "as" another protocol's is that one's."""
    rows: dict[str, list[str]] = {}
    for names, *cells in table("protocol | masks compared at"):
        for name in re.findall(r"[\w-]+", names):
            told = list(cells)
            for i, cell in enumerate(cells):
                if (other := re.fullmatch(r"as `?([\w-]+)`?(.*)", cell)) and other[1] in rows:
                    told[i] = rows[other[1]][i] + other[2]
            rows[name] = told
    return rows


def test_the_example_has_the_scores_that_stand_there():
    rows = table("expression | G")
    target, predicted, shared, union = ([int(row[i]) for row in rows] for i in (1, 2, 3, 4))
    there = ["not there" not in row[0] for row in rows]
    counts = Counts(shared, predicted, target, there, [True] * len(rows))
    assert counts.union.tolist() == union
    found = scores(counts).table()
    for name, _, percent in table("metric | |"):
        assert f"{found[name]:.2f}" == percent, name


def test_the_table_of_rules_has_every_protocol_of_pixels():
    ours = set(PROTOCOLS) - {protocol.name for protocol in BOXES_AND_INSTANCES}
    assert set(rules()) == ours - {"thesis-50pix"}  # named below the table


@pytest.mark.parametrize("name", sorted(rules()))
def test_a_row_of_rules_is_the_protocols(name: str):
    protocol: Protocol = PROTOCOLS[name]
    size, mask, iou, empty, _, absence, precision, metrics = rules()[name]
    assert size.startswith("network input" if protocol.grid.size == "input" else "original size")
    assert mask in MASKS[protocol.threshold, protocol.ties]
    assert iou == SMOOTHINGS[protocol.smoothing]
    assert empty == ("–" if protocol.absence.truth == "pixels" else f"{protocol.empty:g}")
    told = protocol.absence
    assert ("unknown" in absence) == (told.rule == "unknown")
    assert ("50 pixels" in absence) == (told.pixels == 50)
    assert ("head < 0.5" in absence) == (told.exists == 0.5 and told.head)
    asked = [metric for metric in protocol.metrics if metric.kind == "precision"]
    assert precision.startswith(">" if protocol.strict else "≥") if asked else precision == "–"
    assert not asked or asked[0].name.removeprefix("Pr@0") in precision
    named = {word.removesuffix(" (a mean)") for word in metrics.split(", ")}
    assert named == {metric.name for metric in protocol.metrics if metric.kind != "precision"}


def test_the_table_of_boxes_and_instances_has_all_of_them():
    named = {row[0]: row[-1] for row in table("protocol | what is compared")}
    assert named == {p.name: ", ".join(metric.name for metric in p.metrics) for p in BOXES_AND_INSTANCES}
