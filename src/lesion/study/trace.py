"""The trace of a critical set: the channel of the residual stream that it keeps up, followed through the layers.

A massive activation (arXiv 2402.17762) is one channel at one token, usually the first, that is thousands of times the median,
and that later layers count on. If masking a set harms the model because that number is gone, then putting it back, one number
at one token, taken from *other* samples, undoes the harm. That is the test of the explanation: where it fails, this one does.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from lesion.ablation.replies import likelihood
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood, pool
from lesion.data.samples import Sample
from lesion.hooks.intervene import mask
from lesion.models.tokens import CLASSES
from lesion.study.explanation import Trace, TraceEntry
from lesion.study.session import Session

if TYPE_CHECKING:
    import torch


class _Pass(NamedTuple):
    """One sample's reference answer, read once."""

    states: torch.Tensor
    """What each layer is called with, float32 ``[layers, prompt tokens, channels]``."""
    reference: Likelihood


def trace(session: Session, neurons: NeuronSet) -> Trace | None:
    """Follows the channel in which masking a set changes most.

    Args:
        session: Open.
        neurons: Of the language model; masked to zero at every token.

    Returns:
        None where the study's mask is another one, the set is not all the language model's, or the model's layers are not run
        one after the other.
    """
    options, layers = session.options, session.vlm.engine.layers
    language = all(site.component == "language" for site in neurons.sites)
    if not layers or not language or (options.mask, options.mask_positions) != ("zero", "all"):
        return None
    intact = [_read(session, s, NeuronSet()) for s in session.measured]
    masked = [_read(session, s, neurons) for s in session.measured]
    token, channel = _most_changed([p.states for p in intact], [p.states for p in masked])
    sizes = [[p.states[:, token, channel].abs() for p in passes] for passes in (intact, masked)]
    typical = [p.states.abs().flatten(1).median(1).values for p in intact]
    entries = [
        TraceEntry(layer=i, intact=_mean(sizes[0], i), masked=_mean(sizes[1], i), typical=_mean(typical, i))
        for i in range(len(layers))
    ]
    written_by = max(range(len(layers) - 1), key=lambda i: entries[i + 1].intact - entries[i].intact)
    behind = max(written_by, *(site.layer for site in neurons.sites)) + 1
    number, restored = None, list[Likelihood]()
    if behind < len(layers):
        others = [_read(session, s, NeuronSet()).states[behind, token, channel] for s in session.ranked]
        number = float(sum(others) / len(others))
        for sample in session.measured:
            back = layers.replaced(behind, token, channel, number)
            restored.append(_read(session, sample, neurons, back).reference)
    classes = session.vlm.token_classes(session.prompts[session.measured[0].id])
    return Trace(
        channel=channel, token=token, token_class=CLASSES[int(classes[token])], written_by=written_by,
        read_by=layers.norm_of(written_by + 1), layers=entries, number=number,
        before_layer=behind if restored else None, masked_rise=_rise(intact, [p.reference for p in masked]),
        restored_rise=_rise(intact, restored) if restored else None,
    )  # fmt: skip


def _read(
    session: Session, sample: Sample, neurons: NeuronSet, also: AbstractContextManager[None] | None = None
) -> _Pass:
    """One pass over prompt and reference answer; ``also`` changes the model beside the mask."""
    import torch

    vlm, prompt, target = session.vlm, session.prompts[sample.id], session.targets[sample.id]
    contexts = vlm.embed([prompt])
    masked = mask(vlm.model, neurons) if len(neurons) else nullcontext()
    with masked, also or nullcontext(), vlm.engine.layers.watched() as seen:
        [log_probs] = vlm.answer_log_probs(contexts, [target])
    length = len(vlm.token_classes(prompt))
    states = torch.stack([seen[i][0][0, :length].float().cpu() for i in range(len(seen))])
    return _Pass(states, likelihood(log_probs, target))


def _most_changed(intact: Sequence[torch.Tensor], masked: Sequence[torch.Tensor]) -> tuple[int, int]:
    """Token and channel whose size changes most in any layer, on average over the samples; of the tokens that all have."""
    tokens = min(x.shape[1] for x in intact)
    pairs = zip(intact, masked, strict=True)
    change = sum((a[:, :tokens].abs() - b[:, :tokens].abs()).abs().amax(0) for a, b in pairs)  # [tokens, channels]
    token, channel = divmod(int(change.argmax()), change.shape[1])  # pyright: ignore[reportAttributeAccessIssue]
    return token, channel


def _mean(values: Sequence[torch.Tensor], layer: int) -> float:
    return float(sum(v[layer] for v in values) / len(values))


def _rise(intact: Sequence[_Pass], after: Sequence[Likelihood]) -> float | None:
    before, now = pool([p.reference for p in intact]).nll, pool(after).nll
    return None if before is None or now is None or not math.isfinite(now) else now - before
