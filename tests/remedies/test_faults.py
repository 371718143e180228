"""Faults: what is drawn, what becomes of the model, and that a campaign that was killed goes on as if it had not been."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from lesion import load
from lesion.cli.app import app
from lesion.cli.show_faults import MOST_ROWS, show_faults
from lesion.core.errors import ModelError, NeuronSetError, OptionError, RunError
from lesion.core.journal import Journal
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood
from lesion.data.samples import load_samples
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies import faults as measuring
from lesion.remedies.campaign import campaign
from lesion.remedies.fault_draw import POPULATIONS
from lesion.remedies.fault_outcome import OUTCOMES, SHOWS, Contrast, Outcome, Shares, grouped, outcome_of
from lesion.remedies.faults import CHUNK, FILE, GUARDED, Faults
from lesion.remedies.guard import Guard
from tests.hooks.test_edit import state
from tests.remedies.conftest import LONGEST
from tests.remedies.test_harden import PROMPT, critical

OPTIONS: dict[str, Any] = {
    "samples": 2, "criterion": "perplexity", "component": "language", "role": "all", "max_new_tokens": LONGEST,
}  # fmt: skip


@pytest.fixture(scope="module")
def vlm() -> VisionLanguageModel:
    return load("tiny-llava")




# -- outcomes ----------------------------------------------------------------------------------------------------------
def test_the_four_outcomes():
    """Of a criterion that says collapsed from a mean NLL of 5 on; the intact model's is 2."""
    intact = [SimpleNamespace(reference=Likelihood.of([1.0, 3.0])), SimpleNamespace(reference=Likelihood.of([2.0, 2.0]))]
    baseline: Any = SimpleNamespace(intact=SimpleNamespace(outcomes=intact))

    def decide(_: Any, reading: list[Likelihood]) -> str:
        return "collapsed" if sum(o.nll or 0 for o in reading) / len(reading) >= 5 else "standing"

    criterion: Any = SimpleNamespace(decide_early=decide)

    def outcome(*nll: float) -> str:
        return outcome_of(criterion, baseline, [Likelihood.of([value, value]) for value in nll])

    assert outcome(2.0, 2.0) == "masked" and outcome(1.0, 3.0) == "masked"
    assert outcome(2.0, 2.0 + 1.9 * SHOWS) == "masked" and outcome(2.0, 2.0 + 2.1 * SHOWS) == "degraded"
    assert outcome(2.0, 2.0 - 2.1 * SHOWS) == "degraded" and outcome(4.9, 5.0) == "degraded"
    assert outcome(5.0, 5.0) == "collapsed"
    assert outcome(math.nan, 2.0) == outcome(2.0, math.inf) == "non-finite"


def shares_of(name: str, collapsed: int = 0, broken: int = 0, masked: int = 0, degraded: int = 0) -> Shares:
    counts: dict[Outcome, int] = {"collapsed": collapsed, "non-finite": broken, "masked": masked, "degraded": degraded}
    return Shares.of(name, [outcome for outcome, count in counts.items() for _ in range(count)], sum(counts.values()))


def test_shares_and_contrasts():
    more = shares_of("a", collapsed=40, broken=16, masked=14)
    less = shares_of("b", collapsed=48, degraded=32)
    assert more.counts == {"masked": 14, "degraded": 0, "collapsed": 40, "non-finite": 16}
    assert list(more.counts) == list(OUTCOMES)
    assert (more.failures, more.failed, less.failures) == (56, 0.8, 48)
    contrast = Contrast.of(more, less)
    assert contrast.interval == pytest.approx((0.0524, 0.3339), abs=6e-5) and contrast.differs
    assert str(contrast) == "a less b: +20.0 points of faults fail (95 % interval 5.2 to 33.4)"
    assert str(Contrast.of(more, more)).endswith("which does not tell them apart") and not Contrast.of(more, more).differs
    entries: list[dict[str, Any]] = [{"bit": bit, "outcome": "masked", "trial": str(bit)} for bit in (30, None, 9, 30)]
    assert [(s.name, s.drawn, s.different) for s in grouped(entries, "bit")] == [("9", 1, 1), ("30", 2, 1)]


# -- campaigns ---------------------------------------------------------------------------------------------------------
def go(vlm: VisionLanguageModel, held: Path, out: Path, **more: Any) -> Faults:
    return campaign(str(held / "set.json"), vlm, out=out, **OPTIONS | more)


def test_losing_the_critical_units_fails_and_a_guard_prevents_it(vlm: VisionLanguageModel, held: Path, tmp_path: Path):
    before = state(vlm.model)
    asked: dict[str, Any] = {"where": "activations", "action": "zero", "at_once": 4, "guard": str(held / "guard")}
    found = go(vlm, held, tmp_path / "run", count=8, **asked)
    assert state(vlm.model) == before
    shares = {share.name: share for share in found.populations}
    assert list(shares) == [*POPULATIONS, GUARDED] and all(share.drawn == 8 for share in found.populations)
    assert shares["critical"].failures == 8 and shares["matched"].failures == shares[GUARDED].failures == 0
    contrasts = {contrast.less: contrast for contrast in found.contrasts}
    assert contrasts["matched"].differs and contrasts["matched"].interval[0] > 0 and contrasts[GUARDED].interval[0] > 0
    assert found.what == "zero in activations, fp32, 4 at once" and found.by_bit == {}
    assert [(s.name, s.drawn) for s in found.by_layer["critical"]] == [("1", 8)] == [
        (s.name, s.drawn) for s in found.by_layer[GUARDED]
    ]
    assert [(s.name, s.drawn) for s in found.by_part["matched"]] == [("gate", 8)]


def test_a_guard_mends_weights_to_the_bit(vlm: VisionLanguageModel, held: Path, tmp_path: Path):
    """With bits of the exponent in four weights at once, and the same faults with the guard."""
    before = state(vlm.model)
    found = go(vlm, held, tmp_path / "run", count=6, on=["critical"], bit=30, at_once=4, guard=str(held / "guard"))
    assert state(vlm.model) == before
    lines = Journal(tmp_path / "run" / FILE).read()[1:]
    struck, mended = ([line for line in lines if line["arm"] == arm] for arm in ("critical", GUARDED))
    assert [line["faults"] for line in struck] == [line["faults"] for line in mended]
    assert len({line["nll"] for line in mended}) == 1 and len({line["nll"] for line in struck}) > 1
    assert {line["outcome"] for line in mended} == {"masked"} != {line["outcome"] for line in struck}
    assert math.exp(mended[0]["nll"]) == pytest.approx(found.perplexity)
    assert {s.name for s in found.by_part["critical"]} <= {"gate_proj", "up_proj", "down_proj"}
    assert [s.name for s in found.by_bit["critical"]] == ["30"] and len(found.contrasts) == 1


def test_a_campaign_that_was_killed_goes_on(vlm: VisionLanguageModel, held: Path, tmp_path: Path, monkeypatch: Any):
    asked: dict[str, Any] = {"count": CHUNK // 8 + 2, "on": ["critical", "everything"]}
    monkeypatch.setattr(measuring, "CHUNK", CHUNK // 8)
    whole = go(vlm, held, tmp_path / "whole", **asked)
    append, written = Journal.append, []

    def dies(journal: Journal, entries: Any) -> Any:
        if journal.path.name == FILE:
            written.append(len(entries))
            if len(written) == 4:
                with journal.path.open("ab") as file:
                    file.write(b'{"arm": "every')  # half a line
                raise KeyboardInterrupt
        return append(journal, entries)

    before = state(vlm.model)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Journal, "append", dies)
        go(vlm, held, tmp_path / "run", **asked)
    assert written == [1, 4, 2, 4] and state(vlm.model) == before
    again = go(vlm, held, tmp_path / "run", **asked)
    assert (tmp_path / "run" / FILE).read_bytes() == (tmp_path / "whole" / FILE).read_bytes()
    same = {"run": ""}
    assert again.model_copy(update=same) == whole.model_copy(update=same)
    monkeypatch.setattr(measuring._Work, "_lines", lambda *_: pytest.fail("it is all there"))
    assert go(vlm, held, tmp_path / "run", **asked) == again
    fewer = go(vlm, held, tmp_path / "run", **asked | {"count": 3, "on": ["everything"]})
    assert [share.drawn for share in fewer.populations] == [3] and fewer.contrasts == []


def test_a_folder_holds_one_campaign(vlm: VisionLanguageModel, held: Path, tmp_path: Path):
    run: dict[str, Any] = {"count": 1, "on": ["critical"], "guard": str(held / "guard")}
    go(vlm, held, tmp_path / "run", **run)
    for other in ({"bit": 3}, {"action": "zero"}, {"at_once": 2}, {"format": "int8"}):
        with pytest.raises(RunError, match="is about other faults, another model or data; delete it, or give another --out"):
            go(vlm, held, tmp_path / "run", **run | other)
    with pytest.raises(RunError, match="holds another study"):
        go(vlm, held, tmp_path / "run", **run, seed=1)
    Guard.make(vlm, critical(vlm), load_samples("scenes", 2), PROMPT, 2).save(tmp_path / "other")
    with pytest.raises(RunError, match="was measured with another guard; delete it, or give another --out"):
        go(vlm, held, tmp_path / "run", **run | {"guard": str(tmp_path / "other")})
    assert go(vlm, held, tmp_path / "run", count=2, on=["critical"]).populations[0].drawn == 2


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"on": ["critical", "some"]}, OptionError, "faults strike 'some'; expected any of critical, matched, everything"),
    ({"count": 0}, OptionError, "faults is 0; expected at least 1"),
    ({"where": "caches"}, OptionError, "faults are in 'caches'"), ({"action": "melt"}, OptionError, "fault is 'melt'"),
    ({"format": "fp8"}, OptionError, "format is 'fp8'"), ({"bit": 32}, OptionError, "bit is 32; a number in fp32 has"),
    ({"bit": -1}, OptionError, "bit is -1"), ({"bit": 16, "format": "bf16"}, OptionError, "bit is 16; a number in bf16"),
    ({"at_once": 0}, OptionError, "faults at once are 0"), ({"at_once": 5}, OptionError, "5 faults at once need as many"),
    ({"mask_positions": "first"}, OptionError, "are for faults in activations"),
    ({"mask_positions": "first", "where": "activations", "component": "all", "role": "hidden"}, OptionError, "are tokens of"),
    ({"top": 3}, OptionError, "--top needs --run RUN"), ({"guard": "nowhere"}, ModelError, "no guard at nowhere"),
    ({"chosen": "nowhere.json"}, NeuronSetError, "nowhere.json"), ({"samples": 0}, OptionError, "samples is 0"),
    ({"guard": "less"}, OptionError, "does not guard .*; make one of the same neurons"),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "error", "message"), WRONG, ids=lambda value: str(value)[:40])
def test_what_is_wrong_is_said_before_a_folder_is_made(
    vlm: VisionLanguageModel, held: Path, tmp_path: Path, asked: dict[str, Any], error: type[Exception], message: str
):
    if asked.get("guard") == "less":
        few = NeuronSet(list(critical(vlm))[:3])
        Guard.make(vlm, few, load_samples("scenes", 1), PROMPT, 2).save(tmp_path / "less")
        asked = {"guard": str(tmp_path / "less")}
    with pytest.raises(error, match=message):
        campaign(**{"chosen": str(held / "set.json"), "model": vlm, "out": tmp_path / "run", "count": 1, **OPTIONS, **asked})
    assert not (tmp_path / "run").exists()


def test_a_criterion_that_asks_for_more_is_refused(vlm: VisionLanguageModel, held: Path, tmp_path: Path):
    with pytest.raises(OptionError, match=r"needs more than the perplexity of the reference answers, .* take --criterion"):
        go(vlm, held, tmp_path / "run", count=1, criterion="degeneration")
    assert not (tmp_path / "run" / FILE).exists()


# -- the command -------------------------------------------------------------------------------------------------------
def run(held: Path, *words: str) -> Any:
    few = ("--samples", "2", "--max-new-tokens", str(LONGEST), "--faults", "4")
    return CliRunner().invoke(app, ["faults", "tiny-llava", str(held / "set.json"), *few, *words])


def test_the_command(held: Path, tmp_path: Path):
    out = ("--out", str(tmp_path / "run"), "--in", "activations", "--fault", "zero", "--at-once", "4")
    guarded = ("--guard", str(held / "guard"))
    done = run(held, *out, *guarded, "--json")
    assert done.exit_code == 0, done.stderr
    found = Faults.model_validate_json(done.stdout)
    assert found.run == str(tmp_path / "run") and [share.drawn for share in found.populations] == [4] * 4
    assert found.populations[0].failures == 4 and found.samples == 2 and found.neurons == 4
    shown = run(held, *out, *guarded)
    assert shown.exit_code == 0 and "faults in" in shown.stdout and "100 %" in shown.stdout
    assert "critical less matched: +100.0 points of faults fail" in shown.stdout.replace("\n", " ")
    one = run(held, "--out", str(tmp_path / "bits"), "--on", "critical", "--bit", "30")
    assert one.exit_code == 0 and "flip in weights, fp32, bit 30; 4 trials each" in one.stdout.replace("\n", " ")
    for words, message in [
        (("--fault", "melt"), "fault is 'melt'"), (("--on", "some"), "faults strike 'some'"),
        (("--bit", "40"), "bit is 40; a number in fp32 has bits 0 to 31"), (("--in", "caches"), "faults are in 'caches'"),
    ]:  # fmt: skip
        wrong = run(held, "--out", str(tmp_path / "wrong"), *words)
        assert wrong.exit_code == 2 and message in wrong.stderr and not (tmp_path / "wrong").exists()


def test_the_worst_places_are_shown():
    """Where none failed there is no line; more than fit are cut."""
    rows = [shares_of(str(bit), collapsed=bit % 3, masked=3) for bit in range(3 * MOST_ROWS)]
    shares = shares_of("critical", masked=1, collapsed=1)
    found = Faults(
        model="m", neurons=1, what="flip", criterion="c", samples=1, perplexity=None, populations=[shares], contrasts=[],
        by_bit={"critical": rows}, by_layer={"critical": rows[1:2]}, by_part={}, run="r",
    )  # fmt: skip
    console = Console(record=True, width=160)
    with console.capture() as seen:
        show_faults(found, console)
    text = seen.get()
    assert f"the worst {MOST_ROWS} of {2 * MOST_ROWS}" in text and "critical: bit 2 (5)" in text and "bit 3 (" not in text
    assert "bit 1 (" not in text and "layer" not in text
