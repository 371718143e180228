"""The mask as code: how to repeat it in plain PyTorch, nnsight and TransformerLens, from what the report knows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from lesion.study.neuron_entry import NeuronEntry
from lesion.study.result import Result

MOST = 64
"""Sets of more neurons are read from ``critical.json`` instead of being spelled out."""
_PATH = re.compile(r"[A-Za-z_]\w*(\.\w+)*", re.ASCII)
"""A module's name."""
_HOOKS = {"hidden": "mlp.hook_post", "down": "mlp.hook_out", "gate": "mlp.hook_pre", "up": "mlp.hook_pre_linear"}
"""Role -> where TransformerLens has the same values of a gated network."""
_TORCH = """\
# model: as transformers loads it
def zero(x, indices):
    x = x.clone()
    x[..., indices] = 0
    return x
"""
_NNSIGHT = """\
from nnsight import NNsight

traced = NNsight(model)
with traced.trace(**inputs):"""
_LENS = """\
# model: a TransformerBridge of the language model (TransformerLens 4)
def zero(indices):
    def hook(x, hook):
        x[..., indices] = 0
        return x
    return hook

model.run_with_hooks(tokens, fwd_hooks=["""


@dataclass(frozen=True)
class Repeat:
    """The same mask without lesion.

    Attributes:
        neurons: What is masked.
        snippets: Name of the library and code.
    """

    neurons: Sequence[NeuronEntry]
    snippets: Sequence[tuple[str, str]]

    @classmethod
    def of(cls, result: Result) -> Repeat:
        """Of the smallest set that a study has; without code where its mask is not zero at every token."""
        found = None if result.searched is None else result.searched.neurons
        sets = [s for s in (found, result.minimal_set, result.critical_neurons) if s]
        neurons = min(sets, key=len, default=[])
        plain = (result.options.get("mask"), result.options.get("mask_positions")) == ("zero", "all")
        return cls(neurons, snippets(neurons) if plain else [])

    @property
    def what(self) -> str:
        return f"these {len(self.neurons)} neurons" if len(self.neurons) > 1 else "this neuron"


def snippets(neurons: Sequence[NeuronEntry]) -> list[tuple[str, str]]:
    """Code that masks neurons, by library; none for large sets, heads, experts, and what is no module's name."""
    if not neurons or len(neurons) > MOST or any(n.expert is not None or n.role not in _HOOKS for n in neurons):
        return []
    if not all(_PATH.fullmatch(n.path) for n in neurons):
        return []  # code is made to be run, and a result may come from anyone
    by_module: dict[tuple[str, str], list[int]] = {}
    for n in neurons:
        by_module.setdefault((n.path, "input" if n.role == "hidden" else "output"), []).append(n.index)
    found = [("PyTorch", _torch(by_module)), ("nnsight", _nnsight(by_module))]
    if all(n.component == "language" for n in neurons):
        found.append(("TransformerLens", _lens(neurons)))
    return found


def _torch(by_module: dict[tuple[str, str], list[int]]) -> str:
    lines = [_TORCH]
    for (path, side), indices in by_module.items():
        module = f"model.get_submodule({path!r})"
        if side == "input":
            lines.append(f"{module}.register_forward_pre_hook(lambda m, args: (zero(args[0], {indices}),))")
        else:
            lines.append(f"{module}.register_forward_hook(lambda m, args, output: zero(output, {indices}))")
    return "\n".join(lines)


def _nnsight(by_module: dict[tuple[str, str], list[int]]) -> str:
    lines = [_NNSIGHT]
    for (path, side), indices in by_module.items():
        steps = "".join(f"[{step}]" if step.isdigit() else f".{step}" for step in path.split("."))
        lines.append(f"    traced{steps}.{side}[..., {indices}] = 0")
    return "\n".join([*lines, "    logits = traced.output.logits.save()"])


def _lens(neurons: Sequence[NeuronEntry]) -> str:
    by_hook: dict[str, list[int]] = {}
    for n in neurons:
        by_hook.setdefault(f"blocks.{n.layer}.{_HOOKS[n.role]}", []).append(n.index)
    return "\n".join([_LENS, *(f"    ({hook!r}, zero({indices}))," for hook, indices in by_hook.items()), "])"])
