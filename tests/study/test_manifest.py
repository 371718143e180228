"""A run belongs to one model, one dtype and one set of samples: an answer is never given for another."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from lesion import Result, Study
from lesion.core.errors import NeuronSetError, RunError
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.data.samples import Sample
from lesion.models.identity import EDITS
from lesion.models.vlm import VisionLanguageModel
from lesion.study.rundir import MANIFEST, RESULT
from tests import results, tiny_models

OPTIONS = {"samples": 4, "max_new_tokens": 4, "max_k": 2, "controls": 0, "clip": "none"}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "run"
    Study(tiny_models.llava(), out=out, **OPTIONS).run()
    return out


@pytest.fixture
def run(finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run."""
    return Path(shutil.copytree(finished, tmp_path / "run"))


def files(run: Path) -> dict[str, bytes]:
    return {str(p.relative_to(run)): p.read_bytes() for p in run.rglob("*") if p.is_file()}


def test_one_edited_weight_is_another_model(run: Path):
    vlm = tiny_models.llava()
    before, kept = vlm.identity(), files(run)
    assert Study(vlm, out=run, **OPTIONS).run() == Result.load(run)
    kept = files(run)
    weight = vlm.model.lm_head.weight
    weight.data[3, 5] = torch.nextafter(weight.data[3, 5], torch.tensor(9.0))
    after = vlm.identity()
    assert before.weights != after.weights
    with pytest.raises(RunError) as error:
        Study(vlm, out=run, **OPTIONS).run()
    assert str(before) in str(error.value) and str(after) in str(error.value) and "choose another --out" in str(error.value)
    assert files(run) == kept, "what another model was measured on is left alone"


def test_another_object_of_the_same_name_is_another_model(run: Path):
    with pytest.raises(RunError, match=r"was measured on random-llava in float32 .*; this model is random-llava in float32"):
        Study(tiny_models.llava(seed=1), out=run, **OPTIONS).run()


def test_edits_are_named_in_the_refusal(run: Path):
    vlm = tiny_models.llava()
    vlm.model.lm_head.weight.data[0, 0] += 1
    setattr(vlm.model.config, EDITS, ["one weight of lm_head"])
    with pytest.raises(RunError, match="edited: one weight of lm_head"):
        Study(vlm, out=run, **OPTIONS).run()


def test_the_same_model_is_known_under_another_name(run: Path):
    """A copy of a folder, or the same weights in another object."""
    same = tiny_models.llava()
    renamed = VisionLanguageModel(same.model, same.processor, "copy-of-llava")
    assert not renamed.identity().differs_from(same.identity())
    assert Study(renamed, out=run, **OPTIONS).run() == Result.load(run)
    with pytest.raises(RunError, match="this model is copy-of-llava in float32"):
        Study(VisionLanguageModel(tiny_models.llava(1).model, same.processor, "copy-of-llava"), out=run, **OPTIONS).run()
    (run / MANIFEST).unlink()
    with pytest.raises(RunError, match="model is 'random-llava' there, 'copy-of-llava' here"):
        Study(renamed, out=run, **OPTIONS).run()


def test_another_dtype_is_refused(run: Path):
    vlm = tiny_models.llava()
    vlm.model.to(torch.bfloat16)
    with pytest.raises(RunError, match=r"random-llava in float32 .*random-llava in bfloat16 "):
        Study(vlm, out=run, **OPTIONS).run()


def pictures(folder: Path, shift: int = 0) -> str:
    folder.mkdir(exist_ok=True)
    for sample, other in zip(tiny_models.samples(4), tiny_models.samples(4 + shift)[shift:], strict=True):
        other.picture.save(folder / f"{sample.id}.png")
    return str(folder)


def test_changed_images_of_the_same_names_are_refused(tmp_path: Path):
    vlm, data = tiny_models.llava(), pictures(tmp_path / "images")
    study = Study(vlm, out=tmp_path / "run", data=data, **OPTIONS)
    first = study.run()
    assert study.run() == first
    (tmp_path / "images" / "noise-2.png").unlink()
    tiny_models.samples(9)[8].picture.save(tmp_path / "images" / "noise-2.png")
    with pytest.raises(RunError, match=r"was measured on other data: sample noise-2.png has changed \(1 such samples\)"):
        study.run()
    pictures(tmp_path / "images", shift=1)
    with pytest.raises(RunError, match=r"\(4 such samples\)"):
        study.run()
    pictures(tmp_path / "images")
    assert study.run() == first


def test_a_sample_that_is_gone_is_refused(tmp_path: Path):
    vlm, data = tiny_models.llava(), pictures(tmp_path / "images")
    Study(vlm, out=tmp_path / "run", data=data, **OPTIONS).run()
    (tmp_path / "images" / "noise-3.png").rename(tmp_path / "images" / "other.png")
    with pytest.raises(RunError, match=r"other data: sample noise-3.png has changed \(2 such samples\)"):
        Study(vlm, out=tmp_path / "run", data=data, **OPTIONS).run()


def test_everything_that_a_sample_is_counts():
    image = tiny_models.samples(1)[0].image
    one = Sample("a", image, None, "text", "prompt")
    others = [
        Sample("b", image, None, "text", "prompt"), Sample("a", None, None, "text", "prompt"),
        Sample("a", image, None, "other", "prompt"), Sample("a", image, None, "text", "other"),
        Sample("a", image, None, "text"),
    ]  # fmt: skip
    assert len({s.digest for s in (one, *others)}) == 6


def test_an_unfinished_run_is_held_to_its_model_too(run: Path):
    (run / RESULT).unlink()
    with pytest.raises(RunError, match="this model is"):
        Study(tiny_models.llava(seed=1), out=run, **OPTIONS).run()


def test_a_manifest_of_another_version_is_named(run: Path):
    manifest = json.loads((run / MANIFEST).read_text())
    manifest["model"] = {"fingerprint": "abc"}
    results.rewrite(run / MANIFEST, manifest)
    with pytest.raises(RunError, match=r"manifest\.json is no manifest that this version of lesion reads"):
        Study(tiny_models.llava(), out=run, **OPTIONS).run()


def test_the_manifest_says_under_what_conditions(run: Path):
    manifest, vlm = json.loads((run / MANIFEST).read_text()), tiny_models.llava()
    assert {name: manifest["model"][name] for name in ("base", "weights", "revision", "edits")} == {
        "base": "random-llava", "weights": vlm.identity().weights, "revision": None, "edits": [],
    }  # fmt: skip
    assert manifest["model"]["class"] == "LlavaForConditionalGeneration" and manifest["dtype"] == "float32"
    spent = manifest["spent"]
    assert 0 < spent["accepted"] < spent["tokens"] and 0 < spent["skipped"] < spent["layers"]
    data = manifest["data"]
    assert len(data["samples"]) == 4 and not set(data["ranked_on"]) & set(data["measured_on"])
    assert manifest["finished"] and manifest["starts"] == 1 and manifest["started"] <= manifest["finished"]


# -- neurons of another model ----------------------------------------------------------------------------------------------
def test_neurons_of_another_model_are_refused_and_force_is_recorded(tmp_path: Path):
    one, other = tiny_models.llava(), tiny_models.llava(seed=1)
    gate = one.sites.select("language", "gate")
    NeuronSet.from_arrays({gate[0]: np.array([1, 2]), gate[1]: np.array([3])}, one.identity()).save(tmp_path / "set.json")
    options = {**OPTIONS, "neurons": str(tmp_path / "set.json")}
    own = Study(one, out=tmp_path / "own", **options).run()
    assert {(n.layer, n.index) for n in own.top} == {(0, 1), (0, 2), (1, 3)}
    assert not [note for note in own.notes if "force" in note]
    with pytest.raises(NeuronSetError) as error:
        Study(other, out=tmp_path / "other", **options).run()
    assert str(one.identity()) in str(error.value) and str(other.identity()) in str(error.value)
    assert "--force" in str(error.value) and not (tmp_path / "other").exists(), "refused before anything is written"
    study = Study(other, out=tmp_path / "other", force=True, **options)
    forced = study.run()
    (note,) = [note for note in forced.notes if "force" in note]
    assert str(one.identity()) in note and str(other.identity()) in note
    (tmp_path / "other" / RESULT).unlink()
    assert study.run() == forced, "a study that was resumed says so too"


def test_a_ranking_of_another_model_is_refused(tmp_path: Path):
    site = Site("model.language_model.layers.0.mlp.gate_proj", "language", "gate", 0, 25)
    ranking = Ranking.of([*NeuronSet.from_arrays({site: np.array([24])})], Sites([site]))
    with pytest.raises(NeuronSetError, match="has 24 neurons in this model; the set expects 25"):
        Study(tiny_models.llava(), out=tmp_path / "run", ranking=ranking, **OPTIONS).run()
    assert not (tmp_path / "run").exists()
