"""Sites: which there are of a model, how they are chosen, and which channels their neurons are."""

from __future__ import annotations

import numpy as np
import pytest

from lesion.core.errors import OptionError
from lesion.core.sites import Site, Sites, parse_layers
from tests import tiny_models


def test_select_names_what_there_is():
    sites = tiny_models.llava().sites
    with pytest.raises(OptionError, match=r"qformer.*available: vision, connector, language, all"):
        sites.select("qformer")
    with pytest.raises(OptionError, match=r"gate.*vision.*available there: hidden, down, head, all"):
        sites.select("vision", "gate")
    assert len(sites.select("vision", "all", reachable_only=True)) == 2 * 3


def test_layers_are_chosen_by_number_or_by_text():
    sites = tiny_models.llava().sites
    for layers, chosen in (("1", [1]), ("0,2", [0, 2]), ("0-1", [0, 1]), ([2], [2]), (range(3), [0, 1, 2]), (None, [0, 1, 2])):
        assert [s.layer for s in sites.select("language", "gate", layers=layers)] == chosen
    with pytest.raises(OptionError, match="layer 3 is not among the chosen sites; their layers are 0 to 2"):
        sites.select("language", "gate", layers="1,3")


@pytest.mark.parametrize(
    ("text", "layers"), [("7", {7}), ("3-5", {3, 4, 5}), ("0, 2,8-9", {0, 2, 8, 9}), (" 1 - 2 ", {1, 2}), ("4-4", {4})]
)
def test_layers_as_users_write_them(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "5-3", "-1", "1,,2", "1-2-3", "1.5"])
def test_what_is_no_list_of_layers_is_refused(text):
    with pytest.raises(OptionError, match="expected numbers and ranges, such as 7 or 0,3-5"):
        parse_layers(text)


def test_all_roles_are_those_of_feed_forward_networks_and_heads_are_named():
    sites = tiny_models.llava().sites
    assert "head" not in {s.role for s in sites.select("language")}
    heads = sites.select("language", "head")
    assert len(heads) == 3 and all(s.width == 2 and s.group == 8 and s.side == "input" for s in heads)


def test_a_neuron_is_as_many_channels_as_its_site_says():
    plain, part = Site("a", "language", "down", 0, 4), Site("b", "language", "up", 0, 4, start=4, whole=8)
    head = Site("c", "language", "head", 0, 3, side="input", group=2)
    assert plain.channels(np.array([0, 3])).tolist() == [0, 3] and plain.slice == slice(0, 4) and plain.whole == 4
    assert part.channels(np.array([0, 3])).tolist() == [4, 7] and part.slice == slice(4, 8)
    assert head.channels(np.array([0, 2])).tolist() == [0, 1, 4, 5] and head.slice == slice(0, 6) and head.whole == 6


def test_sites_have_a_fixed_order_and_are_found_by_key():
    made = [
        Site("l.1", "language", "head", 1, 2), Site("l.1", "language", "gate", 1, 3), Site("l.0", "language", "gate", 0, 3),
        Site("e", "language", "gate", 0, 3, expert=1), Site("e", "language", "gate", 0, 3, expert=0),
        Site("v", "vision", "hidden", 5, 3), Site("l.1", "language", "down", 1, 3),
    ]  # fmt: skip
    sites, turned = Sites(made), Sites(reversed(made))
    keys = ["v:hidden", "e.0:gate", "e.1:gate", "l.0:gate", "l.1:gate", "l.1:down", "l.1:head"]
    assert [s.key for s in sites] == [s.key for s in turned] == keys
    assert sites.neurons == 20 and sites.get("e.1:gate") == made[3] and sites.get("nowhere") is None
    assert made[3].location == {"path": "e", "component": "language", "role": "gate", "layer": 0, "expert": 1}


def test_a_notebook_shows_counts():
    html = tiny_models.llava().sites._repr_html_()
    assert "neurons in" in html and "<td>language</td><td>gate</td><td>3</td><td>72</td><td>72</td>" in html
