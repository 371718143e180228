"""``lesion explain``: what the neurons of a study's critical set do alone, in pairs, and scaled instead of masked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lesion.core.errors import OptionError
from lesion.core.neurons import NeuronSet
from lesion.core.progress import Progress
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.doses import Doses
from lesion.study.explanation import Explanation, Source
from lesion.study.neuron_entry import NeuronEntry
from lesion.study.reopen import reopened
from lesion.study.result import Result
from lesion.study.token_losses import token_losses
from lesion.study.trace import trace

MOST = 12
"""Neurons of a set that is explained: 66 pairs."""


def explain(
    run: str | Path, model: VisionLanguageModel | None = None, progress: Progress | None = None
) -> Explanation:
    """Explains the critical set of a finished study, on the samples that it measures on.

    The set is what a measured search found, or else the minimal set, or else the top k*.

    Args:
        run: The study's run directory; ``explanation.json`` is written there.
        model: The study's model, loaded; default: it is loaded.
        progress: Listens to the stages.

    Raises:
        RunError: No finished study, or another process works there.
        OptionError: Nothing to explain: no collapse was found, or the set has more than :data:`MOST` neurons.
    """
    result = Result.load(run)
    source, entries = _chosen(result)
    with reopened(run, model, progress) as opened:
        session = opened.session
        neurons = NeuronSet(entry.neuron() for entry in entries).fit(session.sites)
        update = {"trace": trace(session, neurons), "losses": token_losses(opened, neurons)}
        made = Doses(opened, neurons).explanation(source).model_copy(update=update)
        session.run.write_json(rundir.EXPLANATION, made.model_dump())
        return made


def _chosen(result: Result) -> tuple[Source, Sequence[NeuronEntry]]:
    source: Source
    if result.searched is not None and result.searched.neurons:
        source, entries = "search", result.searched.neurons
    elif result.minimal_set:
        source, entries = "minimal set", result.minimal_set
    else:
        source, entries = "top k*", result.critical_neurons
    if not entries:
        raise OptionError(f"{result.run} found no collapse; there is no critical set to explain")
    count = max(len(entries), (result.k_star or 0) if source == "top k*" else 0)
    if count > MOST:
        raise OptionError(f"the critical set of {result.run} has {count:,} neurons; expected at most {MOST} to explain")
    return source, entries
