"""What `--model` names, opened: the one place that knows every kind of model. Imports each only when it is named.

| `--model` | segmenter |
|---|---|
| nothing, `photos`, `scenes` | a bundled model: on onnxruntime on a CPU, else on torch |
| an exported .onnx file, or a folder of split graphs | `onnx.OnnxSegmenter` |
| a checkpoint folder, a training run, `hf:ORG/NAME` with one | `trained.Predictor` |
| a folder or `hf:ORG/NAME` of transformers, `DETECTOR+SAM2` | see zero_shot.py |
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli.errors import RefsegError, Unread

if TYPE_CHECKING:
    from refseg_cli.checkpoint import Checkpoint
    from refseg_cli.segmenters.base import Segmenter
    from refseg_cli.segmenters.compiling import Compiling
    from refseg_cli.segmenters.precision import Wanted

USUAL = ("fp32", "auto")  # precisions that a model without others can be asked for


def open_segmenter(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    threshold: float | None = None,
    no_target_threshold: float | None = None,
    precision: Wanted = "fp32",
    memory: int | None = None,
    compile: Compiling | None = None,
    threads: int = 0,
    once: bool = False,
) -> Segmenter:
    """Whatever answers phrases under that name.

    Args:
        model: see the table above.
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`; an exported model runs on the CPU.
        threshold, no_target_threshold: probabilities in [0, 1] in place of the model's own.
        precision: of the arithmetic, see precision.py; a bundled model in 16 bits is on torch.
        memory: bytes that a pass through the network may take; None for the usual budget of passes.py.
        compile: let torch.compile make passes faster, and note there what that cost; None for not.
        threads: of one operator, with torch of the whole process; 0 for as many as the library takes by itself.
        once: it is asked about a picture or two, so that starting matters more than answering.

    Raises:
        RefsegError: no such model, device or compiler, a threshold that is no probability, or a model that onnxruntime
            or transformers runs, and it is to be compiled.
    """
    thresholds: dict[str, Any] = {"threshold": threshold, "no_target_threshold": no_target_threshold}
    if model is None or _is_bundled(model):
        exported = None if precision not in USUAL else _bundled_graph(model, device)
    else:
        exported = _exported(model)
        refuse_of_exported(model, precision=precision, compile=compile is not None)
    if exported is not None:
        from refseg_cli.segmenters.onnx import OnnxSegmenter

        if compile is not None:
            raise Unread("--compile: the bundled model runs on onnxruntime, which is faster", option="--compile")
        usual_device(model, device)
        return OnnxSegmenter(exported, threads=threads, once=once, memory=memory, **thresholds)
    if threads:
        import torch

        torch.set_num_threads(threads)
    from refseg_cli.segmenters.zero_shot import is_zero_shot, open_zero_shot

    if model is not None and is_zero_shot(str(model)):
        refuse_of_zero_shot(model, memory=memory, precision=precision, compile=compile is not None)
        return open_zero_shot(str(model), device=device, **thresholds)
    from refseg_cli.segmenters.trained import Predictor

    return Predictor(model, device=device, precision=precision, memory=memory, compile=compile, **thresholds)


def open_explaining(
    model: str | Path | None = None,
    *,
    device: str = "auto",
    threshold: float | None = None,
    no_target_threshold: float | None = None,
    precision: Wanted = "fp32",
    memory: int | None = None,
) -> Segmenter:
    """A model that can also show how it got to its answers, by `explain`: a checkpoint; or one that has no maps at all.

    Arguments as of `open_segmenter`.

    Raises:
        RefsegError: as `open_segmenter`, or an exported model, whose maps were left behind.
    """
    if is_exported(model):
        raise RefsegError(
            f"{model}: an exported model has no maps to show", hint="--explain needs the checkpoint that it was made of"
        )
    from refseg_cli.segmenters.trained import Predictor
    from refseg_cli.segmenters.zero_shot import is_zero_shot, open_zero_shot

    thresholds: dict[str, Any] = {"threshold": threshold, "no_target_threshold": no_target_threshold}
    if model is not None and is_zero_shot(str(model)):
        refuse_of_zero_shot(model, memory=memory, precision=precision)
        return open_zero_shot(str(model), device=device, **thresholds)
    return Predictor(model, device=device, precision=precision, memory=memory, **thresholds)


def refuse_of_zero_shot(model: str | Path, *, memory: int | None, precision: Wanted, compile: bool = False) -> None:
    """Options that models of transformers have no use for.

    Raises:
        Unread: one of them is given.
    """
    options = {"--memory": memory is not None, "--precision": precision not in USUAL, "--compile": compile}
    for name, given in options.items():
        if given:
            raise Unread(f"{model}: a zero-shot model has no use for {name}", option=name)


def open_checkpoint(model: str | Path | None, device: Any = "cpu", *, overrides: Sequence[str] = ()) -> Checkpoint:
    """A model between tensors, for evaluation and timing: a checkpoint, or an exported graph as its module.

    device: of the checkpoint's model; an exported one is on the CPU, see `usual_device`.

    Raises:
        RefsegError: as `checkpoint.load`, or overrides of an exported model.
    """
    from refseg_cli import checkpoint

    exported = None if model is None else _exported(model)
    if exported is None:
        return checkpoint.load(model, device, overrides=overrides)
    if overrides:
        raise unchangeable(model)
    from refseg_cli.segmenters.graph_module import load_module

    return load_module(exported)


def unchangeable(model: str | Path | None) -> Unread:
    """Overrides of a recipe that is frozen in a graph."""
    said = f"{model}: --set cannot change an exported model"
    return Unread(said, option="--set", hint="change the checkpoint and export it")


def refuse_of_exported(model: str | Path | None, *, precision: Wanted, compile: bool) -> None:
    """Options that an export has no use for: its precision is its own, and it was compiled when it was made.

    Raises:
        Unread: it is one, and one of them is given.
    """
    if precision not in USUAL and is_exported(model):
        raise Unread(f"{model}: an exported model has its own precision", option="--precision")
    if compile and is_exported(model):
        raise Unread(f"{model}: an exported model cannot be compiled", option="--compile")


def is_exported(model: str | Path | None) -> bool:
    """Whether `--model` names what `refseg export` writes."""
    return model is not None and _exported(model) is not None


def usual_device(model: str | Path | None, device: str) -> str:
    """The device that `auto` is for this model: the CPU for an exported one.

    Raises:
        Unread: an exported model and another device.
    """
    if not is_exported(model):
        return device
    if device not in ("auto", "cpu"):
        raise Unread(f"{model}: an exported model runs on the CPU, not on {device}", option="--device")
    return "cpu"


def _exported(model: str | Path) -> Path | None:
    """The file or folder, if it is one that `refseg export` writes."""
    path = Path(model).expanduser()
    return path if path.suffix == ".onnx" or (path / "phrase.onnx").is_file() else None


def _is_bundled(model: str | Path) -> bool:
    """Whether it names a bundled model, and no checkpoint of that name is there."""
    from refseg_cli import checkpoint

    return model in checkpoint.BUNDLED and checkpoint.resolve(model).parent == checkpoint.BUNDLE


def _bundled_graph(model: str | Path | None, device: str) -> Path | None:
    """The folder of a bundled model, if onnxruntime is to run it."""
    from refseg_cli import checkpoint

    folder = checkpoint.resolve(model)
    wanted = device in ("auto", "cpu") and (folder / "model.onnx").is_file()
    return folder if wanted and find_spec("onnxruntime") is not None else None
