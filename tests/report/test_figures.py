"""Figures and notebooks: made from what files hold, and the same each time."""

from __future__ import annotations

import io
import math
import re

import numpy as np
import pytest
from PIL import Image

from lesion import Importance, NeuronSet, Ranking, Result, Site, Sites
from lesion.core.neurons import Neuron
from lesion.report.figures import encode, save_figures
from lesion.report.places import plot_places
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


def test_nouns_plot_themselves():
    importance, made = scored(), results.result()
    for figure in (importance.plot(), made.read_curve().plot("title"), made.plot(), made.plot_places()):
        assert encode(figure, "svg").startswith(b"<?xml")
    assert [t.get_text() for t in made.plot_places().axes[1].texts] == ["4"], "critical neurons are counted in the map"


def test_the_map_shows_components_of_one_layer_and_frames_what_is_critical():
    one = SiteSummary.of(Site("projector", "connector", "hidden", 0, 3), np.array([0.1, 0.2, 0.5]), critical=2)
    figure = plot_places([one])
    corners = np.asarray(figure.axes[0].collections[0].get_coordinates())  # pyright: ignore[reportAttributeAccessIssue]
    assert np.ptp(corners[..., 0]) == np.ptp(corners[..., 1]) == 1
    pixels = np.asarray(Image.open(io.BytesIO(encode(figure, "png"))).convert("RGB")).astype(int)
    orange = np.abs(pixels - [0xD5, 0x5E, 0x00]).sum(-1) < 20
    assert orange.sum() > 500


def test_nouns_show_themselves_in_notebooks():
    importance = scored()
    ranking = Ranking(importance, importance.sites)
    neurons = NeuronSet([Neuron(importance.sites[0], 1)], model="<i>")
    made = results.result(verdict="<b>", notes=["<u>"])
    for noun, said in (
        (made, "&lt;b&gt;"), (made, "Note: &lt;u&gt;."), (made.read_curve(), "Curve of 6 samples"),
        (importance, "layers.0&lt;b&gt;:gate"), (ranking, "and 2 more"), (neurons, "Neurons of &lt;i&gt;: 1"),
        (importance.sites, "12 neurons in 3 sites"),
    ):  # fmt: skip
        html = noun._repr_html_()
        assert said in html and len(html) < 5000
        assert not re.search(r"<(b|i|u)>", html)
