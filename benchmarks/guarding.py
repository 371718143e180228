"""``python -m benchmarks.guarding``: what a guard's check costs beside a pass, at the size of a 7B model.

One decoder layer of the size of Llama-2-7b is built with random weights. A decoding step through it (one token, no cache) is
timed and taken 32 times, which leaves out the embeddings and the output head. The guard holds ``down`` channels or intermediate
units of that layer. Both take turns, so that what else the machine does falls on both.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable
from typing import Any

LAYERS, WIDTH, HIDDEN, HEADS = 32, 4096, 11008, 32
"""Of Llama-2-7b."""


def seconds(do: Callable[[], Any]) -> float:
    """What it took."""
    start = time.perf_counter()
    do()
    return time.perf_counter() - start


def cost(neurons: int, turns: int, width: int = WIDTH, hidden: int = HIDDEN) -> list[dict[str, Any]]:
    """A row a role: seconds of a check and of a pass (medians), and the share that the one is of the other."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    from lesion.core.neurons import Neuron, NeuronSet
    from lesion.hooks.clean import CleanWeights
    from lesion.models.discovery import discover

    config = LlamaConfig(
        hidden_size=width, intermediate_size=hidden, num_attention_heads=HEADS, num_hidden_layers=1, vocab_size=32
    )
    model, rows = LlamaForCausalLM(config).eval(), []
    layer, states = model.model.layers[0], torch.randn(1, 1, width)
    turned = model.model.rotary_emb(states, torch.zeros(1, 1, dtype=torch.long))
    for role in ("down", "hidden"):
        site = next(s for s in discover(model) if s.role == role)
        clean = CleanWeights.of(model, NeuronSet(Neuron(site, i) for i in range(neurons)))
        bound = clean.bound(model)
        with torch.inference_mode():
            def step() -> Any:
                return layer(states, position_embeddings=turned)

            pairs = [(seconds(bound.check), seconds(step)) for _ in range(turns + 1)][1:]
        check, one = (statistics.median(column) for column in zip(*pairs, strict=True))
        rows.append({
            "role": role, "neurons": neurons, "weights": clean.entries, "check_s": check, "layer_s": one,
            "pass_s": LAYERS * one, "share": check / (LAYERS * one),
        })  # fmt: skip
        assert not bound.check()
    return rows


def main() -> None:
    """A line a role."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.guarding", description=__doc__)
    parser.add_argument("--neurons", type=int, default=5)
    parser.add_argument("--turns", type=int, default=20)
    options = parser.parse_args()
    for row in cost(options.neurons, options.turns):
        print(json.dumps(row))


if __name__ == "__main__":
    main()
