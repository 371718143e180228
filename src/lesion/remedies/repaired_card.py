"""The card of a checkpoint with masked neurons and constants: what the constants are worth, and how to put them back."""

from __future__ import annotations

from collections.abc import Callable

from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.card import listed
from lesion.remedies.guard import Guard


def repaired_card(
    vlm: VisionLanguageModel, guard: Guard, intact: float | None, masked: float | None, repaired: float | None, samples: int
) -> Callable[[float], str]:
    """Of a model with neurons masked and constants that stand in for them; made from the difference of log-probabilities.

    Args:
        vlm: The model before that.
        guard: Holds the constants.
        intact: Perplexity before; None where it is not finite.
        masked: With the neurons masked.
        repaired: With the constants.
        samples: On how many they were measured.
    """
    identity, neurons = vlm.identity(), guard.neurons
    shown = ["not finite" if x is None else f"{x:.4g}" for x in (intact, masked, repaired)]

    def card(difference: float) -> str:
        return f"""# {vlm.name} with {len(neurons):,} neurons masked, and their constants

The model {identity}, in which lesion set these neurons to zero for good. What stands in for them is one number
each, their mean at the first token, in `guard.safetensors`.

{listed(neurons)}

On {samples} samples that the constants were not learnt on, the perplexity of the original's answers is {shown[0]} with the
original, {shown[1]} with this model, and {shown[2]} with this model and its constants. Loaded again, it gave the same
answers as the original with the mask applied by hooks, and log-probabilities that differ by at most {difference:.1g} of the
largest.
{_hook(guard)}"""

    return card


def _hook(guard: Guard) -> str:
    """How constants are put back without lesion; for neurons that are outputs of a module."""
    constants: dict[str, dict[int, float]] = {}
    for site in guard.neurons.sites:
        if site.side != "output" or site.writes_through is not None or site.key not in guard.ranges:
            return "\nIn Python: `with Guard.load(\"guard.safetensors\").reinserted(lesion.load(folder)):`\n"
        own = guard.ranges[site.key]
        numbers = [float(value) for value in own.first]
        constants[site.path] = dict(zip((own.channels + site.start).tolist(), numbers, strict=True))
    return f"""
Without lesion, for prompts that are not padded on the left, with `model` loaded by transformers:

```python
import torch

constants = {constants!r}


def reinsert(channels):
    def hook(module, args, output):
        if output.shape[1] > 1:  # the prompt; a pass over one token goes on with an answer
            output[:, 0, list(channels)] = torch.tensor(list(channels.values())).to(output)
        return output
    return hook


for path, channels in constants.items():
    model.get_submodule(path).register_forward_hook(reinsert(channels))
```
"""
