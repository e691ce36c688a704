"""Golden outputs of the official models: weights from a rule, inputs from a formula, and how to compare with them.

The goldens lie in ../shared/goldens, beside a working copy; the READMEs there say where they come from and give the
rules, which this file follows. A test uses it like this, in float64:

    weights = official_fill("lavt_swin-t")                 # under the official names
    load_official(model.double(), weights, OFFICIAL_KEYS)
    batch = inputs("lavt_swin-t_160x224")
    compare_all("lavt_swin-t_160x224", {"text": ..., "blocks1": ..., ...})
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from refseg_cli.layers.keymap import Rule, rename
from refseg_cli.records import Batch

GOLDENS = Path(__file__).resolve().parents[3] / "shared" / "goldens"

# Of a full tensor's standard deviation, in float64: storage in float32 uses up to 5e-7 of it, float32 tables of the
# official code up to 3e-7.
TOLERANCE = 1e-6


@dataclass(frozen=True, slots=True)
class Factor:
    """Tensors whose official name `pattern` is found in are multiplied by `times`; matrices: only those of rule d."""

    pattern: str
    times: float
    matrices: bool = True


@dataclass(frozen=True, slots=True)
class Fill:
    """How a model's tensors are filled.  gain: of rule d.  factors: all that match apply."""

    gain: float
    factors: tuple[Factor, ...] = ()


LAVT_FACTORS = (Factor(r"image_lang_att", 3), Factor(r"res_gate", 4, matrices=False))

FILLS = {
    "lavt": Fill(0.5, LAVT_FACTORS),
    "rela": Fill(
        0.5,
        (
            *LAVT_FACTORS,
            Factor(r"query_feat|query_embed|level_embed", 2, matrices=False),
            Factor(r"minimap_embed", 0.1, matrices=False),
            Factor(r"mask_embed", 4),
            Factor(r"mask_features", 0.03, matrices=False),
            Factor(r"sampling_offsets\.weight$", 0.3, matrices=False),
            Factor(r"sampling_offsets\.bias$", 40, matrices=False),
        ),
    ),
    "cris": Fill(1.0),
    "cgformer": Fill(
        0.5,
        (
            Factor(r"pwam_fusion\.", 3),
            Factor(r"\.f_key\.", 4),
            Factor(r"\.pwam_gate\.", 2),
            Factor(r"\.attention\.self\.(query|key)\.", 2),
            Factor(r"^decoder\.fuses\.", 3),
            Factor(r"positional_embedding", 1.5),
            Factor(r"\.cross_attn\.", 3),
            Factor(r"^decoder\..*\.mlp\.", 2.5),
            Factor(r"^decoder\.cgattention\d\.(v_proj|proj)\.", 2),
            Factor(r"^decoder\.proj\.vis\.", 3),
            Factor(r"^decoder\.proj\.txt\.", 2),
        ),
    ),
    "caris": Fill(
        0.5,
        (
            Factor(r"\.attention\.self\.(query|key)\.", 2),
            Factor(r"conditional_prompts\.(in|out)_linears\.", 5),
            Factor(r"lang_prompts\.weight$", 30, matrices=False),
            Factor(r"(level_encoding|vis_prompts)\.weight$", 32, matrices=False),
            Factor(r"\.gamma_(v2l|l2v)$", 16, matrices=False),
            Factor(r"_attn\.(q_proj|k_proj)\.", 3),
            Factor(r"_attn\.(v_proj|out_proj)\.", 2),
            Factor(r"(vis|lang)_mlp\.", 2),
            Factor(r"attention_weights\.weight$", 3, matrices=False),
            Factor(r"sampling_offsets\.weight$", 1.5, matrices=False),
            Factor(r"sampling_offsets\.bias$", 40, matrices=False),
            Factor(r"lang_in_linear\.", 2),
            Factor(r"(mask_feature|lang_embed)\.", 2),
        ),
    ),
    "deris": Fill(
        0.5,
        (
            Factor(r"beit3\.(text_embed|.*(embed_positions|cls_token))", 2, matrices=False),
            Factor(r"beit3\..*\.(q|k)_proj\.", 4),
            Factor(r"beit3\..*\.(v_proj|out_proj|fc1|fc2)\.", 2),
            Factor(r"(init_query|query_embed)\.weight$", 20, matrices=False),
            Factor(r"level_embed", 20, matrices=False),
            Factor(r"attention_weights\.weight$", 3, matrices=False),
            Factor(r"sampling_offsets\.weight$", 1.5, matrices=False),
            Factor(r"sampling_offsets\.bias$", 40, matrices=False),
            Factor(r"mask_embed\.", 1.5),
            Factor(r"(vis_embed|channel_proj_conv|refer_proj)\.", 3),
            Factor(r"(multihead_attn|self_attn|attn)\.in_proj", 2),
            Factor(r"Q2TCA\..*cross_attn\.[qkv]\.", 3),
            Factor(r"SEG_cls", 8, matrices=False),
            Factor(r"roialigner\..*(in_proj|out_proj|ffns)", 3),
        ),
    ),
    "asda": Fill(
        0.5,
        (
            Factor(r"^visumodel\..*resblocks", 2),
            Factor(r"^textmodel\..*resblocks", 4),
            Factor(r"^vis_select\.", 2),
            Factor(r"^fusion\.", 3),
            Factor(r"^fpn\.", 3),
            Factor(r"^fc_2\.", 2),
            Factor(r"^encoder\..*(linear|out_proj)", 2),
            Factor(r"^mask_decoder\.", 3),
            Factor(r"^lang_tf_enc\.", 3),
            Factor(r"^proj[123]\.", 3),
        ),
    ),
}

# Rule d-emb: learned tables, which are not multiplied by anything.
TABLES = (
    "embeddings.",
    "token_embedding",
    "query_feat",
    "query_embed",
    "level_embed",
    "positional_embedding",
    "pos_embed",
    "tokens.weight",
    "class_embedding",
)

# Rule e-kept: what these vectors and scalars are when the official model is constructed, where that is not zero.
CONSTRUCTED = {"tau": 1.0, "logit_scale": math.log(1 / 0.07)}


def official_fill(name: str) -> dict[str, Tensor]:
    """The float64 state dict of an official model, under its own names, from NAME.fill.json.

    `lavt_*` has the entries of both dicts of a released `lavt` file, BERT's without a prefix.

    Raises:
        AssertionError: a tensor's first element, mean or deviation is not what the file says: the rule is broken.
    """
    listing = json.loads((GOLDENS / f"{name}.fill.json").read_text())
    entries = {key: entry for group in listing.values() if isinstance(group, dict) for key, entry in group.items()}
    rule = FILLS[name.split("_")[0]]
    weights: dict[str, Tensor] = {}
    for key, entry in entries.items():
        source = entry.get("same_as", key)
        shared = weights.get(source)
        weights[key] = _filled(source, entry, rule, listing["salt"]) if shared is None else shared
        _check(key, entry, weights[key])
    return weights


def filled(name: str, shapes: Mapping[str, Sequence[int]], *, salt: str = "refseg") -> dict[str, Tensor]:
    """A float64 state dict of these shapes by the rule, with that model's factors."""
    weights = {}
    for key, shape in shapes.items():
        dtype = "int64" if key.endswith("relative_position_index") else "float64"
        weights[key] = _filled(key, {"shape": list(shape), "dtype": dtype}, FILLS[name], salt)
    return weights


class Undrawn(TorchFunctionMode):
    """Leaves out the random numbers that a fresh model begins with: half a minute in float64, for nothing here."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.__name__ in ("normal_", "uniform_", "erfinv_", "trunc_normal_"):
            return args[0] if args else kwargs["tensor"]
        return func(*args, **(kwargs or {}))


@contextmanager
def float64() -> Iterator[None]:
    """Models that are made here have float64 weights, to be loaded."""
    torch.set_default_dtype(torch.float64)
    with Undrawn():
        yield
    torch.set_default_dtype(torch.float32)


def load_official(model: nn.Module, weights: Mapping[str, Tensor], keys: Sequence[Rule]) -> None:
    """The official weights in our model; nothing missing, nothing left over."""
    renamed = rename(weights, keys)
    assert renamed.unknown == []
    model.load_state_dict(renamed.weights)


def official_layout(name: str) -> dict[str, Tensor]:
    """The names and shapes of `official_fill` on the meta device, without the work of filling."""
    listing = json.loads((GOLDENS / f"{name}.fill.json").read_text())
    entries = {key: entry for group in listing.values() if isinstance(group, dict) for key, entry in group.items()}
    return {key: torch.empty(entry["shape"], device="meta") for key, entry in entries.items()}


def _filled(key: str, entry: Mapping[str, Any], rule: Fill, salt: str) -> Tensor:
    shape: list[int] = entry["shape"]
    if not entry["dtype"].startswith("float"):
        return _window_index(shape) if key.endswith("relative_position_index") else torch.zeros(shape, dtype=torch.long)
    seed = int.from_bytes(hashlib.sha256((salt + key).encode()).digest()[:4], "big")
    noise = np.random.default_rng(seed).standard_normal(shape)
    value, is_matrix = _by_rule(key, shape, noise, rule.gain)
    times = math.prod(f.times for f in rule.factors if re.search(f.pattern, key) and (is_matrix or not f.matrices))
    return torch.as_tensor(value * times, dtype=torch.float64)


def _by_rule(key: str, shape: list[int], noise: Any, gain: float) -> tuple[Any, bool]:
    """The README's table, first match first: the value, and whether it is of rule d."""
    if key.endswith("running_var"):
        return 1 + 0.1 * np.abs(noise), False
    if key.endswith("running_mean"):
        return 0.1 * noise, False
    if "relative_position_bias_table" in key:
        return 0.5 * noise, False
    is_table = any(part in key for part in TABLES)
    if len(shape) >= 2:
        return (0.5 if is_table else gain / math.sqrt(math.prod(shape[1:]))) * noise, True
    if key.endswith("weight"):
        return 1 + 0.1 * noise, False
    if key.endswith("bias"):
        return 0.05 * noise, False
    if is_table:
        return 0.5 * noise, False
    constructed = CONSTRUCTED.get(key.split(".")[-1])
    return (0.05 * noise if constructed is None else np.full(shape, constructed)), False


def _window_index(shape: list[int]) -> Tensor:
    """Swin's relative_position_index: for two places of a window, the row of the bias table of their offset."""
    side = math.isqrt(shape[0])
    y, x = (t.flatten() for t in torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"))
    dy, dx = y[:, None] - y[None] + side - 1, x[:, None] - x[None] + side - 1
    return dy * (2 * side - 1) + dx


def _check(key: str, entry: Mapping[str, Any], value: Tensor) -> None:
    assert list(value.shape) == entry["shape"], key
    if "first" not in entry:
        return
    found = (value.flatten()[0].item(), value.double().mean().item(), value.double().std(correction=0).item())
    expected = (entry["first"], entry["mean"], entry["std"])
    assert np.allclose(found, expected, rtol=1e-9, atol=1e-12), f"{key}: filled {found}, expected {expected}"


# --- inputs -----------------------------------------------------------------------------------------------------------

BERT_PHRASES = (
    "101 2048 2111 2006 2187 102",
    "101 1996 2450 1999 1037 17983 14329 3173 1037 2417 12977 2279 2000 1996 2158 2007 17072 1998 1037 2235",
)
PHRASES = {
    "lavt": BERT_PHRASES,
    "rela": BERT_PHRASES,
    "caris": BERT_PHRASES,
    "cris": (
        "49406 1237 1047 525 1823 49407",
        "49406 518 2308 530 320 22192 11455 5050 320 736 17143 1131 531 518 786 593 49407",
    ),
    "cgformer": (
        "101 1996 2450 1999 1996 2417 5435 2006 1996 2187 102",
        "101 1037 2235 29145 3061 2369 1996 8638 1010 2117 2013 1996 2157 1010 2007 2049 2132 2357 2646 1996",
    ),
    "asda": (
        "49406 518 1929 682 533 783 7175 1136 49407",
        "49406 320 2442 22548 2862 2403 518 12679 267 2241 633 518 1155 267 593 902 49407",
    ),
}


def inputs(file: str) -> Batch:
    """The batch of a golden file, e.g. ``lavt_swin-t_160x224``: float64 pixels, two phrases, padding id 0.

    LAVT, ReLA, CRIS, CARIS: two images with a phrase each; CGFormer, ASDA: one image with both phrases.
    """
    model, (height, width) = file.split("_")[0], (int(n) for n in file.split("_")[-1].split("x"))
    phrases = [[int(token) for token in phrase.split()] for phrase in PHRASES[model]]
    tokens = torch.tensor([phrase + [0] * (len(phrases[1]) - len(phrase)) for phrase in phrases])
    one_image = model in ("cgformer", "asda")
    images, image_index = _images(1 if one_image else 2, height, width, plain=one_image), torch.arange(2)
    batch = Batch(images, tokens, tokens != 0, image_index * (not one_image))
    compare(file, "token_ids", batch.tokens)
    compare(file, "image", batch.images[batch.image_index])
    return batch


def _images(count: int, height: int, width: int, *, plain: bool) -> Tensor:
    b, c, y, x = torch.meshgrid(
        *(torch.arange(n, dtype=torch.float64) for n in (count, 3, height, width)), indexing="ij"
    )
    waves = torch.sin(0.07 * y + 0.13 * x + c + 2 * b)
    return waves if plain else waves + 0.5 * torch.cos(0.0007 * x * y - 0.3 * c + b)


# --- comparing --------------------------------------------------------------------------------------------------------


@functools.cache
def golden_names(file: str) -> tuple[str, ...]:
    """The tensors of a golden file in the README's order, `image` and `token_ids` aside."""
    return tuple(name for name in _layout(file) if name not in ("image", "token_ids", "token_mask"))


def compare(file: str, name: str, tensor: Tensor, *, tolerance: float = TOLERANCE) -> None:
    """Assert that `tensor`, in full, is the golden `name` of `file`, e.g. ``lavt_swin-t_160x224``.

    Floats within `tolerance` times the full tensor's deviation, its mean, deviation and largest value too; integers
    equal.
    """
    layout = _layout(file).get(name)
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as stored:
        golden = stored.get_tensor(name)
        stats = stored.get_tensor(f"{name}.stats").tolist() if f"{name}.stats" in stored.keys() else None  # noqa: SIM118
    tensor = tensor.detach().cpu()
    shape = list(golden.shape) if layout is None else layout["shape"]
    assert list(tensor.shape) == shape, f"{file}: {name}: shape {list(tensor.shape)}, not {shape}"
    part = tensor if layout is None else tensor[tuple(slice(None, None, step) for step in layout["stride"])]
    if not golden.is_floating_point():
        wrong = int((part.long() != golden.long()).sum())
        assert wrong == 0, f"{file}: {name}: {wrong} of {golden.numel()} integers differ"
        return
    scale = golden.double().std(correction=0).item() if stats is None else stats[1]
    error = (part.double() - golden.double()).abs().max().item() / scale
    assert error <= tolerance, f"{file}: {name} is off by {error:.2g} of its deviation, allowed {tolerance:.2g}"
    if stats is not None:
        full = tensor.double()
        found = (full.mean().item(), full.std(correction=0).item(), full.abs().max().item())
        off = max(abs(a - b) for a, b in zip(found, stats, strict=True)) / scale
        assert off <= tolerance, f"{file}: {name}: mean, deviation, largest are {found}, expected {stats}"


def compare_all(file: str, tensors: Mapping[str, Tensor], *, tolerance: float = TOLERANCE) -> None:
    """`compare` those given in the README's order, so that the first that differs names the part that is wrong."""
    names = golden_names(file)
    assert set(tensors) <= set(names), f"{file} has no {sorted(set(tensors) - set(names))}"
    for name in names:
        if name in tensors:
            compare(file, name, tensors[name], tolerance=tolerance)


@functools.cache
def _layout(file: str) -> dict[str, dict[str, list[int]]]:
    with safe_open(GOLDENS / f"{file}.safetensors", "pt") as stored:
        return json.loads(stored.metadata()["tensors"])
