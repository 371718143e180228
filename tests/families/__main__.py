"""``python -m tests.families`` writes what is found in the families that are tested.

The table of supported models, docs/models.md, and for every family a golden file of its resolved structure,
tests/families/golden/NAME.txt: one line a kind of site, so that a change of discovery is seen in a diff.
"""

from __future__ import annotations

import functools
import re
from pathlib import Path

from lesion.core.sites import COMPONENTS, ROLES
from lesion.models.embeds_engine import EmbedsEngine
from lesion.models.vlm import VisionLanguageModel
from tests.families import Built, first, text, vlm_a, vlm_b

BUILDERS = {**first.BUILDERS, **vlm_a.BUILDERS, **vlm_b.BUILDERS, **text.BUILDERS}
FILE = Path(__file__).parents[2] / "docs" / "models.md"
GOLDEN = Path(__file__).parent / "golden"
HEAD = """\
# Supported models

Every row is tested on a tiny random model of that class: counts by hand, batches, teacher forcing against the model's
own generation, gradients, masks on every kind of site (`tests/models/test_families.py`). This page is written by
`python -m tests.families`.

"Vision once" says whether the image part is run once a sample for all masks of the language model, or anew for each mask.
Roles in brackets are those of each component; see [concepts](concepts.md). Models that read text alone are asked
[prompts](data.md#models-that-read-text-alone). In a mixture of experts every expert's neurons are its own. Other families are
tried in the same way, and refused by name where a feed-forward network is of a make that lesion does not know:
[how to add one](adding-a-family.md).

| class | `model_type` | components and roles | vision once |
|---|---|---|---|
"""


@functools.cache
def built(family: str) -> Built:
    """A family's example; the same one each time."""
    return BUILDERS[family]()


@functools.cache
def vlm_of(family: str) -> VisionLanguageModel:
    """The same, ready to be studied."""
    example = built(family)
    return VisionLanguageModel(example.model, example.processor, family)


def table() -> str:
    """The page's text."""
    rows = []
    for name in BUILDERS:
        vlm, counts = vlm_of(name), built(name).counts
        parts = []
        for component in COMPONENTS:
            roles = [role for role in ROLES if (component, role) in counts]
            if roles:
                parts.append(f"{component} ({', '.join(roles)})")
        once = "–" if vlm.structure.vision is None else "yes" if isinstance(vlm.engine, EmbedsEngine) else "no"
        rows.append(f"| {type(vlm.model).__name__} | `{vlm.model.config.model_type}` | {', '.join(parts)} | {once} |")
    return HEAD + "\n".join(sorted(rows)) + "\n"


def resolved(family: str) -> str:
    """A family's structure as its golden file has it."""
    vlm = vlm_of(family)
    where = vlm.structure
    head = [
        f"{type(vlm.model).__name__} ({vlm.model.config.model_type})",
        f"vision {where.vision or '-'}; language {where.language or '.'}; decoder {where.decoder or '.'}; "
        f"generator {where.generator or '.'}; {type(vlm.engine).__name__}",
    ]
    kinds: dict[tuple[str, ...], list[int]] = {}
    for site in vlm.sites:
        path = re.sub(r"(?<=\.)\d+(?=\.|$)", "N", site.path)
        experts = "" if site.expert is None else ", an expert's"
        part = f", from {site.start} of {site.whole}" if site.whole != site.width * site.group else ""
        size = f"{site.width} of {site.group} channels" if site.group > 1 else str(site.width)
        reach = "" if site.reachable else ", unreachable"
        kind = site.component, site.role, path, f"width {size}", f"{site.side}{part}{experts}{reach}"
        layers = kinds.setdefault(kind, [])
        if site.layer not in layers:
            layers.append(site.layer)
    lines = [" | ".join((*kind[:3], f"layers {_ranges(layers)}", *kind[3:])) for kind, layers in kinds.items()]
    return "\n".join([*head, "", *lines]) + "\n"


def _ranges(layers: list[int]) -> str:
    """``[0, 1, 2, 5]`` as ``0-2, 5``."""
    parts: list[list[int]] = []
    for layer in sorted(layers):
        if parts and layer == parts[-1][-1] + 1:
            parts[-1].append(layer)
        else:
            parts.append([layer])
    return ", ".join(str(part[0]) if len(part) == 1 else f"{part[0]}-{part[-1]}" for part in parts)


def main() -> None:
    """Writes the table and the golden files."""
    FILE.write_text(table())
    GOLDEN.mkdir(exist_ok=True)
    for family in BUILDERS:
        (GOLDEN / f"{family}.txt").write_text(resolved(family))


if __name__ == "__main__":
    main()
