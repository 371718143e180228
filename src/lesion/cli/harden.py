"""``lesion harden``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.opened import Chosen, New, Top, opened
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.terminal import Json, answer, quiet_libraries

if TYPE_CHECKING:
    from lesion.remedies.remedy import Remedy

SPLIT = 4
"""So many units each becomes where no remedy is named."""
Times = Annotated[
    int | None, typer.Option(help="so many units each becomes, with a share of what it writes", show_default=str(SPLIT))
]
Places = Annotated[
    bool, typer.Option("--recycle", help="with --split: copies take the places of the least important units; no larger model")
]
Turn = Annotated[
    bool, typer.Option("--rotate", help="instead, turn the residual stream: what critical down channels carry goes to all")
]

Mend = Annotated[
    bool,
    typer.Option("--repair", help="instead, mask them for good, and keep a constant each that stands in at the first token"),
]


@takes(*fields_of(ARGUMENT, "data", "prompt", "max_new_tokens", "seed", "force", *LOADING, samples=8))
def harden(
    chosen: Chosen, out: New, split: Times = None, recycle: Places = False, rotate: Turn = False, repair: Mend = False,
    top: Top = None, json: Json = False, **options: Any,
) -> None:  # fmt: skip
    """Write the model so that it depends less on critical neurons; it is loaded again and compared."""
    quiet_libraries()
    from lesion.remedies.harden import harden as write
    from lesion.remedies.repair import repair as mend

    remedy = chosen_remedy(split, recycle, rotate, repair)
    to = opened(chosen, out, top, options)
    asked = to.samples, to.options.prompt, to.options.max_new_tokens, to.found
    written = mend(to.vlm, to.neurons, out, *asked) if remedy is None else write(to.vlm, to.neurons, out, remedy, *asked)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))


def chosen_remedy(split: int | None, recycle: bool, rotate: bool, repair: bool) -> Remedy | None:
    """The one that the options name; units are split where none does. None for a repair, which changes what is computed.

    Raises:
        OptionError: They name several, or one has an option that makes no sense.
    """
    from lesion.core.errors import OptionError
    from lesion.remedies.recycle import Recycle
    from lesion.remedies.rotate import Rotate
    from lesion.remedies.split import Split

    asked: dict[str, Remedy | None] = {}
    if split is not None or recycle:
        units = Recycle if recycle else Split
        asked["--recycle" if split is None else "--split"] = units(SPLIT if split is None else split)
    if rotate:
        asked["--rotate"] = Rotate()
    if repair:
        asked["--repair"] = None
    if len(asked) > 1:
        raise OptionError(f"{' and '.join(asked)} are remedies of their own; give one of them")
    remedy = next(iter(asked.values()), Split(SPLIT))
    if remedy is not None:
        remedy.check()
    return remedy
