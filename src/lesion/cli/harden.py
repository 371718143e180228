"""``lesion harden``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from lesion.cli.export import Chosen, New, Top, opened
from lesion.cli.options import ARGUMENT, LOADING, fields_of, takes
from lesion.cli.terminal import Json, answer, quiet_libraries

if TYPE_CHECKING:
    from lesion.remedies.remedy import Remedy

SPLIT = 4
"""So many units each becomes where no remedy is named."""
Times = Annotated[
    int | None, typer.Option(help="so many units each becomes, with a share of what it writes", show_default=str(SPLIT))
]
Turn = Annotated[
    bool, typer.Option("--rotate", help="instead, turn the residual stream: what critical down channels carry goes to all")
]


@takes(*fields_of(ARGUMENT, "data", "prompt", "max_new_tokens", "seed", "force", *LOADING, samples=8))
def harden(
    chosen: Chosen, out: New, split: Times = None, rotate: Turn = False, top: Top = None, json: Json = False, **options: Any
) -> None:
    """Write the model so that it depends less on critical neurons; it computes the same, is loaded again and compared."""
    quiet_libraries()
    from lesion.remedies.harden import harden as write

    remedy = chosen_remedy(split, rotate)
    to = opened(chosen, out, top, options)
    written = write(to.vlm, to.neurons, out, remedy, to.samples, to.options.prompt, to.options.max_new_tokens)
    answer(json, written.as_dict, lambda console: console.print(str(written), soft_wrap=True, markup=False))


def chosen_remedy(split: int | None, rotate: bool) -> Remedy:
    """The one that the options name; units are split where none does.

    Raises:
        OptionError: They name several, or one has an option that makes no sense.
    """
    from lesion.core.errors import OptionError
    from lesion.remedies.rotate import Rotate
    from lesion.remedies.split import Split

    asked: dict[str, Remedy] = {}
    if split is not None:
        asked["--split"] = Split(split)
    if rotate:
        asked["--rotate"] = Rotate()
    if len(asked) > 1:
        raise OptionError(f"{' and '.join(asked)} are remedies of their own; give one of them")
    remedy = next(iter(asked.values()), Split(SPLIT))
    remedy.check()
    return remedy
