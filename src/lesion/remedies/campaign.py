"""A campaign of faults: from what a user names to :func:`lesion.remedies.faults.faults`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from lesion.core.errors import OptionError
from lesion.core.executor import Executor
from lesion.core.neurons import NeuronSet
from lesion.core.progress import Progress, Silent
from lesion.core.sites import Sites
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.fault_draw import POPULATIONS, Draws, Kind, Population
from lesion.remedies.faults import Faults, faults, fitting
from lesion.remedies.guard import Guard
from lesion.study.options import StudyOptions
from lesion.study.place import place_for
from lesion.study.session import Session
from lesion.study.trial import neurons_of, read

FORMATS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
"""What a dtype is called here."""


def campaign(
    chosen: str,
    model: str | VisionLanguageModel = "tiny-llava",
    top: int | None = None,
    count: int = 400,
    on: Sequence[str] | None = None,
    where: str = "weights",
    action: str = "flip",
    format: str | None = None,
    bit: int | None = None,
    at_once: int = 1,
    guard: str | None = None,
    out: str | Path | None = None,
    progress: Progress | None = None,
    executor: Executor | None = None,
    force: bool = False,
    **options: Any,
) -> Faults:
    """Puts wrong bits into a model, one at a time, and measures what becomes of it.

    Args:
        chosen: A file of neurons, or a run directory: the critical ones.
        model: An embedded name, a local folder, a hub id, or a loaded model.
        top: So many of the first of the run's ranking.
        count: So many faults in each population.
        on: Populations (:data:`lesion.remedies.fault_draw.POPULATIONS`); default: all.
        where: ``weights`` or ``activations``.
        action: See :data:`lesion.hooks.fault.ACTIONS`.
        format: See :data:`lesion.hooks.fault.BITS`; default: the model's dtype.
        bit: Which; None for any.
        at_once: So many wrong bits at a time, in as many neurons.
        guard: A guard's file.
        out: The run directory. Default: ``runs/`` and a name made from the options.
        progress: Listens to the stages.
        executor: Its replicas measure; default: this process's model.
        force: Take neurons that were found in another model.
        **options: See :class:`lesion.study.options.StudyOptions`.

    Raises:
        OptionError: A value that makes no sense.
        NeuronSetError, ModelError, DataError, RunError: As for a study.
    """
    populations = tuple(dict.fromkeys(on or POPULATIONS))
    if wrong := [name for name in populations if name not in POPULATIONS]:
        raise OptionError(f"faults strike {wrong[0]!r}; expected any of {', '.join(POPULATIONS)}")
    if count < 1:
        raise OptionError(f"faults is {count}; expected at least 1")
    name = model if isinstance(model, str) else model.name
    positions = options.pop("mask_positions", "all")
    asked = StudyOptions.parse(model=name, **options)
    # Any format's bits are among those of fp32; whether the model's own has this one is seen when it is loaded.
    Kind(where, action, format or "fp32", bit, positions, at_once)  # pyright: ignore[reportArgumentType]
    file, run = (None, chosen) if Path(chosen).is_dir() else (chosen, None)
    read(file, run, top)
    if guard is not None:
        Guard.load(guard)
    told = json.dumps([chosen, top, where, action, format, bit, positions, at_once, guard])
    folder = place_for(out, asked, "faults", hashlib.sha256(told.encode()).hexdigest()[:8])
    loaded, progress = model if isinstance(model, VisionLanguageModel) else None, progress or Silent()
    strikes, found = cast("tuple[Population, ...]", populations), list[tuple[NeuronSet, Kind]]()

    def check(vlm: VisionLanguageModel, sites: Sites, _: object) -> None:
        own = format or FORMATS.get(str(vlm.model.dtype).removeprefix("torch."), "fp32")
        kind = Kind(where, action, own, bit, positions, at_once)  # pyright: ignore[reportArgumentType]
        neurons = neurons_of(vlm, file, run, top, force, progress.warn)
        if guard is not None:
            fitting(guard, vlm, neurons)
        Draws(vlm, neurons, list(sites), kind, asked.seed).check(strikes, guard is not None)
        found.append((neurons, kind))

    with Session.open(
        asked, loaded, folder, progress, ranks=False, judges=False, check=check, executor=executor
    ) as session:
        return faults(session, *found[0], count, strikes, guard)
