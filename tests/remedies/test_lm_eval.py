"""lm-eval scores a model under a mask as it does what was exported, on a task that lies in a file: no hub is asked.

lm-eval is no part of the extra `test`. To run this: `pip install -e '.[eval]'`, then
`python -m pytest -m slow tests/remedies/test_lm_eval.py`.
"""

from __future__ import annotations

import json
import socket
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lesion import load, mask
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.remedies.export import export
from lesion.remedies.harden import harden
from lesion.remedies.split import Split
from tests.real_weights import needs_real_weights

pytestmark = [
    pytest.mark.slow, needs_real_weights,
    pytest.mark.skipif(find_spec("lm_eval") is None, reason="needs lm-eval: pip install 'lesion[eval]'"),
]  # fmt: skip

FACTS = [
    ("The capital of France is", ["Paris", "Berlin", "Madrid", "Rome"], 0),
    ("Two plus two is", ["seven", "four", "nine", "eleven"], 1),
    ("Grass is usually", ["purple", "orange", "green", "black"], 2),
    ("A week has this many days:", ["three", "twelve", "nine", "seven"], 3),
    ("The opposite of hot is", ["cold", "tall", "fast", "loud"], 0),
    ("Cats like to drink", ["paint", "milk", "sand", "petrol"], 1),
    ("The sun rises in the", ["north", "west", "east", "south"], 2),
    ("Ice is frozen", ["wood", "iron", "paper", "water"], 3),
]
PROMPT = "Say something."


@dataclass
class Scores:
    """What lm-eval says: its metrics, and the log-likelihood of each choice, ``[questions, choices]``."""

    metrics: dict[str, float]
    likelihoods: np.ndarray


@pytest.fixture
def connections(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Every attempt to reach another machine."""
    tried: list[Any] = []

    def refuse(*words: Any, **_: Any) -> Any:
        tried.append(words)
        raise OSError("no network in tests")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    return tried


@pytest.fixture
def scores(tmp_path: Path) -> Callable[..., Scores]:
    """Has lm-eval ask a model, or what lies in a folder, the questions of a file."""
    import lm_eval  # pyright: ignore[reportMissingImports]
    from lm_eval.models.huggingface import HFLM  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    lines = (json.dumps({"question": q, "choices": choices, "answer": right}) for q, choices, right in FACTS)
    (tmp_path / "facts.jsonl").write_text("\n".join(lines))
    task = {
        "task": "facts", "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
        "dataset_kwargs": {"data_files": {"test": str(tmp_path / "facts.jsonl")}, "cache_dir": str(tmp_path / "cache")},
        "doc_to_text": "{{question}}", "doc_to_choice": "{{choices}}", "doc_to_target": "{{answer}}",
        "metric_list": [{"metric": "acc"}, {"metric": "acc_norm"}],
    }  # fmt: skip

    def ask(model: Any, tokenizer: Any = None) -> Scores:
        found = lm_eval.simple_evaluate(
            model=HFLM(pretrained=model, tokenizer=tokenizer, device="cpu", batch_size=4), tasks=[dict(task)],
            bootstrap_iters=0, task_manager=TaskManager(include_defaults=False),
        )  # fmt: skip
        assert found is not None
        metrics = {name: found["results"]["facts"][f"{name},none"] for name in ("acc", "acc_norm")}
        told = sorted(found["samples"]["facts"], key=lambda sample: sample["doc_id"])
        return Scores(metrics, np.array([[float(reply[0][0]) for reply in sample["resps"]] for sample in told]))

    return ask


def test_under_the_mask_exported_and_hardened(scores: Callable[..., Scores], connections: list[Any], tmp_path: Path):
    vlm = load("smollm2")
    sites = {(s.role, s.layer): s for s in vlm.sites}
    # The channel that holds most of its residual stream, where two layers write it (docs/real-weights.md).
    neurons = NeuronSet([Neuron(sites["down", layer], 507) for layer in (0, 11)], vlm.identity())
    units = NeuronSet([Neuron(sites["hidden", 11], i) for i in (1229, 1487)], vlm.identity())
    samples = load_samples("prompts", 1)

    intact = scores(vlm.model, vlm.tokenizer)
    with mask(vlm.model, neurons):
        masked = scores(vlm.model, vlm.tokenizer)
    export(vlm, neurons, tmp_path / "masked", samples, PROMPT, max_new_tokens=4)
    exported = scores(str(tmp_path / "masked"))

    assert exported.metrics == masked.metrics
    assert np.allclose(exported.likelihoods, masked.likelihoods, rtol=1e-4)
    assert intact.metrics["acc"] >= 0.75, "it knows these things"
    assert masked.metrics["acc"] < 0.5

    again = scores(vlm.model, vlm.tokenizer)
    assert np.array_equal(again.likelihoods, intact.likelihoods), "outside the context it is the intact model"
    harden(vlm, units, tmp_path / "hardened", Split(4), samples, PROMPT, max_new_tokens=4)
    hardened = scores(str(tmp_path / "hardened"))
    assert hardened.metrics == intact.metrics and np.allclose(hardened.likelihoods, intact.likelihoods, rtol=1e-4)
    assert connections == []
