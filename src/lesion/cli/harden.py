"""``lesion harden``."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from lesion.cli.export import Chosen, New, Top, opened
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.terminal import Json, answer, quiet_libraries


@takes(*fields_of(ARGUMENT, "data", "prompt", "max_new_tokens", "seed", "force", *LOADING, samples=8))
def harden(
    chosen: Chosen,
    out: New,
    split: Annotated[int, typer.Option(help="so many units each becomes, with a share of what it writes")] = 4,
    top: Top = None,
    json: Json = False,
    **options: Any,
) -> None:
    """Write the model with critical units split into several; it computes the same, is loaded again and compared."""
    quiet_libraries()
    from lesion.remedies.harden import harden as write
    from lesion.remedies.split import check_times

    check_times(split)
    to = opened(chosen, out, top, options)
    written = write(to.vlm, to.neurons, out, split, to.samples, to.options.prompt, to.options.max_new_tokens)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))
