"""The table of known coordinates, and which model it is for."""

from __future__ import annotations

import json

import pytest

from lesion.core.errors import OptionError
from lesion.core.sites import Site, Sites
from lesion.models.loading import load_structure
from lesion.study.check_known import check_known
from lesion.study.published import PUBLISHED, known, names, recognise
from lesion.study.rundir import EVALUATIONS
from tests.real_weights import needs_real_weights


def llama(layers=32, hidden=4096, intermediate=11008) -> Sites:
    """A language model's hidden and down sites."""
    path = "model.language_model.layers.{}.mlp.down_proj"
    return Sites(
        Site(path.format(layer), "language", role, layer, width)  # pyright: ignore[reportArgumentType]
        for layer in range(layers)
        for role, width in (("hidden", intermediate), ("down", hidden))
    )


@pytest.mark.parametrize(
    ("model", "name"),
    [
        ("llava-hf/llava-1.5-7b-hf", "llava-1.5-7b"),
        ("Salesforce/instructblip-vicuna-7b", "llama-7b"),
        ("huggyllama/llama-7b", "llama-7b"),
        ("meta-llama/Llama-2-7b-hf", "llama-2-7b"),
        ("lmsys/vicuna-7b-v1.5", "llama-2-7b"),
        ("mistralai/Mistral-7B-v0.1", "mistral-7b"),
        ("allenai/OLMo-7B-0724-hf", "olmo-7b-0724"),
        ("microsoft/Phi-3-mini-4k-instruct", "phi-3-mini-4k"),
        ("meta-llama/Llama-3.2-1B", "llama-3.2-1b"),
        ("tiny-llava", "tiny-llava"),
        ("smollm2", "smollm2-135m"),
        ("smol-llava", "smollm2-135m"),
        ("models/SmolLM2-135M-Instruct.Q4_1.gguf", "smollm2-135m"),
        ("HuggingFaceTB/SmolLM2-1.7B-Instruct", "smollm2-1.7b"),
        ("Qwen/Qwen2.5-7B", "qwen2.5-7b"),
        ("answerdotai/ModernBERT-base", "modernbert-base"),
        ("llava-hf/llava-1.5-13b-hf", None),
        ("tiny-instructblip", None),
        ("codellama/CodeLlama-7b-hf", None),
    ],
)
def test_models_are_recognised_by_their_names(model, name):
    for entry in (recognise(model), recognise(None, "/local/copy", model)):
        assert (entry.name if entry else None) == name


@pytest.mark.parametrize(
    ("entry", "shape"),
    [
        ("llava-1.5-7b", (32, 4096, 11008)), ("llama-7b", (32, 4096, 11008)), ("llama-13b", (40, 5120, 13824)),
        ("llama-2-7b", (32, 4096, 11008)), ("mistral-7b", (32, 4096, 14336)), ("olmo-7b-0724", (32, 4096, 11008)),
        ("phi-3-mini-4k", (32, 3072, 8192)), ("llama-3.2-1b", (16, 2048, 8192)),
    ],
)  # fmt: skip
def test_every_published_coordinate_fits_its_model(entry, shape):
    sites = llama(*shape)
    units, channels = known(entry).neurons(sites, "hidden"), known(entry).neurons(sites, "down")
    assert {(n.site.layer, n.index) for n in units} == {(c.layer, c.column) for c in known(entry).coordinates}
    assert {(n.site.layer, n.index) for n in channels} == {(c.layer, c.row) for c in known(entry).coordinates}


def test_every_entry_is_named_once_and_has_a_source():
    assert len(names()) == len(set(names())) == len(PUBLISHED) + 1
    assert all(entry.source.startswith(("arXiv", "github.com")) for entry in PUBLISHED)


def test_the_census_of_rows_has_22_models():
    """One candidate row each; those that papers name too are the same coordinates."""
    census = {entry.name: [at for at in entry.coordinates if at.loss is not None] for entry in PUBLISHED}
    rows = {name: found[0] for name, found in census.items() if found}
    assert len(rows) == 22 and all(len(found) <= 1 for found in census.values())
    assert sum(at.column is not None for at in rows.values()) == 3
    harmless = sorted(name for name, at in rows.items() if abs(at.loss or 0) < 0.05)
    assert len(harmless) == 13 and {"qwen2.5-0.5b", "qwen2.5-1.5b", "qwen2.5-3b", "qwen2.5-7b"} < set(harmless)


def test_a_row_is_a_down_neuron_and_no_unit():
    entry, sites = known("smollm2-135m"), llama(30, 576, 1536)
    assert [(n.site.role, n.site.layer, n.index) for n in entry.neurons(sites, "down")] == [("down", 11, 507)]
    assert len(entry.neurons(sites, "hidden")) == 0
    assert entry.effects() == ["row 507 of layer 11 removed: loss +313.4 %"]


@needs_real_weights
def test_the_published_row_of_smollm2_collapses_it(tmp_path):
    """The first truth that nobody put there."""
    check = check_known("smollm2", samples=2, max_new_tokens=16, out=tmp_path / "run")
    (row,) = check.rows
    assert (row.role, [(n.layer, n.index) for n in row.neurons], row.collapsed) == ("down", [(11, 507)], True)
    assert (row.metrics["ppl_reference"] or 0) > 1000 * (check.baseline["ppl_reference"] or 1)


def test_the_seeded_truth_is_that_of_the_card():
    sites = load_structure("tiny-llava")
    truth = known("tiny-llava")
    assert len(truth.neurons(sites, "gate")) == len(truth.neurons(sites, "hidden")) == 4
    assert len(truth.neurons(sites, "down")) == 2


def test_another_model_is_refused():
    with pytest.raises(OptionError, match="known hidden neuron 7890 in language layer 1; this model has 448 there"):
        known("llava-1.5-7b").neurons(llama(6, 192, 448), "hidden")
    with pytest.raises(OptionError, match="no such layer"):
        known("olmo-7b-0724").neurons(llama(6, 4096, 11008), "down")
    with pytest.raises(OptionError, match=r"nothing is known of 'gpt-9'; known: tiny-llava, llava-1\.5-7b"):
        known("gpt-9")


def test_the_seeded_truth_is_masked_and_collapses_the_model(tmp_path):
    check = check_known("tiny-llava", samples=8, out=tmp_path / "run")
    assert check.known == "tiny-llava"
    assert {row.role: (len(row.neurons), row.collapsed) for row in check.rows} == {"hidden": (4, True), "down": (2, True)}
    assert [row["neurons"] for row in check.table()] == [0, 4, 2]
    lines = [json.loads(line) for line in (tmp_path / "run" / EVALUATIONS).read_text().splitlines()]
    assert {row.evaluation for row in check.rows} <= {line["key"] for line in lines}
    for row in check.rows:
        assert row.metrics == next(line["metrics"] for line in lines if line["key"] == row.evaluation)
    before = (tmp_path / "run" / EVALUATIONS).stat().st_mtime_ns
    assert check_known("tiny-llava", samples=8, out=tmp_path / "run") == check
    assert (tmp_path / "run" / EVALUATIONS).stat().st_mtime_ns == before, "what was measured is not measured again"


def test_the_mask_that_is_named_is_the_one_that_is_measured(tmp_path):
    """Every intervention, and not zero whatever was said: the lines of the run name it, and its answers are others."""
    asked = {"samples": 2, "max_new_tokens": 6, "clip": "none"}
    perplexities = {}
    for mask in ("zero", "mean", "scale:1.0"):
        folder = tmp_path / mask.replace(":", "-")
        check = check_known("tiny-llava", out=folder, mask=mask, **asked)
        lines = [json.loads(line) for line in (folder / EVALUATIONS).read_text().splitlines()]
        about = {line["mask"] for line in lines if line["neurons"]}
        assert len(about) == 1 and next(iter(about)).startswith(mask.partition(":")[0])
        perplexities[mask] = tuple(row.metrics["ppl_reference"] for row in check.rows)
        if mask == "scale:1.0":
            assert perplexities[mask] == (check.baseline["ppl_reference"],) * 2 and not any(r.collapsed for r in check.rows)
    assert len(set(perplexities.values())) == 3


def test_a_model_of_which_nothing_is_known_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(OptionError, match=r"nothing is known of tiny-instructblip; .* --expect: tiny-llava, llava"):
        check_known("tiny-instructblip", samples=4, out=tmp_path / "run")
    with pytest.raises(OptionError, match="this model has 448 there"):
        check_known("tiny-llava", expect="llava-1.5-7b", samples=4, out=tmp_path / "run")
    assert not (tmp_path / "run").exists()
