"""Figures and notebooks: made from what files hold, and the same each time."""

from __future__ import annotations

import dataclasses
import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from lesion import Importance, NeuronSet, Ranking, Result, Site, Sites, plot_curve, plot_places
from lesion.core.collapse import detect_collapse
from lesion.core.identity import Identity
from lesion.core.neurons import Neuron
from lesion.report.figures import encode
from lesion.report.plots import save_figures
from lesion.study.result import SiteSummary
from tests import results
from tests.results import save


@pytest.mark.parametrize("options", [{}, {"nll": results.STANDS, "clip": False}, {"nll": [0.1, 0.2, 0.5, 1, math.nan, 9]}])
def test_figures_come_from_the_file_alone(tmp_path, options):
    made = results.result(**options)
    save_figures(made, tmp_path / "before")
    save_figures(Result.load(save(made, tmp_path / "run")), tmp_path / "after")
    names = {p.name for p in (tmp_path / "before").iterdir()}
    assert names == {"curve.svg", "curve.png", "map.svg", "map.png"}
    for name in names:
        assert (tmp_path / "before" / name).read_bytes() == (tmp_path / "after" / name).read_bytes(), name


def scored() -> Importance:
    sites = Sites(Site(f"layers.{i}<b>", "language", "gate", i, 4) for i in range(3))
    return Importance("can", {}, sites, {s.key: np.arange(4.0) + s.layer for s in sites}, {}, 1)


def legend(figure) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_a_curve_and_a_result_give_the_same_figure():
    made = results.result()
    curve, collapse = made.read_curve(), made.collapse
    figures = [plot_curve(curve, title="t"), plot_curve(curve, collapse, "t"), plot_curve(made, title="t")]
    assert len({encode(figure, "svg") for figure in figures}) == 1
    assert plot_curve(made).get_suptitle() == made.verdict
    assert legend(figures[0]) == [
        "perplexity of the intact answers (left)", "stage 1", "stage 2: collapse", "CLIP score (right)",
        "CLIP score at chance (right)",
    ]  # fmt: skip


def test_a_collapse_of_ones_own_is_drawn_instead():
    curve = results.result().read_curve()
    own = dataclasses.replace(detect_collapse(curve), k_star=None, stage1_k=None, undecided=(2, 3))
    assert legend(plot_curve(curve, own))[:3] == ["perplexity of the intact answers (left)", "undecided", "CLIP score (right)"]


def test_without_a_clip_model_there_is_one_axis():
    figure = plot_curve(results.result(clip=False))
    assert len(figure.axes) == 1 and not any("CLIP" in label for label in legend(figure))


def test_the_map_of_an_importance_and_of_a_result():
    importance = plot_places(scored())
    assert importance.get_suptitle() == "importance by can" and importance.axes[0].get_ylabel() == "language"
    made = plot_places(results.result())
    assert [t.get_text() for t in made.axes[1].texts] == ["4"], "critical neurons are counted in the map"
    assert plot_places(results.result(), "mine").get_suptitle() == "mine"
    assert encode(importance, "svg").startswith(b"<?xml")


def test_the_map_shows_components_of_one_layer_and_frames_what_is_critical():
    one = SiteSummary.of(Site("projector", "connector", "hidden", 0, 3), np.array([0.1, 0.2, 0.5]), critical=2)
    figure = plot_places(results.result(places=[one]))
    corners = np.asarray(figure.axes[0].collections[0].get_coordinates())  # pyright: ignore[reportAttributeAccessIssue]
    assert np.ptp(corners[..., 0]) == np.ptp(corners[..., 1]) == 1
    pixels = np.asarray(Image.open(io.BytesIO(encode(figure, "png"))).convert("RGB")).astype(int)
    orange = np.abs(pixels - [0xD5, 0x5E, 0x00]).sum(-1) < 20
    assert orange.sum() > 500


def test_nouns_show_themselves_in_notebooks():
    importance = scored()
    ranking = Ranking(importance, importance.sites)
    neurons = NeuronSet([Neuron(importance.sites[0], 1)], Identity("<i>", "0" * 64))
    made = results.result(verdict="<b>", notes=["<u>"])
    for noun, text in (
        (made, "&lt;b&gt;"), (made, "Note: &lt;u&gt;."), (made.read_curve(), "Curve of 6 samples"),
        (importance, "layers.0&lt;b&gt;:gate"), (ranking, "and 2 more"), (neurons, "Neurons of &lt;i&gt;"),
        (importance.sites, "12 neurons in 3 sites"),
    ):  # fmt: skip
        html = noun._repr_html_()
        assert text in html and len(html) < 5000
        assert not re.search(r"<(b|i|u)>", html)
