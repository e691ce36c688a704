"""`refseg annotate`: the game that gRefCOCO was made with, its figures, and the way out and in."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from refseg_cli.commands._given import refuse_besides
from refseg_cli.commands._help import Commands
from refseg_cli.commands._options import Device, Json, Quiet, split_choices
from refseg_cli.console import console

if TYPE_CHECKING:
    from refseg_cli.annotate.hosting import Hosted

app = Commands(help="Collect phrases in a game of annotators and validators.")

Game = Annotated[Path, typer.Argument(metavar="DIR", help="Folder of the game, --out of 'refseg annotate serve'.")]
Moved = Annotated[
    str | None, typer.Option("--data", metavar="DIR|FILE", help="Where the game's data lies now, if it was moved.")
]
MovedImages = Annotated[
    Path | None, typer.Option("--images", metavar="DIR", help="With a COCO file in --data: the folder of its photos.")
]


@app.command("serve")
def serve(
    data: Annotated[
        str, typer.Option("--data", metavar="DIR|FILE", help="What 'refseg prepare' wrote, or a COCO file.")
    ],
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="DIR", help="Folder of the game; an existing game continues.")
    ],
    images: Annotated[
        Path | None, typer.Option("--images", metavar="DIR", help="With a COCO file: the folder of its photos.")
    ] = None,
    split: Annotated[
        str,
        typer.Option(
            "--split",
            metavar="NAMES",
            help="Splits to play with, comma-separated; all if not given. Of a COCO file: the one it is, or train.",
            autocompletion=split_choices,
        ),
    ] = "",
    players: Annotated[
        str,
        typer.Option(
            "--players",
            metavar="FILE|N",
            help="A file with a name on each line, and after a comma, if wanted, annotator or validator; or how many "
            "players without names.",
        ),
    ] = "3",
    host: Annotated[
        str, typer.Option("--host", metavar="ADDRESS", help="Address to listen on; 0.0.0.0 for every network.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Port to listen on; 0 for any free one.")
    ] = 8765,
    url: Annotated[
        str | None,
        typer.Option("--url", metavar="URL", help="Public address for the players' links, if it is a proxy's."),
    ] = None,
    suggest: Annotated[
        bool, typer.Option("--suggest", help="Offer annotators phrases that refseg generates from the objects.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            metavar="RUN",
            help="Show this model's answer to players after they have submitted theirs. As for 'refseg predict'.",
        ),
    ] = None,
    device: Device = "auto",
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Serve the game to browsers until Ctrl-C.

    Annotators choose objects in a picture and describe them; validators see picture and phrase and look for the
    objects. If both chose the same, the phrase is accepted; if a second validator also chose otherwise, it is
    discarded. Every answer is on disk before the player sees that it is saved.

    Prints a link for the host's dashboard and one for each player, to be sent to them. The links work after a restart
    too. There is no encryption: put a proxy with TLS in front of anything but this machine or a trusted network.

    \b
    Example:
      refseg prepare scenes --images 8 --out scenes
      refseg annotate serve --data scenes --split train --out game
    """
    from refseg_cli.annotate.hosting import ServeRequest, prepare_to_serve
    from refseg_cli.annotate.players import choose_players

    if model is None:
        refuse_besides("a game without --model", {"--device": device != "auto"})
    splits = tuple(dict.fromkeys(name.strip() for name in split.split(",") if name.strip()))
    request = ServeRequest(
        data, out, choose_players(players), images, splits, host, port, url, model, device, generate=suggest
    )
    hosted = prepare_to_serve(request)
    try:
        _tell(hosted, json)
        hosted.serve()
    except KeyboardInterrupt:
        console.info(f"stopped; the game is in {out}")


def _tell(hosted: Hosted, json: bool) -> None:
    """Print the links."""
    if json:
        links = [{"name": player.name, "role": player.role, "link": link} for player, link in hosted.links]
        console.json({"url": hosted.url, "dashboard": hosted.host_link, "players": links})
    else:
        rows = [("host", "dashboard", hosted.host_link)]
        rows += [(player.name, player.role, link) for player, link in hosted.links]
        console.table("Links", ["player", "role", "link"], rows, whole=["link"])
    console.info(f"{hosted.pictures} pictures, at {hosted.url}; Ctrl-C stops")


@app.command("status")
def status(
    game: Game, data: Moved = None, images: MovedImages = None, json: Json = False, quiet: Quiet = False
) -> None:
    """Show the figures of a game.

    Phrases by kind and state, agreement between players, time per phrase.

    Agreement is Cohen's kappa on whether each object of a picture is meant. May be used while the game is served.

    \b
    Example:
      refseg annotate status game
    """
    from refseg_cli.annotate.figures import tables
    from refseg_cli.annotate.hosting import look_at_game

    figures = look_at_game(game, data=data, images=images)
    if json:
        pairs = [
            {"players": list(names), **dataclasses.asdict(table), "kappa": table.kappa()}
            for names, table in figures.pairs.items()
        ]
        whole = {**dataclasses.asdict(figures.agreement), "kappa": figures.agreement.kappa()}
        told = {field.name: getattr(figures, field.name) for field in dataclasses.fields(figures)}
        console.json({**told, "agreement": whole, "pairs": pairs})
        return
    for table in tables(figures):
        console.table(table.title, table.columns, table.rows)


@app.command("export")
def export(
    game: Game,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="DIR", help="Folder for grefcoco/ and images/.")],
    data: Moved = None,
    images: MovedImages = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Write the accepted phrases in gRefCOCO's raw layout.

    Each with who wrote it and who found its objects.

    Writes OUT/grefcoco/grefs(unc).json, OUT/grefcoco/instances.json and the pictures in OUT/images. May be used while
    the game is served.

    \b
    Example:
      refseg annotate export game --out raw
      refseg prepare grefcoco --root raw --out prepared/game
    """
    from refseg_cli.annotate.hosting import export_game

    with console.progress() as progress:
        report = export_game(game, out, data=data, images=images, progress=progress)
    if json:
        console.json(report)
        return
    kinds = ("single", "multi", "no_target")
    rows = [(split, *(counts.get(kind, 0) for kind in kinds)) for split, counts in report.splits.items()]
    title = f"{report.out}: {report.expressions} expressions of {report.pictures} pictures"
    console.table(title, ["split", "single", "multi", "no target"], rows)


@app.command("import")
def import_(
    game: Game,
    root: Annotated[
        Path,
        typer.Option("--root", metavar="DIR", help="Folder with grefcoco/, as exported."),
    ],
    data: Moved = None,
    images: MovedImages = None,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Take the accepted phrases of an export into a game.

    They are told apart by picture and phrase, so importing twice adds nothing. Their pictures must be those of the
    game, with the same ids.

    \b
    Example:
      refseg annotate import game --root raw
    """
    from refseg_cli.annotate.hosting import import_into_game

    report = import_into_game(game, root, data=data, images=images)
    for problem in report.problems[:3]:
        console.warn(problem)
    if len(report.problems) > 3:
        console.warn(f"and {len(report.problems) - 3} more that could not be imported")
    if json:
        console.json(report)
    else:
        console.result(f"{report.added} phrases imported, {report.known} known already")
