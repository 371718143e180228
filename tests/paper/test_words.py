"""What the parts say, on curves made from numbers: no more than these curves show."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
from matplotlib.colors import to_hex

from lesion.ablation.measure import Control
from lesion.ablation.minimal import Minimal
from lesion.core.collapse import Collapse, detect_collapse
from lesion.core.criterion import Decision
from lesion.core.curve import Curve
from lesion.core.evaluation import Evaluation
from lesion.core.metrics import METRICS
from lesion.core.modes import COLOURS, MEANINGS
from lesion.core.neurons import Neuron, NeuronSet
from lesion.core.outcome import MODES, Mode, SampleOutcome
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.data.samples import Sample
from lesion.paper.categories import Categories, Transfer
from lesion.paper.cell import Cell, CellKey
from lesion.paper.collapse_modes import CollapseModes
from lesion.paper.expected import DirectMask, Expected
from lesion.paper.luck import ControlCount, LeaveOneOut, Luck, Proof
from lesion.paper.masks import MaskEffect, Masks
from lesion.paper.methods import Method, Methods
from lesion.paper.part import Part, for_people
from lesion.paper.stability import Stability
from lesion.paper.two_stages import TwoStages
from lesion.paper.verdict import Verdicts
from lesion.paper.where import Where
from lesion.scoring.options import ScoreOptions
from lesion.study.published import known
from lesion.study.verdict import Verdict
from tests import synthetic

WIDTH = 2000
KS, FALLS, SCORES = (0, 1, 2, 4, 6), (0.1, 0.1, 0.12, 5.0, 5.0), (80.0, 80.0, 79.0, 20.0, 20.0)


def cell(curve: Curve, role: str = "gate", component: Any = "language", width: int = WIDTH) -> Cell:
    site = Site("m.gate_proj", component, role, 1, width)
    ranking = Ranking.of([Neuron(site, i) for i in range(width)], Sites([site]), "can")
    key = CellKey(component, role, "can", ScoreOptions(), "ranked", "measured", "zero")
    label = f"{component} {role}"
    return Cell(key, label, label, ranking, curve, detect_collapse(curve))


def falls(samples: int = 8) -> Cell:
    return cell(synthetic.curve(KS, FALLS, SCORES, samples))


def stands(width: int = WIDTH, ks: Sequence[int] = KS) -> Cell:
    return cell(synthetic.curve(ks, [0.1] * len(ks), [80.0] * len(ks)), width=width)


def undecided() -> Cell:
    """The perplexity has risen, and the CLIP score is at chance in some samples and not in others."""
    good, bad = [80.0, 81.0, 79.0, 80.0], [20.0, 60.0, 20.0, 21.0]
    points = [synthetic.point(k, [0.1] * 4 if k == 0 else [5.0] * 4, good if k == 0 else bad) for k in (0, 3, 4)]
    return cell(Curve(points, [synthetic.CHANCE] * 4))


def without_clip(made: Cell) -> Cell:
    points = [Evaluation(p.k, tuple(replace(o, clip=None) for o in p.outcomes)) for p in made.curve]
    return cell(Curve(points))


def text(part: Part) -> str:
    assert part.plot() is not None and part._repr_html_()
    return "\n".join(part.words())


def verdict_of(made: Cell, random: tuple[int, int] = (10, 0), complaints: Sequence[str] = ()) -> Verdict:
    layers = [("language", 1)] * len(made.critical)
    return Verdict("m", "language", made.key.role, len(made.ranking), made.collapse, layers, random, complaints)


def verdicts(made: Cell, random: tuple[int, int] = (10, 0), complaints: Sequence[str] = ()) -> Verdicts:
    judged = verdict_of(made, random, complaints)
    return Verdicts("m", {"gate": made}, {"gate": judged}, tuple(complaints), ())


# -- undecided -------------------------------------------------------------------------------------------------------------
def test_what_samples_do_not_decide_is_called_undecided_everywhere():
    made = undecided()
    assert made.k_star is None and made.collapse.undecided == (3, 4) and made.collapse.collapsed == ()
    assert made.star() == "undecided at 3 and 4" and made.outcome == "undecided"
    assert [row["decision"] for row in made.points()] == ["standing", "undecided", "undecided"]
    method = Method("scorer", "random", (0, 0), made, None, None)
    parts: list[Part] = [
        Where("m", (made,)), TwoStages("m", {"gate": made}), Categories("m", {"a": made}, (), ()),
        Methods("m", "gate", (method,)), Masks("m", (), {"zero": made}), Luck("m", (Proof("gate", made, None, (), ()),), 1.0),
        Stability("m", "gate", (), {4: made}), verdicts(made),
    ]  # fmt: skip
    for part in parts:
        words = text(part)
        assert "ndecided" in words or "do not decide" in words, part.name
        assert not any(claim in words for claim in ("none up to", "no k*", "still stands", "No collapse")), part.name
    assert "open for: gate" in verdicts(made).words()[0]


def test_a_k_that_is_undecided_before_k_star_is_named():
    half = [*[20.0] * 4, *[60.0] * 4]
    points = [
        synthetic.point(0, [0.1] * 8, [80.0] * 8), synthetic.point(2, [0.1] * 8, [80.0] * 8),
        synthetic.point(3, [5.0] * 8, half), *(synthetic.point(k, [5.0] * 8, [20.0] * 8) for k in (4, 6)),
    ]  # fmt: skip
    made = cell(Curve(points, [synthetic.CHANCE] * 8))
    assert made.collapse.undecided == (3,)
    assert made.star() == "4 (undecided at 3)" and made.outcome == "collapse; undecided at 3"
    assert made.row()["undecided_k"] == "3"
    assert "4 (undecided at 3)" in text(Stability("m", "gate", (), {8: made}))


def test_masks_that_decide_nothing_are_not_called_standing():
    made, point = falls(), falls().curve.at(4)
    words = text(Masks("m", (MaskEffect("gate", "mean", 4, "undecided", point),), {"zero": made}))
    assert "mean is undecided: the samples do not tell whether it collapses the model" in words
    words = text(Expected("m", known("tiny-llava"), (), (DirectMask("hidden", 4, "undecided", point),)))
    assert "directly is undecided" in words
    moves = [Transfer("a", "b", 4, decision, 1.7, None, None, "x", "y") for decision in ("undecided", "collapsed", "standing")]
    words = text(Categories("m", {"a": made, "b": made}, (), tuple(moves)))
    assert "in 1 of 3 cases. 1 are undecided." in words


def test_a_leave_one_out_that_is_undecided_does_not_prove_that_a_neuron_is_needed():
    made = falls()
    minimal = Minimal(made.ranking.top(2), True, 3)
    first, second = minimal.neurons

    def words(decision: Decision) -> str:
        certificate = LeaveOneOut(first, "standing", made.curve.at(1)), LeaveOneOut(second, decision, made.curve.at(1))
        return text(Luck("m", (Proof("gate", made, minimal, certificate, ()),), 1.0))

    assert "each is needed" in words("standing")
    assert "each is needed" not in words("undecided") and "undecided for 1 of them" in words("undecided")
    stopped = replace(minimal, verified=False)
    assert "whether fewer suffice is open" in text(Luck("m", (Proof("gate", made, stopped, (), ()),), None))


def test_an_undecided_control_set_counts_against_the_bound_and_is_no_evidence_for_a_verdict():
    point = falls().curve.at(1)
    decisions = ["standing"] * 6 + ["undecided"] * 4
    controls = tuple(Control("random", i, 4, point, d) for i, d in enumerate(decisions))  # pyright: ignore[reportArgumentType]
    not_drawn, another_kind = Control("random", 10, 4, None, None), Control("layers", 0, 4, point, "collapsed")
    count = ControlCount.of((*controls, not_drawn, another_kind), "random")
    assert (count.drawn, count.fallen, count.undecided) == (10, 0, 4) and count.clear == (6, 0)
    all_stand = ControlCount.of(tuple(replace(c, decision="standing") for c in controls), "random")
    assert count.bound == pytest.approx(0.696, abs=0.001) and all_stand.bound == pytest.approx(0.259, abs=0.001)
    assert ControlCount.of((), "random").bound is None
    made = falls()
    words = text(Luck("m", (Proof("gate", made, Minimal(made.critical, True, 4), (), controls),), 1.0))
    assert "0 of 10 collapse the model, 4 undecided; with 95 % confidence at most 70 % of all such sets do" in words
    assert "random sets in the same layers (4): none was asked for" in words


# -- not measured ----------------------------------------------------------------------------------------------------------
def test_a_clip_score_that_was_not_measured_is_not_called_anything_else():
    made = without_clip(falls())
    assert made.k_star == 4
    part = TwoStages("m", {"gate": made})
    assert "perplexity of the intact answers goes from 1.127 to 148.4; the CLIP score is not measured at either" in text(part)
    (row,) = [r for r in for_people(part.table()) if r["k"] == 4]
    assert row["CLIP score"] == row["CLIP score at chance"] == "not measured"
    assert all(r["clip_score"] is None for r in part.table())
    assert "not finite" not in part._repr_html_()


def test_a_perplexity_that_is_not_finite_is_not_called_unmeasured():
    points = [synthetic.point(0, [0.1] * 8, [80.0] * 8), synthetic.point(4, [float("inf")] * 8, [20.0] * 8)]
    part = TwoStages("m", {"gate": cell(Curve(points, [20.0] * 8))})
    assert "goes from 1.105 to not finite" in text(part)
    assert for_people(part.table())[1][METRICS["ppl_reference"].label] == "not finite"


def test_few_samples_give_no_interval_and_no_stage_1():
    made = falls(samples=2)
    assert made.interval() == made.collapse.interval() and "too few" in (made.interval() or "")
    assert "stage 1 not tested: 2 measured samples are too few" in text(TwoStages("m", {"gate": made}))
    stages = [row["stage"] for row in TwoStages("m", {"gate": made}).table()]
    assert stages == [None, None, None, 2, 2]
    assert {row["nll_reference_low"] for row in TwoStages("m", {"gate": made}).table()} == {None}
    assert "an example, not evidence" in text(verdicts(made))
    enough = [row["stage"] for row in TwoStages("m", {"gate": falls()}).table()]
    assert enough == [0, 0, 1, 2, 2]


def test_an_interval_that_is_open_is_said_in_words():
    made = falls()
    made = replace(made, collapse=replace(made.collapse, k_star_ci=(4, None)))
    words = text(Stability("m", "gate", (), {8: made}))
    assert "95 % interval from 4 up" in words and "none" not in words
    (row,) = Stability("m", "gate", (), {8: made}).table()
    assert row["k_star_high"] is None and row["interval"].startswith("95 % interval from 4 up")
    (shown,) = for_people([row])
    assert shown["95 % interval of k*"] == row["interval"] and "k_star_high" not in shown


# -- the smallest k*, and none -----------------------------------------------------------------------------------------------
def test_none_is_said_up_to_what_was_tried():
    assert stands(6).star() == "none up to all 6" and stands().star() == "none up to 6"
    assert text(Where("m", (stands(6),))).startswith("No part of the model collapses it for good, however many")
    assert text(Where("m", (stands(),))).startswith("No k* up to 6 neurons in any part; larger sets were not tried.")
    brief = stands()
    brief = replace(brief, collapse=replace(brief.collapse, collapsed=(2,)))
    assert brief.star() == "none that lasts up to 6" and brief.clause() == "no k* that lasts up to 6"
    assert "gate: no k* up to 6; stage 1 not seen." in text(TwoStages("m", {"gate": stands()}))


def test_the_smallest_k_star_is_of_neurons_and_heads_have_a_line_of_their_own():
    curve = synthetic.curve((0, 1, 2), (0.1, 5.0, 5.0), (80.0, 20.0, 20.0))
    heads, none = cell(curve, "head", width=16), cell(synthetic.curve((0, 4), (0.1, 0.1), (80, 80)), "head", "vision", 4)
    words = Where("m", (falls(), heads, none)).words()
    assert words[0] == "The smallest k* is 4, in: language, gate (of 2,000 neurons)."
    assert "k* in attention heads, each counted as one: language 1 of 16, vision none up to all 4." in words
    assert words[-1] == "Measured on 8 samples."


# -- the verdict -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(
    ("random", "answer", "first"),
    [
        ((10, 0), "yes", "m has a critical handful in the language model: gate."),
        ((3, 0), "open", "Whether m has a critical handful in the language model is open for: gate."),
        ((0, 0), "open", "Whether m has a critical handful in the language model is open for: gate."),
        ((10, 9), "no", "m has no critical handful in any role of the language model."),
    ],
)
def test_a_handful_needs_random_sets_that_leave_the_model_standing(random, answer, first):
    part = verdicts(falls(), random)
    assert part.answers() == {"gate": answer} and text(part).startswith(first)
    (row,) = part.table()
    assert (row["handful"], row["random_sets"], row["random_collapsed"]) == (answer, *random)


def test_a_handful_is_a_share_too_and_none_is_known_only_up_to_what_was_tried():
    few_of_few = cell(synthetic.curve(KS, FALLS, SCORES), width=16)
    assert verdicts(few_of_few).answers() == {"gate": "no"}
    assert verdicts(stands()).answers() == {"gate": "open"}, "up to 6 neurons were tried, and up to 10 are a handful"
    assert verdicts(stands(ks=(0, 4, 12))).answers() == {"gate": "no"}
    assert verdicts(stands(width=6)).answers() == {"gate": "no"}, "all of them were tried"


def test_a_model_that_does_not_work_intact_has_no_verdict():
    part = verdicts(falls(), complaints=["it gives the same answer to all 8 samples"])
    why = "(it gives the same answer to all 8 samples)"
    assert part.words()[0] == f"No verdict on m: even intact it does not work on this data {why}."
    assert part.answers() == {"gate": "open"} and "a critical handful" not in part.words()[1]


# -- modes and numbers ---------------------------------------------------------------------------------------------------------
def with_modes(evaluation: Evaluation, modes: Sequence[Mode]) -> Evaluation:
    outcomes: list[SampleOutcome] = [replace(o, mode=m) for o, m in zip(evaluation.outcomes, modes, strict=True)]
    return Evaluation(evaluation.k, tuple(outcomes))


def test_modes_have_their_colours_a_legend_and_their_meaning():
    made = falls()
    intact: list[Mode] = ["intact"] * 8
    collapsed: list[Mode] = ["gibberish"] * 8
    collapsed[6:] = ["empty", "empty"]
    points = [with_modes(p, collapsed if p.k >= 4 else intact) for p in made.curve]
    made = cell(Curve(points, made.curve.chance))
    part = CollapseModes("m", made, (0, 2, 4), (Sample("s0", None, prompt="what?"),))
    assert part.words() == [
        f"What the answers are at k* = 4 masked neurons of language gate: 75 % gibberish ({MEANINGS['gibberish']}), 25 % empty "
        f"({MEANINGS['empty']})."
    ]
    below: Any = part.plot().subfigs[1]
    (legend,), bars = below.legends, below.axes[0].containers
    labels = [t.get_text() for t in legend.get_texts()]
    assert labels == [f"{mode}: {MEANINGS[mode]}" for mode in MODES]
    assert [to_hex(bar.patches[0].get_facecolor()).upper() for bar in bars] == [COLOURS[mode] for mode in MODES]
    assert for_people(part.table())[3]["gibberish"] == "75 %"


def test_metrics_are_shown_under_their_labels_and_the_rest_is_left_alone():
    (row,) = for_people([{
        "role": "gate", "intact_clip_score": 51.23, "clip_score_low": None, "accuracy": 0.5, "share": 0.00149, "k_star": 4,
        "evaluation": "key", "k_star_low": 4, "tokens": 3,
    }])  # fmt: skip
    assert row == {
        "role": "gate", "intact CLIP score": "51.2", "CLIP score (low)": "not measured", "yes/no accuracy": "50 %",
        "k* as a share": "0.149 %", "k*": 4, "tokens": 3,
    }  # fmt: skip


def test_critical_neurons_of_a_cell():
    assert falls().critical == NeuronSet(falls().ranking[i] for i in range(4)) and not len(stands().critical)
    assert isinstance(falls().collapse, Collapse)
