"""Official checkpoints' names to ours: a list of rules per model, applied to a state dict.

Users: every model whose official weights can be imported (`OFFICIAL_KEYS` in its file, or in one beside it) and
engine/importing.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from torch import Tensor


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the official keys that `pattern` (a regular expression) matches from end to end.

    name: our key, with \\1, \\2, ... for the pattern's groups; several keys share the tensor out in equal parts along
    its first axis, as a fused query, key and value; None drops the tensor.  why: the reason for dropping it.
    convert: changes the tensor's layout, for example by transposing it, before it is shared out.
    """

    pattern: str
    name: str | tuple[str, ...] | None
    why: str = ""
    convert: Callable[[Tensor], Tensor] | None = None


def attention_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """torch's nn.MultiheadAttention to layers/attention.py's `Attention`.

    theirs: pattern of its name, groups allowed.  ours: our name of it, with \\1, \\2, ... for those groups.
    """
    fused = tuple(rf"{ours}.{part}.\g<kind>" for part in "qkv")
    return (
        Rule(rf"{theirs}\.in_proj_(?P<kind>weight|bias)", fused),
        Rule(rf"{theirs}\.out_proj\.(?P<kind>weight|bias)", rf"{ours}.out.\g<kind>"),
    )


def attend_and_norm_rules(theirs: str, attention: str, ours: str) -> tuple[Rule, ...]:
    """An attention and the norm behind it to layers/region_decoder.py's `AttendAndNorm`."""
    return (
        *attention_rules(rf"{theirs}\.{attention}", f"{ours}.attention"),
        Rule(rf"{theirs}\.norm\.(?P<kind>weight|bias)", rf"{ours}.norm.\g<kind>"),
    )


def feed_forward_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """`linear1` and `linear2` of torch's transformer layers to layers/attention.py's `feed_forward` (as `mlp`)."""
    return (
        Rule(rf"{theirs}\.linear1\.(?P<kind>weight|bias)", rf"{ours}.mlp.0.\g<kind>"),
        Rule(rf"{theirs}\.linear2\.(?P<kind>weight|bias)", rf"{ours}.mlp.3.\g<kind>"),
    )


def layer_rules(theirs: str, ours: str) -> tuple[Rule, ...]:
    """torch's nn.TransformerEncoderLayer to layers/attention.py's `EncoderLayer`; names as in `attention_rules`."""
    return (
        *attention_rules(rf"{theirs}\.self_attn", f"{ours}.attention"),
        *feed_forward_rules(theirs, ours),
        Rule(rf"{theirs}\.(?P<norm>norm[12])\.(?P<kind>weight|bias)", rf"{ours}.\g<norm>.\g<kind>"),
    )


@dataclass(slots=True)
class Renamed:
    """The outcome of `rename`.

    weights: under our names.  sources: the official name of each.  dropped: official name -> why.
    unknown: official names that no rule matches.
    """

    weights: dict[str, Tensor] = field(default_factory=dict)
    sources: dict[str, str] = field(default_factory=dict)
    dropped: dict[str, str] = field(default_factory=dict)
    unknown: list[str] = field(default_factory=list)


def rename(weights: Mapping[str, Tensor], rules: Sequence[Rule]) -> Renamed:
    """Every tensor by the first rule that matches its name.

    Raises:
        ValueError: two official tensors get one name of ours, which is a fault of the rules.
    """
    compiled = [(re.compile(rule.pattern), rule) for rule in rules]
    renamed = Renamed()
    for key, tensor in weights.items():
        found = next(((match, rule) for pattern, rule in compiled if (match := pattern.fullmatch(key))), None)
        if found is None:
            renamed.unknown.append(key)
            continue
        match, rule = found
        if rule.name is None:
            renamed.dropped[key] = rule.why
            continue
        names = (rule.name,) if isinstance(rule.name, str) else rule.name
        converted = tensor if rule.convert is None else rule.convert(tensor)
        parts = (converted,) if len(names) == 1 else converted.chunk(len(names))
        for name, part in zip(names, parts, strict=True):
            ours = match.expand(name)
            if ours in renamed.weights:
                raise ValueError(f"{key} and {renamed.sources[ours]} both become {ours}")
            renamed.weights[ours] = part
            renamed.sources[ours] = key
    return renamed
