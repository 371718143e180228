"""Tiny random models of every supported family, each built from its configuration class, with counts worked out by hand.

Neurons are counted so:

* a gated feed-forward network ``down(act(gate(x)) * up(x))`` of intermediate size I and output size D has I ``gate``,
  I ``up`` and I ``hidden`` neurons, and D ``down`` neurons, whether gate and up are two modules or one fused one;
* an ungated one ``fc2(act(fc1(x)))`` has I ``hidden`` and D ``down`` neurons;
* a single linear layer between the vision part and the language model has D ``down`` neurons and no others;
* ``vision`` is the image encoder; ``language`` the decoder that writes the answer (the encoder of an encoder-decoder
  language model too); ``qformer`` a Q-Former, which has a network for query tokens and, where it reads text, one for text
  tokens in each layer; ``connector`` everything between them (projectors, mergers, resamplers), wherever it is kept.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Built:
    """A family's example.

    Attributes:
        model: A tiny random model in Hugging Face's own class, in evaluation mode.
        processor: Its processor, or its tokenizer where it reads text alone.
        counts: (component, role) -> number of neurons, written out from the sizes in the configuration.
    """

    model: Any
    processor: Any
    counts: Mapping[tuple[str, str], int]
