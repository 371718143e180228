"""The main job on pretrained weights: what is found in SmolLM2-135M-Instruct was put there by nobody."""

from __future__ import annotations

from typing import Any

import pytest

from lesion.models.loading import load
from lesion.study.result import Result
from lesion.study.study import Study
from tests.real_weights import needs_real_weights

pytestmark = needs_real_weights
SMALL: dict[str, Any] = {"role": "down", "samples": 8, "max_new_tokens": 8, "max_k": 2, "controls": 5}


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> dict[str, Result]:
    """The study at a small size, by scorer."""
    vlm, folder = load("smollm2"), tmp_path_factory.mktemp("real")
    return {name: Study(vlm, scorer=name, out=folder / name, **SMALL).run() for name in ("activation", "can")}


@pytest.mark.parametrize(("scorer", "layer"), [("activation", 11), ("can", 0)])
def test_one_neuron_collapses_it_and_chance_does_not(found, scorer, layer):
    """Each ranking finds a neuron that writes residual channel 507; the published row is that of layer 11."""
    result = found[scorer]
    assert result.k_star is not None and result.k_star <= 2
    assert [(n.role, n.layer, n.index) for n in result.minimal_set or ()] == [("down", layer, 507)] and result.minimal_verified
    assert [c.collapsed for c in result.controls if c.kind == "random"] == [False] * 5
    at = next(point for point in result.curve if point.k == result.k_star)
    assert (at.metrics["ppl_reference"] or 0) > 20 * (result.baseline["ppl_reference"] or 0)


def test_where_the_gradient_is_blind_is_said(found):
    """CAN has the strongest neuron far down, since the loss is flat there."""
    blind = found["can"].blind
    assert blind is not None and blind.alone is not None
    assert (blind.alone.neuron.layer, blind.alone.neuron.index) == (11, 507) and (blind.alone.rank or 0) > 2
    assert blind.alone.missed and any("is first by activation" in note for note in found["can"].notes)
    assert found["activation"].blind is None or found["activation"].blind.warnings == []
