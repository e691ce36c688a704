"""The models of transformers that answer phrases without training here: found by name, opened by their config.json.

A name is `hf:ORG/NAME` on the hub, or a folder; two of them with a plus between are a detector of boxes and SAM 2.
Nothing here imports torch or transformers before a model is opened.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from refseg_cli import hub
from refseg_cli.errors import RefsegError, reason_of, unknown_name
from refseg_cli.files import parse_json, write
from refseg_cli.records import Thresholds

if TYPE_CHECKING:
    import torch

    from refseg_cli.segmenters.boxes import Detector
    from refseg_cli.segmenters.pretrained import Opening, Pretrained

AND = "+"
# By config.json's model_type. The released SAM 3 and SAM 2 say that they are the models for video, which hold these.
WHOLE = ("sam3", "sam3_video", "sam3_lite_text", "clipseg", "florence2")
DETECTORS = ("grounding-dino", "mm-grounding-dino", "owlv2")
MASKS = ("sam2", "sam2_video")
CALIBRATED = "refseg.json"  # in a folder of the user's own: the thresholds that `refseg calibrate` found for it


def is_zero_shot(name: str) -> bool:
    """Whether a name is of a model for `open_zero_shot`, rather than of one of refseg's; costs no torch.

    A name on the hub is looked up in its cache, and only then asked for: config.json alone.

    Raises:
        RefsegError: a name on the hub that cannot be looked up.
    """
    return len(_parts(name)) == 2 or "model_type" in _config(name)


def open_zero_shot(
    name: str, *, device: str = "auto", threshold: float | None = None, no_target_threshold: float | None = None
) -> Pretrained:
    """The segmenter of a name.

    Args:
        device: `auto`, `cpu`, `cuda`, `cuda:N` or `mps`.
        threshold, no_target_threshold: probabilities in [0, 1] in place of the family's, see `Thresholds`.

    Raises:
        RefsegError: no such model, none of these families, weights that are missing, or a package that is.
    """
    parts = _parts(name)
    kinds = [_kind(part) for part in parts]
    if len(parts) == 1:
        if kinds[0] in (*DETECTORS, *MASKS):
            raise _half(name, kinds[0])
    elif kinds[0] not in DETECTORS or kinds[1] not in MASKS:
        raise RefsegError(
            f"{name}: {kinds[0]} and {kinds[1]} do not go together",
            hint=f"first one of {', '.join(DETECTORS)}, then one of {MASKS[0]}",
        )
    folders = [hub.folder(part) if hub.is_hub_name(part) else Path(part).expanduser() for part in parts]
    own = _calibrated(folders[0])
    if own is not None:
        threshold = own.mask if threshold is None else threshold
        no_target_threshold = own.exists if no_target_threshold is None else no_target_threshold

    from refseg_cli.segmenters.pretrained import Opening

    signed = AND.join(part if hub.is_hub_name(part) else Path(part).expanduser().resolve().name for part in parts)
    opening = Opening(signed, folders[-1], device, threshold, no_target_threshold)
    if len(parts) == 1:
        return _whole(kinds[0], opening)
    from refseg_cli.segmenters.boxes import BoxPrompted
    from refseg_cli.segmenters.inference import pick_device

    detector = _detector(kinds[0], replace(opening, name=parts[0], folder=folders[0]), pick_device(device))
    return BoxPrompted(opening, detector)


def own_folder(name: str) -> Path:
    """The folder that keeps the calibrated thresholds of a model that does not lie on the hub: of two the first."""
    return Path(_parts(name)[0]).expanduser()


def store_thresholds(name: str, thresholds: Thresholds, *, info: Mapping[str, Any]) -> None:
    """Keep other thresholds beside a model, where `open_zero_shot` reads them; none of its own files is touched.

    info: where they come from, kept as `calibrated`.

    Raises:
        RefsegError: the folder cannot be written.
    """
    table = {"thresholds": asdict(thresholds), "calibrated": dict(info)}
    write(own_folder(name) / CALIBRATED, (json.dumps(table, indent=2) + "\n").encode())


def _whole(kind: str, opening: Opening) -> Pretrained:
    if kind == "clipseg":
        from refseg_cli.segmenters.clipseg import ClipSeg

        return ClipSeg(opening)
    if kind == "florence2":
        from refseg_cli.segmenters.florence2 import Florence2

        return Florence2(opening)
    if kind == "sam3_video":
        from refseg_cli.segmenters.sam3_video import Sam3Video

        return Sam3Video(opening)
    from transformers import Sam3LiteTextModel, Sam3Model

    from refseg_cli.segmenters.sam3 import Sam3

    return Sam3(opening, Sam3LiteTextModel if kind == "sam3_lite_text" else Sam3Model)


def _detector(kind: str, opening: Opening, device: torch.device) -> Detector:
    if kind == "owlv2":
        from refseg_cli.segmenters.owlv2 import Owlv2

        return Owlv2(opening, device)
    from transformers import GroundingDinoForObjectDetection, MMGroundingDinoForObjectDetection

    from refseg_cli.segmenters.grounding import Grounding

    models = {"grounding-dino": GroundingDinoForObjectDetection, "mm-grounding-dino": MMGroundingDinoForObjectDetection}
    return Grounding(opening, models[kind], device)


def _parts(name: str) -> list[str]:
    """One name or two. A plus inside a folder's own name stands for itself."""
    places = [] if Path(name).expanduser().is_dir() else [i for i, letter in enumerate(name) if letter == AND]
    for place in places:
        parts = [name[:place].strip(), name[place + 1 :].strip()]
        if all(hub.is_hub_name(part) or Path(part).expanduser().is_dir() for part in parts):
            return parts
    return [name]


def _config(name: str) -> Mapping[str, Any]:
    """What config.json says; nothing where there is none, or none that can be read."""
    path = hub.config_file(name) if hub.is_hub_name(name) else Path(name).expanduser() / hub.CONFIG
    try:
        table = parse_json(path.read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return table if isinstance(table, dict) else {}


def _kind(name: str) -> str:
    """The model_type, one that is known.

    Raises:
        RefsegError: it is another, or none.
    """
    kind = _config(name).get("model_type")
    if kind not in (*WHOLE, *DETECTORS, *MASKS):
        what = f"a model of type {kind!r}" if kind else f"no {hub.CONFIG} of transformers"
        hint = unknown_name("type", str(kind), (*WHOLE, *DETECTORS)).hint
        raise RefsegError(f"{name}: {what}, which refseg does not support", hint=hint)
    return str(kind)


def _half(name: str, kind: str) -> RefsegError:
    if kind in MASKS:
        return RefsegError(
            f"{name}: {kind} makes masks of boxes, and reads no phrases", hint=f"--model DETECTOR{AND}{name}"
        )
    return RefsegError(
        f"{name}: {kind} finds boxes, not masks", hint=f"--model {name}{AND}hf:facebook/sam2.1-hiera-tiny"
    )


def _calibrated(folder: Path) -> Thresholds | None:
    """What `refseg calibrate` stored beside the model, if it did."""
    from refseg_cli.config import build

    path = folder / CALIBRATED
    try:
        table = parse_json(path.read_text("utf-8"))
        return build(Thresholds, table["thresholds"], f"{path}: thresholds")
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise RefsegError(f"{path}: cannot read: {reason_of(error)}", hint="remove it, or calibrate again") from error
