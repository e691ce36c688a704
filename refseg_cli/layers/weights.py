"""Weight files of strangers: where they are, and the tensors in them. No code of theirs is run.

A file is read with `weights_only=True` or as safetensors, never otherwise. Users: engine/importing.py for whole models,
vision.py and video_swin.py for backbones.
"""

from __future__ import annotations

import argparse
import re
import struct
from collections.abc import Mapping
from importlib import metadata
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import numpy as np
import torch
from torch import Tensor

from refseg_cli.errors import RefsegError

# Where trainers put the state dict: LAVT, ReLA and detectron2; CRIS and ASDA; CGFormer.
NESTS = ("model", "state_dict", "model_state_dict")
TEXT_NEST = "bert_model"  # LAVT's two-module layout has its text encoder beside `model`
HDF5 = b"\x89HDF\r\n\x1a\n"
ENDINGS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar")

# What torch's reader raises on damaged files: the older of its two formats is unpickled before anything is checked.
DAMAGED = (
    UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    AssertionError,
    ArithmeticError,
    MemoryError,
    struct.error,
)


def find_weights(source: str) -> Path:
    """The weight file that `source` names: its path, or the one in an installed package of that name.

    A package is not imported, only asked for the list of its files.

    Raises:
        RefsegError: neither is there, or the package holds no weight file, or several.
    """
    path = Path(source).expanduser()
    if path.is_file() or path.suffix in ENDINGS or len(path.parts) > 1:
        return path  # reading says what is wrong with it
    try:
        files = metadata.distribution(source).files or []
    except (metadata.PackageNotFoundError, ValueError) as error:
        raise RefsegError(
            f"{source}: neither a file nor an installed package", hint=f"give a file, or: pip install {source}"
        ) from error
    found = [Path(str(file.locate())) for file in files if file.suffix in ENDINGS]
    if len(found) != 1:
        raise RefsegError(f"package {source}: {len(found)} weight files in it, one expected", hint="give a file")
    return found[0]


def read_weights(path: Path) -> dict[str, Tensor]:
    """The state dict in a file, under its official names without `module.`.

    Raises:
        RefsegError: no such file, one that would have to be trusted, or one without a state dict.
    """
    if not path.is_file():
        raise RefsegError(f"{path}: is a folder, not a file" if path.is_dir() else f"{path}: no such file")
    with path.open("rb") as file:
        start = file.read(len(HDF5))
    if start == HDF5:
        raise RefsegError(
            f"{path}: a Keras file (HDF5); the weights of PyTorch are read",
            hint="VLT's official weights are of Keras, of another graph than the paper's, and cannot be imported",
        )
    content = _read_safetensors(path) if path.suffix == ".safetensors" else _read_torch(path)
    return state_dict(content, path)


def _read_safetensors(path: Path) -> Mapping[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        raise RefsegError(f"{path}: not a safetensors file: {error}") from error


def _read_torch(path: Path) -> Any:
    try:
        with torch.serialization.safe_globals(harmless_globals()):
            return torch.load(path, map_location="cpu", weights_only=True)
    except DAMAGED as error:
        asked = re.search(r"GLOBAL ([\w.]*\w) ", str(error))  # a cut file may end within a name
        if asked is None:
            raise RefsegError(f"{path}: not a PyTorch checkpoint, or a damaged one") from error
        raise RefsegError(
            f"{path}: refused, as it asks for {asked[1]}, which might run code",
            hint="where you trust its source, write the state dict alone as .safetensors and import that",
        ) from error


def harmless_globals() -> list[Any]:
    """What official files hold besides tensors: LAVT its arguments, ASDA its best IoU as a numpy scalar.

    None of them runs anything: a bag of attributes, a number and its type. numpy 1 has other names for the second.
    """
    scalar = np.float64(0).__reduce__()[0]
    kinds = [type(np.dtype(name)) for name in ("float64", "float32", "int64", "bool")]
    return [
        argparse.Namespace,
        scalar,
        (scalar, "numpy.core.multiarray.scalar"),
        np.dtype,
        *kinds,
    ]


def state_dict(content: Any, path: Path) -> dict[str, Tensor]:
    """The tensors by their official names in whatever a trainer wrote around them.

    Raises:
        RefsegError: none, several of one name, or something that is no tensor among them.
    """
    if not isinstance(content, Mapping):
        raise RefsegError(f"{path}: no state dict in it, but a {type(content).__name__}")
    nested = next((content[key] for key in NESTS if isinstance(content.get(key), Mapping)), content)
    text = content.get(TEXT_NEST, {})
    weights: dict[str, Tensor] = {}
    for key, value in [*nested.items(), *(text.items() if isinstance(text, Mapping) else ())]:
        name = str(key).removeprefix("module.")
        if not isinstance(value, Tensor):
            raise RefsegError(
                f"{path}: {key!r} is not a tensor but of type {type(value).__name__}",
                hint=f"expected a state dict, at the top or under one of: {', '.join(NESTS)}",
            )
        if name in weights:
            raise RefsegError(f"{path}: two tensors are called {name!r}")
        weights[name] = value
    if not weights:
        raise RefsegError(f"{path}: no tensors in it")
    return weights
