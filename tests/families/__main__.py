"""``python -m tests.families`` writes the table of supported models, docs/models.md, from what is tested."""

from __future__ import annotations

from pathlib import Path

from lesion.core.sites import COMPONENTS, ROLES
from lesion.models.engines import EmbedsEngine
from lesion.models.vlm import VisionLanguageModel
from tests.families import first, text, vlm_a, vlm_b

BUILDERS = {**first.BUILDERS, **vlm_a.BUILDERS, **vlm_b.BUILDERS, **text.BUILDERS}
FILE = Path(__file__).parents[2] / "docs" / "models.md"
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


def table() -> str:
    """The page's text."""
    rows = []
    for name, build in BUILDERS.items():
        built = build()
        vlm = VisionLanguageModel(built.model, built.processor, name)
        said = []
        for component in COMPONENTS:
            roles = [role for role in ROLES if (component, role) in built.counts]
            if roles:
                said.append(f"{component} ({', '.join(roles)})")
        once = "yes" if isinstance(vlm.engine, EmbedsEngine) else "–" if vlm.structure.vision is None else "no"
        rows.append(f"| {type(built.model).__name__} | `{built.model.config.model_type}` | {', '.join(said)} | {once} |")
    return HEAD + "\n".join(sorted(rows)) + "\n"


if __name__ == "__main__":
    FILE.write_text(table())
