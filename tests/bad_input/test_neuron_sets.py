"""Sets of neurons and rankings that are damaged, of other models, or of a format that is yet to come."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.bad_input.checker import Case, as_anybody, table

SITE = {
    "path": "model.language_model.layers.0.mlp.gate_proj",
    "component": "language",
    "role": "gate",
    "layer": 0,
    "width": 448,
}
SET: dict[str, Any] = {"format": "lesion-neurons-2", "model": None, "count": 2, "sites": [{**SITE, "indices": [3, 5]}]}
SMALL = "--samples 2 --max-k 1 --controls 0 --max-new-tokens 4 --clip none"
ASKED = f"study --out run --neurons n.json {SMALL}"
RANKED = f"study --out run --neurons n.csv {SMALL}"
NONE = "n.json: cannot be read as a set of neurons: ... expected"
DAMAGED = "n.json: damaged entry: "


def holds(content: str | bytes, name: str = "n.json") -> Callable[[Path], object]:
    """Makes a file."""
    return lambda folder: (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)


def of(**changed: Any) -> Callable[[Path], object]:
    """Makes a set with some fields changed; None takes a field away."""
    return holds(json.dumps({k: v for k, v in {**SET, **changed}.items() if v != "gone"}))


def site(**changed: Any) -> Callable[[Path], object]:
    """Makes a set whose only site has some fields changed."""
    return of(sites=[{k: v for k, v in {**SET["sites"][0], **changed}.items() if v != "gone"}])


def ranked(*lines: str) -> Callable[[Path], object]:
    """Makes a ranking."""
    return holds("\n".join(("path,role,index", *lines)) + "\n", "n.csv")


OTHER = {"base": "elsewhere", "weights": "0" * 32, "revision": None, "dtype": "float32", "edits": [], "config": "0" * 16}
PLACE = "model.language_model.layers.0.mlp.gate_proj"

CASES = [
    # -- no set at all -------------------------------------------------------------------------------------------------
    Case("not there", lambda folder: None, ASKED, f"{NONE}"),
    Case("a folder", lambda folder: (folder / "n.json").mkdir(), ASKED, "n.json: cannot be read ... Is a directory; expected"),
    Case("a pipe", lambda folder: os.mkfifo(folder / "n.json"), ASKED, "n.json: cannot be read ... a device or a pipe"),
    Case("a link to itself", lambda folder: (folder / "n.json").symlink_to("n.json"), ASKED,
         "n.json: cannot be read ... symbolic"),
    Case("empty", holds(""), ASKED, NONE),
    Case("cut off", holds(json.dumps(SET)[:-9]), ASKED, NONE),
    Case("binary", holds(bytes(range(256))), ASKED, NONE),
    Case("brackets without end", holds("[" * 100_000), ASKED, NONE),
    Case("a pickle", holds(b"\x80\x04\x95\x10\0\0\0\0\0\0\0}\x94."), ASKED, NONE),
    # -- another kind of JSON ------------------------------------------------------------------------------------------
    Case("a list", holds("[1, 2]"), ASKED,
         "n.json: not a set of neurons; expected a JSON object with format 'lesion-neurons-2'"),
    Case("null", holds("null"), ASKED, "n.json: not a set of neurons; expected a JSON object with format"),
    Case("a result", holds('{"format": "lesion-result-1", "k_star": 4}'), ASKED,
         "n.json: not a set of neurons; expected a JSON object"),
    Case("a format to come", of(format="lesion-neurons-3"), ASKED,
         "n.json: not a set of neurons; expected ... 'lesion-neurons-2'"),
    Case("the first format", of(format="lesion-neurons-1"), ASKED,
         "n.json: not a set of neurons; expected ... 'lesion-neurons-2'"),
    Case("without a format", of(format="gone"), ASKED, "n.json: not a set of neurons; expected ... 'lesion-neurons-2'"),
    # -- damaged entries -----------------------------------------------------------------------------------------------
    Case("without sites", of(sites="gone"), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("sites that are a number", of(sites=3), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a site that is a word", of(sites=["gate"]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a model that is a word", of(model="tiny-llava"), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a site without a path", site(path="gone"), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a path that is a number", site(path=3), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a component that there is not", site(component="brain"), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a layer in words", site(layer="first"), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("half an index", site(indices=[0.5]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("an index in words", site(indices=["3"]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("indices that are none", site(indices=None), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("an index beyond 64 bits", site(indices=[2**70]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("an index below 0", site(indices=[-1]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("an index beyond the width", site(indices=[448]), ASKED, f"{DAMAGED} ... have the file made anew"),
    Case("a site twice", of(sites=SET["sites"] * 2), ASKED, f"{DAMAGED} ... have the file made anew"),
    # -- of another model ----------------------------------------------------------------------------------------------
    Case("of other weights", of(model=OTHER), ASKED,
         "these neurons were found in elsewhere ... --force masks them all the same", loads=True),
    Case("of another width", site(width=5000, indices=[4999]), ASKED, "has 448 neurons in this model; the set expects 5000",
         loads=True),
    Case("of other modules", site(path="model.decoder.layers.0.fc1"), ASKED, "the model has no gate site at 'model.decoder",
         loads=True),
    Case("of another role", site(role="experts"), ASKED, "the model has no experts site at ", loads=True),
    Case("of no neuron", of(sites=[]), ASKED, "the ranking has 0 neurons, 0 different ones; expected each once", loads=True),
    # -- the same in other commands ------------------------------------------------------------------------------------
    Case("try with a broken set", holds("{"), "try tiny-llava --neurons n.json", NONE),
    Case("try with an empty set", of(sites=[]), "try tiny-llava --neurons n.json",
         "n.json has no neurons, as after no collapse; --run"),
    Case("ranks of a broken set", holds("{"), "ranks tiny-llava --neurons n.json", NONE),
    Case("ranks of another model's", of(model=OTHER), "ranks tiny-llava --samples 2 --neurons n.json",
         "these neurons were found in elsewhere", loads=True),
    # -- rankings ------------------------------------------------------------------------------------------------------
    Case("no ranking", lambda folder: None, RANKED, "n.csv: cannot be read as a ranking: No such file ... expected"),
    Case("an empty ranking", holds("", "n.csv"), RANKED, "n.csv ranks no neuron; expected CSV with path", loads=True),
    Case("a head alone", ranked(), RANKED, "n.csv ranks no neuron; expected CSV with path", loads=True),
    Case("a binary ranking", holds(bytes(range(256)), "n.csv"), RANKED, "n.csv cannot be read as a ranking ... expected CSV",
         loads=True),
    Case("other columns", holds("a,b\n1,2\n", "n.csv"), RANKED, "n.csv, line 2 is not a line of a ranking ... expected",
         loads=True),
    Case("an index in words", ranked(f"{PLACE},gate,three"), RANKED, "n.csv, line 2 is not a line of a ranking", loads=True),
    Case("an index too large", ranked(f"{PLACE},gate,448"), RANKED, "n.csv, line 2: ... has neurons 0 to 447; found 448",
         loads=True),
    Case("a neuron twice", ranked(f"{PLACE},gate,3", f"{PLACE},gate,3"), RANKED, "has 2 neurons, 1 different ones; expected",
         loads=True),
    Case("modules of another model", ranked("fc1,gate,3"), RANKED, "n.csv, line 2: the model has no gate site at 'fc1'; is",
         loads=True),
    Case("a line cut off", ranked(f"{PLACE},gate"), RANKED, "n.csv, line 2 is not a line of a ranking ... expected",
         loads=True),
]  # fmt: skip


@table(CASES)
def test_a_set_that_does_not_fit_is_refused(check: Callable[..., str], case: Case):
    check(case)


@pytest.mark.parametrize("name", ["n.json", "n.csv"])
def test_a_set_that_may_not_be_read(check: Callable[..., str], name: str):
    make = lambda folder: ((folder / name).write_text("{}"), (folder / name).chmod(0))  # noqa: E731
    check(
        Case("mode 0", make, f"study --out run --neurons {name}", f"{name}: cannot be read ... Permission denied; expected"),
        as_anybody(),
    )
