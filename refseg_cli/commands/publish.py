"""`refseg publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from refseg_cli.commands._given import refuse_besides
from refseg_cli.commands._options import Json, Model, Quiet
from refseg_cli.console import console


def publish(
    target: Annotated[str, typer.Argument(metavar="DIR", help="hf:ORG/NAME on the hub, or a new folder.")],
    model: Model = None,
    license: Annotated[
        str | None,
        typer.Option(
            "--license", metavar="ID", help="Licence of the weights, by the hub's identifier, e.g. apache-2.0."
        ),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make the repository private, if it is new.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Upload a trained model to the Hugging Face hub.

    Or write the same files to a new folder: weights, config.json, tokenizer, and a model card with training data,
    scores, thresholds and recipe. The training state is left out. Every --model takes hf:ORG/NAME.

    \b
    Example:
      refseg publish --model runs/first hf:me/first
      refseg predict --model hf:me/first photo.jpg "two people on left"
      refseg publish --model runs/first first-to-share
    """
    from refseg_cli.engine.publish import publish
    from refseg_cli.hub import is_hub_name

    if not is_hub_name(target):
        refuse_besides("a folder", {"--private": private})
    found = publish(model, target, license=license, private=private)
    if json:
        console.json(found)
    else:
        console.result(f"{found.place}: {found.name}, {found.bytes / 1e6:.1f} MB")
