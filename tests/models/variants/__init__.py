"""Every architecture in tiny configuration, and every variant of its ablation tables: a module per architecture.

A module has `TINY`, the [model] table of the smallest useful model, and `VARIANTS`, changes to it by name; "" is TINY
itself. Where they apply:

LOSS_ONLY:    variants that differ in training alone; they are not exported.
FIXED_LENGTH: variants whose output depends on how many tokens, padding included, a phrase is given.
NO_GRADIENT:  for a variant, parameters (regular expression) that its own algebra leaves without influence.
EXISTS:       True if the architecture always has a no-target head.
"""

from __future__ import annotations

import re
from typing import Any

from variants import align, asda, caris, cgformer, cris, deris, isfp, jmceln, lavt, m3att, rela, vlt, vlt_clips

MODULES = {
    "align": align,
    "asda": asda,
    "caris": caris,
    "cgformer": cgformer,
    "cris": cris,
    "deris": deris,
    "isfp": isfp,
    "jmceln": jmceln,
    "lavt": lavt,
    "m3att": m3att,
    "rela": rela,
    "vlt": vlt,
    "vlt-clips": vlt_clips,
}
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    f"{arch} {name}".strip(): (arch, {**module.TINY, **changes})
    for arch, module in MODULES.items()
    for name, changes in module.VARIANTS.items()
}


def named(listing: str) -> set[str]:
    """The variants of all architectures that stand in their module's `listing`."""
    return {f"{arch} {name}".strip() for arch, module in MODULES.items() for name in getattr(module, listing, ())}


def has_exists(variant: str) -> bool:
    arch, model = VARIANTS[variant]
    return bool(model.get("no_target_head", getattr(MODULES[arch], "EXISTS", False)))


def without_influence(variant: str, parameter: str) -> bool:
    arch, _ = VARIANTS[variant]
    name = variant.removeprefix(arch).strip()
    pattern = getattr(MODULES[arch], "NO_GRADIENT", {}).get(name)
    return pattern is not None and re.search(pattern, parameter) is not None
