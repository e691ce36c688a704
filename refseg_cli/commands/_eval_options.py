"""What `refseg eval` may be told."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from refseg_cli.commands._options import split_choices

# What answers

Settings = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="KEY=VALUE", help="Override a value of the model's recipe, e.g. model.oracle=mask; repeatable."
    ),
]
Splits = Annotated[
    str,
    typer.Option("--split", metavar="NAMES", help="Splits, comma-separated.", autocompletion=split_choices),
]
Limit = Annotated[int, typer.Option("--limit", metavar="N", min=0, help="Images to score in each split; 0 for all.")]
Calibrate = Annotated[
    str | None,
    typer.Option(
        "--calibrate",
        metavar="SPLIT",
        help="Calibrate the thresholds on this split first, as 'refseg calibrate' does.",
        autocompletion=split_choices,
    ),
]

OTHERS = "Predictions from a file"
Source = Annotated[
    str | None,
    typer.Option(
        "--from",
        metavar="FILE",
        help="Score predictions: JSON lines, COCO results, records, PNGs of clips, or what projects write (see "
        "docs/protocols.md).",
        rich_help_panel=OTHERS,
    ),
]
OnError = Annotated[
    Literal["fail", "skip"],
    typer.Option(
        "--on-error",
        help="What to do with missing or invalid predictions: `fail`, or `skip` them and score the rest.",
        rich_help_panel=OTHERS,
    ),
]

Merge = Annotated[
    Literal["union"] | None,
    typer.Option(
        "--merge",
        help="Combine all entries for the same phrase, e.g. one per instance, into one mask.",
        rich_help_panel=OTHERS,
    ),
]

# What else is asked and shown

BEYOND = "More output"
Slices = Annotated[
    bool,
    typer.Option(
        "--slices",
        help="Also score by number of targets, by words and by category, under protocol refseg, of clips under video.",
        rich_help_panel=BEYOND,
    ),
]
Curves = Annotated[
    bool,
    typer.Option(
        "--curves",
        help="Also score at other thresholds and check the no-target head's calibration, under protocol refseg.",
        rich_help_panel=BEYOND,
    ),
]
Page = Annotated[
    str | None,
    typer.Option(
        "--report",
        metavar="FILE",
        help="Write an HTML page to browse: tables, curves, slices and every sample.",
        rich_help_panel=BEYOND,
    ),
]
Records = Annotated[
    str | None,
    typer.Option(
        "--records",
        metavar="FILE",
        help="Write every answer to a Parquet file, to score again or compare.",
        rich_help_panel=BEYOND,
    ),
]
TrainedOn = Annotated[
    str | None,
    typer.Option(
        "--trained-on",
        metavar="DIR",
        help="Prepared training data, to check for images shared with the test split.",
        rich_help_panel=BEYOND,
    ),
]

Submission = Annotated[
    Path | None,
    typer.Option(
        "--submission",
        metavar="DIR|FILE.zip",
        help="Write the masks of clips as benchmarks' servers take them: a PNG for each frame of each phrase.",
        rich_help_panel=BEYOND,
    ),
]
Palette = Annotated[
    bool,
    typer.Option(
        "--palette",
        help="With --submission: PNGs of 0 and 1 with DAVIS' colours, not 0 and 255.",
        rich_help_panel=BEYOND,
    ),
]

LANGUAGE = "Use of language"
Words = Literal["random", "attended"]
MaskWords = Annotated[
    Words | None,
    typer.Option("--mask-words", help="Evaluate again with words removed from every phrase.", rich_help_panel=LANGUAGE),
]
MaskCount = Annotated[
    int,
    typer.Option(
        "--mask-count",
        metavar="N",
        min=1,
        help="Number of words to remove; at least one stays.",
        rich_help_panel=LANGUAGE,
    ),
]
Sanity = Literal["shuffled-phrases", "wrong-image"]
AskSanity = Annotated[
    Sanity | None,
    typer.Option(
        "--sanity",
        help="Evaluate again with phrases shuffled between images, or on the wrong image.",
        rich_help_panel=LANGUAGE,
    ),
]
