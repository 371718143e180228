"""Memory, beside tensors whose size is known by hand."""

from __future__ import annotations

import torch
from torch import nn

from lesion.models import memory
from lesion.models.loading import load


def test_the_graph_counts_what_is_kept_once_and_no_weights():
    layer = nn.Linear(8, 8, bias=False)
    x = torch.zeros(3, 8, requires_grad=True)
    with memory.Graph(layer) as graph:
        y = layer(x)  # keeps the weight, and x once it asks for the weight's gradient
        (y.sigmoid() * y.detach()).sum().backward()
    # x, the sigmoid's output, and y: 3 rows of 8 float32 each.
    assert graph.size == 3 * (3 * 8 * 4)


def test_generation_by_hand():
    model = load("tiny-llava").model
    text = model.config.text_config
    per_token = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * 4
    assert memory.generation(model, 100, 10) == 100 * per_token + 2 * 4 * 10 * 95
    assert memory.weights(model) == sum(p.numel() for p in model.parameters()) * 4
    assert memory.text(3 * 2**30) == "3.00 GiB" and memory.text(2**20 * 1.5) == "1.5 MiB"
