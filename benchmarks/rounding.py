"""``python -m benchmarks.rounding``: whether it helps rounding to keep critical weights out of it, on SmolLM2.

Every linear layer of the language model (or those of one feed-forward network) is rounded, with some weights kept
(:mod:`lesion.remedies.rounding`), and the model is then asked how likely two texts are: the beginning of a page of Python's
reference, which the standard library carries, and the unrounded model's own answers to embedded prompts. What is kept is the
critical set, as many neurons of the same layer and role by chance, or as many single weights, the largest of the whole model.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

import numpy as np
import torch

from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import Sample, load_samples
from lesion.hooks.edit import edited
from lesion.models.loading import load
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.rounding import By, Kept, Rounding, entries, kept, largest, layers

LAYER, CHANNEL, UNITS = 11, 507, (1229, 1487)
"""What a study by activation finds in `down`, and the pair of `hidden` units that it finds (docs/real-weights.md)."""
TOPIC, TOKENS, WINDOW = "types", 2048, 512
PROMPTS, ANSWER, EVERY = 16, 24, 64
BITS, SEEDS = (8, 4, 3), range(5)
BLOCKS: tuple[By, ...] = ("row", "group", "tensor")
GROUP, OTHER_GROUPS = 64, (32, 96, 192)
"""Inputs that share a scale; in groups of other sizes only the pair is kept: to see whether its sign is the same."""
BROKEN = 2.0
"""Where rounding alone costs so many nats a token on the plain text, no sets are drawn: there is no model left to help."""
PAIR, ROWS, COLUMNS = 3, "rows of hidden", "columns of hidden"
"""A turn for the critical pair and its parts: what it reads by, and what it writes through."""
COUNTED, LEFT_OUT = "counted", "left out"
"""Whether what is kept counts in its block's scale."""


@dataclass(frozen=True)
class Text:
    """Token ids ``[1, tokens]``, of which those from ``start`` on are asked about."""

    name: str
    ids: torch.Tensor
    start: int


@dataclass(frozen=True)
class Keep:
    """Something to keep: a name, a seed where chance chose it, and whether all of it is in :data:`LAYER`'s network."""

    name: str
    masks: Kept
    seed: int | None = None
    inside: bool = True

    @property
    def weights(self) -> int:
        return sum(int(mask.sum()) for mask in self.masks.values())


class Reader:
    """Reads texts with a Llama-type decoder, from a layer on: what the layers below give is computed once."""

    def __init__(self, model: Any, texts: Sequence[Text], layer: int) -> None:
        self._model, self._texts, self._layer = model, texts, layer
        self._inputs = [self._reached(text) for text in texts]

    def nlls(self) -> dict[str, list[list[float]]]:
        """Text's name -> for each part of it, the negative log-likelihood of its tokens in nats."""
        found: dict[str, list[list[float]]] = {}
        model = self._model
        with torch.inference_mode():
            for text, (hidden, options) in zip(self._texts, self._inputs, strict=True):
                for layer in model.model.layers[self._layer :]:
                    hidden = layer(hidden, **options)
                logits = model.lm_head(model.model.norm(hidden[:, text.start - 1 : -1])).float()
                picked = torch.log_softmax(logits, -1).gather(-1, text.ids[:, text.start :, None])
                found.setdefault(text.name, []).append((-picked).flatten().tolist())
        return found

    def _reached(self, text: Text) -> tuple[torch.Tensor, dict[str, Any]]:
        """What a layer is called with."""
        seen: list[tuple[torch.Tensor, dict[str, Any]]] = []

        def stop(_module: Any, args: Any, kwargs: Any) -> None:
            seen.append((args[0], kwargs))
            raise StopIteration

        handle = self._model.model.layers[self._layer].register_forward_pre_hook(stop, with_kwargs=True)
        try:
            with torch.inference_mode():
                self._model(text.ids, use_cache=False)
        except StopIteration:
            pass
        finally:
            handle.remove()
        return seen[0]


def texts(vlm: VisionLanguageModel) -> list[Text]:
    """What the model is asked about."""
    ids = vlm.tokenizer(topics[TOPIC], return_tensors="pt").input_ids[:, :TOKENS]
    plain = [Text("plain", window, 1) for window in ids.split(WINDOW, dim=1)]
    return plain + _answers(vlm, load_samples("prompts", PROMPTS))


def fresh(vlm: VisionLanguageModel) -> list[Text]:
    """Answers to the embedded prompts that :func:`texts` does not ask."""
    asked = {sample.id for sample in load_samples("prompts", PROMPTS)}
    return _answers(vlm, [sample for sample in load_samples("prompts", EVERY) if sample.id not in asked])


def _answers(vlm: VisionLanguageModel, samples: Sequence[Sample]) -> list[Text]:
    prompts = [vlm.prompt(sample) for sample in samples]
    found = []
    for prompt, answer in zip(prompts, vlm.generate(vlm.embed(prompts), ANSWER), strict=True):
        before = prompt.inputs["input_ids"]
        found.append(Text("answers", torch.cat([before, torch.tensor([answer.ids])], 1), before.shape[1]))
    return found


def keeps(vlm: VisionLanguageModel) -> list[Keep]:
    """What is kept by turns."""
    sites = {s.role: s for s in vlm.sites if s.component == "language" and s.layer == LAYER}
    path = sites["down"].path
    found: list[Keep] = [Keep("nothing", {})]
    for role, members in (("down", (CHANNEL,)), ("hidden", UNITS)):
        site = sites[role]
        critical = NeuronSet(Neuron(site, i) for i in members)
        found.append(Keep(f"critical {role}", kept(vlm.model, critical)))
        others = np.setdiff1d(np.arange(site.width), members)
        for seed in SEEDS:
            drawn = np.random.default_rng(seed).choice(others, len(members), replace=False)
            found.append(Keep(f"random {role}", kept(vlm.model, NeuronSet.from_arrays({site: drawn})), seed))
        found.append(Keep(f"largest, as many as {role}", largest(vlm.model, found[-len(SEEDS) - 1].weights), inside=False))
    pair = next(keep.masks for keep in found if keep.name == "critical hidden")
    found.append(Keep(COLUMNS, {path: pair[path]}))
    found.append(Keep(ROWS, {other: mask for other, mask in pair.items() if other != path}))
    found.append(Keep("two weights", entries(vlm.model, [(path, CHANNEL, unit) for unit in UNITS])))
    return found


def cases(keeps: Sequence[Keep], scope: str, turn: int) -> Iterator[tuple[Keep, str]]:
    """What is kept, and how: first what is critical and the largest weights, then chance, then controls that are counted.

    Args:
        keeps: Everything.
        scope: What is rounded.
        turn: 0, 1 or 2; or :data:`PAIR` for the critical pair and its parts alone.
    """
    if turn == PAIR:
        yield from ((keep, LEFT_OUT) for keep in keeps if keep.name in ("nothing", "critical hidden", ROWS, COLUMNS))
        return
    for keep in (keep for keep in keeps if keep.name not in (ROWS, COLUMNS)):
        for how in (LEFT_OUT, COUNTED):
            if (keep.name == "nothing" and how == COUNTED) or (scope != "all" and not keep.inside):
                continue
            control = keep.seed is not None or not keep.inside
            if turn == (2 if control and how == COUNTED else 1 if keep.seed is not None else 0):
                yield keep, how


def row(nlls: dict[str, list[list[float]]], **about: Any) -> dict[str, Any]:
    """Mean nats a token of each text, and of each part of it."""
    means = {name: statistics.fmean(t for part in parts for t in part) for name, parts in nlls.items()}
    parts = {f"{name}_parts": [round(statistics.fmean(part), 6) for part in parts] for name, parts in nlls.items()}
    return {**about, **{name: round(mean, 6) for name, mean in means.items()}, **parts}


def key(row: dict[str, Any]) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("scope", "bits", "by", "keep", "how", "seed"))


def main() -> None:
    """Measures what the file does not have yet, and prints the tables."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.rounding", description=__doc__)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--fresh", action="store_true", help="the critical pair alone, on the other prompts")
    parser.add_argument("--table", action="store_true", help="print the tables of what is there, and measure nothing")
    options = parser.parse_args()
    out = options.out or Path(__file__).with_name("rounding_fresh.json" if options.fresh else "rounding.json")
    rows: list[dict[str, Any]] = json.loads(out.read_text())["rows"] if out.exists() else []
    if not options.table:
        (confirm if options.fresh else measure)(rows, out)
    for text in ("answers",) if options.fresh else ("plain", "answers"):
        print(f"\nthe pair, {text}\n", *paired(rows, text), sep="\n")
    for scope in ("all", "layer"):
        for how in (LEFT_OUT, COUNTED):
            for text in ("plain", "answers"):
                lines = table(rows, scope, how, text)
                if lines:
                    print(f"\n{scope} rounded, {how}, {text}\n", *lines, sep="\n")


def measure(rows: list[dict[str, Any]], out: Path) -> None:
    """Adds what is missing, each row as soon as it is there."""
    vlm = load("smollm2")
    bench = Bench(vlm, rows, out, texts(vlm))
    grid: list[tuple[int, By]] = [(bits, by) for some in ((4, 3), (8,)) for bits in some for by in BLOCKS]
    # What is most likely to show something comes first.
    for turn in range(3):
        for scope in ("all", "layer"):
            for bits, by in grid:
                bench.cell(scope, bits, by, turn)
    for bits in (4, 3):
        for group in OTHER_GROUPS:
            bench.cell("all", bits, "group", PAIR, group)


def confirm(rows: list[dict[str, Any]], out: Path) -> None:
    """Adds what the other prompts say of the critical pair and its parts."""
    vlm = load("smollm2")
    bench = Bench(vlm, rows, out, fresh(vlm))
    bench.cell("all", 4, "group", PAIR)
    bench.cell("all", 4, "row", PAIR)
    bench.cell("all", 3, "group", PAIR)
    for group in OTHER_GROUPS:
        bench.cell("all", 4, "group", PAIR, group)


class Bench:
    """The model, what it is asked, what is kept by turns, and the rows so far."""

    def __init__(self, vlm: VisionLanguageModel, rows: list[dict[str, Any]], out: Path, asked: Sequence[Text]) -> None:
        self._model, self._rows, self._out = vlm.model, rows, out
        self._texts, self._keeps = asked, keeps(vlm)
        network = next(s.path for s in vlm.sites if s.role == "down" and s.layer == LAYER).rpartition(".")[0]
        self._inside = tuple(path for path in layers(self._model) if path.startswith(f"{network}."))
        self._outside = tuple(path for path in layers(self._model) if path not in self._inside)
        outer = [keep for keep in self._keeps if not keep.inside]
        inside = {k.name: sum(int(m.sum()) for path, m in k.masks.items() if path in self._inside) for k in outer}
        tokens = {name: sum(t.ids.shape[1] - t.start for t in asked if t.name == name) for name in ("plain", "answers")}
        self._about = {
            "model": str(vlm.identity()), "python": sys.version.split()[0], "topic": TOPIC, "tokens": tokens,
            "topic_sha256": hashlib.sha256(topics[TOPIC].encode()).hexdigest()[:16], "largest_inside": inside,
        }  # fmt: skip
        intact = self._missing("none", 32, "row", self._keeps[0], LEFT_OUT)
        if intact is not None:
            self._add(Reader(self._model, self._texts, 0), intact)

    def cell(self, scope: str, bits: int, by: By, turn: int, group: int = GROUP) -> None:
        """Measures one way of rounding, with what is kept in a turn (:func:`cases`)."""
        name = by if group == GROUP else f"group of {group}"
        named = [(k, how, self._missing(scope, bits, name, k, how)) for k, how in cases(self._keeps, scope, turn)]
        todo = [(k, how, what) for k, how, what in named if what is not None]
        if not todo or (turn in (1, 2) and broken(self._rows, scope, bits, name)):
            return
        bare = [Rounding(bits, by, group, only=self._outside)] if scope == "all" else []
        with edited(self._model, bare):
            reader = Reader(self._model, self._texts, LAYER)
            for keep, how, what in (entry for entry in todo if entry[0].inside):
                with edited(self._model, [Rounding(bits, by, group, keep.masks, how == COUNTED, self._inside)]):
                    self._add(reader, what)
        for keep, how, what in (entry for entry in todo if not entry[0].inside):
            with edited(self._model, [Rounding(bits, by, group, keep.masks, how == COUNTED)]):
                self._add(Reader(self._model, self._texts, 0), what)

    def _missing(self, scope: str, bits: int, by: str, keep: Keep, how: str) -> dict[str, Any] | None:
        """What a row is about; None where it is there."""
        what = {
            "scope": scope, "bits": bits, "by": by, "keep": keep.name, "how": how, "seed": keep.seed, "weights": keep.weights
        }
        return None if key(what) in map(key, self._rows) else what

    def _add(self, reader: Reader, what: dict[str, Any]) -> None:
        self._rows.append(row(reader.nlls(), **what))
        self._out.write_text(json.dumps({**self._about, "rows": self._rows}, indent=1) + "\n")
        print(json.dumps({k: v for k, v in self._rows[-1].items() if not k.endswith("_parts")}), flush=True)


def broken(rows: Sequence[dict[str, Any]], scope: str, bits: int, by: str) -> bool:
    """Whether the model is lost with nothing kept."""
    bare = {(r["scope"], r["bits"], r["by"]): r["plain"] for r in rows if r["keep"] == "nothing"}
    return bare[scope, bits, by] - bare["none", 32, "row"] > BROKEN


def table(rows: Sequence[dict[str, Any]], scope: str, how: str, text: str) -> list[str]:
    """Lines of Markdown: for each way of rounding the perplexity with nothing kept, and how many nats a token keeping adds.

    Args:
        rows: As :func:`row` makes them.
        scope: What was rounded.
        how: Whether what is kept counts in the scale.
        text: Which of the texts.

    Returns:
        Less than nothing helps. Of random sets the mean, the least and the most over seeds. Empty where nothing was measured.
    """
    cells: dict[tuple[int, str], dict[str, list[float]]] = {}
    for r in rows:
        if r["scope"] == scope and text in r and (r["how"] == how or r["keep"] == "nothing"):
            cells.setdefault((r["bits"], r["by"]), {}).setdefault(r["keep"], []).append(r[text])
    names = list(dict.fromkeys(name for cell in cells.values() for name in cell if name != "nothing"))
    lines = [f"| bits | scale | nothing kept | {' | '.join(names)} |", "|---" * (3 + len(names)) + "|"] if names else []
    for (bits, by), cell in sorted(cells.items(), key=lambda c: (-c[0][0], where(c[0][1]))) if names else []:
        base = cell["nothing"][0]
        shown = [difference([value - base for value in cell.get(name, [])]) for name in names]
        lines.append(f"| {bits} | {by} | {math.exp(base):,.4g} | {' | '.join(shown)} |")
    return lines


def paired(rows: Sequence[dict[str, Any]], text: str) -> list[str]:
    """Lines of Markdown: what rounding costs, what keeping the pair adds to that, and over how many parts of a text."""
    bare = {(r["scope"], r["bits"], r["by"]): r for r in rows if r["keep"] == "nothing"}
    lines = ["| bits | scale | rounding costs | pair kept | standard error | better |", "|---|---|---|---|---|---|"]
    for r in rows:
        if r["keep"] != "critical hidden" or r["how"] != LEFT_OUT or r["scope"] != "all" or text not in r:
            continue
        base = bare["all", r["bits"], r["by"]]
        changes = [kept - nothing for kept, nothing in zip(r[f"{text}_parts"], base[f"{text}_parts"], strict=True)]
        error = statistics.stdev(changes) / math.sqrt(len(changes))
        better = sum(change < 0 for change in changes)
        costs = base[text] - bare["none", 32, "row"][text]
        cells = f"{costs:.3f} | {r[text] - base[text]:+.3f} | {error:.3f} | {better} of {len(changes)}"
        lines.append(f"| {r['bits']} | {r['by']} | {cells} |")
    return lines


def where(by: str) -> tuple[int, int]:
    """Sorts kinds of blocks."""
    kind, _, size = by.partition(" of ")
    return [*BLOCKS].index(kind), int(size or GROUP)


def difference(values: Sequence[float]) -> str:
    """One number, or the mean of several and their range; a dash for none."""
    if len(values) < 2:
        return f"{values[0]:+.4f}" if values else "-"
    return f"{statistics.fmean(values):+.4f} ({min(values):+.4f} to {max(values):+.4f})"


if __name__ == "__main__":
    main()
