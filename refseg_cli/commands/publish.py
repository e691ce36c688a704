"""`refseg publish`."""

from __future__ import annotations

from typing import Annotated

import typer

from refseg_cli.commands._options import Json, Model, Quiet
from refseg_cli.console import console


def publish(
    target: Annotated[str, typer.Argument(metavar="DIR", help="hf:ORG/NAME on the hub, or a new folder.")],
    model: Model = None,
    license: Annotated[
        str | None,
        typer.Option("--license", metavar="ID", help="Licence of the weights, as the hub writes it: apache-2.0."),
    ] = None,
    private: Annotated[bool, typer.Option("--private", help="Make a new model on the hub private.")] = False,
    json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Put a trained model on the Hugging Face hub, or into a folder to be copied there.

    Weights, config.json and tokenizer, with a model card of what the checkpoint knows of itself: training data, scores,
    thresholds, recipe. Training state stays at home. Every --model takes hf:ORG/NAME.

    \b
    Example:
      refseg publish --model runs/first hf:me/first
      refseg predict --model hf:me/first photo.jpg "two people on left"
      refseg publish --model runs/first first-to-share
    """
    from refseg_cli.engine.publish import publish

    found = publish(model, target, license=license, private=private)
    if json:
        console.json(found)
    else:
        console.result(f"{found.place}: {found.name}, {found.bytes / 1e6:.1f} MB")
