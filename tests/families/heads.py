"""How many attention heads each family has, worked out by hand from the configurations that its builder writes.

A language model with cross-attention has the heads of both kinds; a Q-Former attends to its own tokens and to the image in each
layer. Passed over are SigLIP's pooling head (torch's own ``MultiheadAttention``) and Florence-2's attention between channels.
"""

from __future__ import annotations

from collections.abc import Mapping

HEADS: Mapping[str, Mapping[str, int]] = {
    "llava": {"vision": 4 * 2, "language": 3 * 2},
    "instructblip": {"vision": 2 * 2, "qformer": 2 * (2 + 2), "language": 3 * 2},
    "llava_next": {"vision": 4 * 2, "language": 2 * 2},
    "llava_onevision": {"vision": 3 * 2, "language": 2 * 2},
    "blip_2_opt": {"vision": 3 * 2, "qformer": 2 * (2 + 2), "language": 4 * 2},
    "blip_2_t5": {"vision": 3 * 2, "qformer": 2 * (2 + 2), "language": 2 * 2 + 2 * (2 + 2)},
    "paligemma": {"vision": 3 * 2, "language": 2 * 2},
    "gemma3": {"vision": 3 * 2, "language": 2 * 2},
    "internvl": {"vision": 3 * 2, "language": 2 * 2},
    "mistral3": {"vision": 3 * 2, "language": 2 * 2},
    "aya_vision": {"vision": 3 * 2, "language": 2 * 2},
    "cohere2_vision": {"vision": 3 * 2, "language": 2 * 2},
    "qwen2_vl": {"vision": 3 * 2, "language": 2 * 2},
    "qwen2_5_vl": {"vision": 3 * 2, "language": 2 * 2},
    "qwen3_vl": {"vision": 3 * 2, "language": 3 * 2},
    "qwen3_vl_moe": {"vision": 3 * 2, "language": 3 * 2},
    "idefics3": {"vision": 3 * 2, "language": 2 * 2},
    "smolvlm": {"vision": 2 * 2, "language": 3 * 2},
    "mllama": {"vision": (3 + 1) * 2, "language": 3 * 2},
    "florence2": {"vision": (1 + 2) * 2, "language": 3 * 2 + 2 * (2 + 2)},  # one stage of one block, one of two
    "llama": {"language": 3 * 4},  # of queries; keys and values have two
    "mistral": {"language": 2 * 4},
    "qwen3": {"language": 3 * 4},  # eight channels each, together wider than the model
    "phi3": {"language": 2 * 2},
    "gpt2": {"language": 3 * 2},
    "opt": {"language": 2 * 2},
    "mixtral": {"language": 2 * 2},
}
