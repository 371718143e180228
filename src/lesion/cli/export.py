"""``lesion export``."""

from __future__ import annotations

from typing import Any

from lesion.cli.opened import Chosen, New, Top, opened
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.terminal import Json, answer, quiet_libraries


@takes(*fields_of(
    ARGUMENT, "data", "prompt", "mask", "mask_positions", "max_new_tokens", "seed", "force", *LOADING, samples=8,
))  # fmt: skip
def export(chosen: Chosen, out: New, top: Top = None, json: Json = False, **options: Any) -> None:
    """Write the model with neurons masked for good, as a checkpoint that any tool loads; it is loaded again and compared."""
    quiet_libraries()
    from lesion.hooks.intervention import get_intervention
    from lesion.remedies.export import check_expressible
    from lesion.remedies.export import export as write

    act = get_intervention(options["mask"], options["mask_positions"])
    check_expressible(act)
    to = opened(chosen, out, top, options)
    about = to.samples, to.options.prompt, act, to.options.max_new_tokens, to.found
    written = write(to.vlm, to.neurons, out, *about)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))
