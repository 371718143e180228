"""Models that read text alone: loaded with a tokenizer, asked prompts, studied without pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lesion.cli.app import app
from lesion.core.errors import DataError, OptionError
from lesion.data.samples import load_categories, load_samples
from lesion.models.loading import load
from lesion.paper import paper
from lesion.study.study import Study
from tests import tiny_models
from tests.families import text
from tests.models.test_families import picture

PROMPTS = ["a big red car", "is there a dog ?", "the picture shows", "a small blue house next to", "is it green ?", "a cat"]
TEMPLATE = "{{ bos_token }}{% for m in messages %}{{ m['role'] }} : {{ m['content'] }} {% endfor %}assistant :"
FAMILIES = ("llama", "gpt2", "opt", "mixtral")


@pytest.fixture
def prompts(tmp_path) -> str:
    file = tmp_path / "prompts.txt"
    file.write_text("\n\n".join(PROMPTS) + "\n", encoding="utf-8")
    return str(file)


def saved(family: str, folder: Path, template: str | None = None) -> str:
    made = text.BUILDERS[family]()
    made.processor.chat_template = template
    made.model.save_pretrained(folder)
    made.processor.save_pretrained(folder)
    return str(folder)


# -- data ------------------------------------------------------------------------------------------------------------------
def test_prompts_by_line(prompts):
    found = load_samples(prompts, 6)
    assert {s.id: s.prompt for s in found} == {f"line-{2 * i + 1}": p for i, p in enumerate(PROMPTS)}
    assert all(s.image is None for s in found) and len({s.digest for s in found}) == 6


def test_prompts_as_json(tmp_path):
    rows = [{"prompt": "a", "answer": "b", "category": "x"}, {"question": "c"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    found = {s.id: s for s in load_samples(str(tmp_path / "p.jsonl"), 2)}
    first, second = found["line-1"], found["line-2"]
    assert (first.prompt, first.reference, first.category) == ("a", "b", "x") and second.prompt == "c"
    with pytest.raises(DataError, match="has no image, and the model reads images"):
        _ = first.picture


@pytest.mark.parametrize(("content", "says"), [("\n \n", r"p\.txt has no line; expected a prompt"), (None, "cannot be read")])
def test_files_without_prompts(tmp_path, content, says):
    if content is not None:
        (tmp_path / "p.txt").write_text(content)
    with pytest.raises(DataError, match=says):
        load_samples(str(tmp_path / "p.txt"), 1)


# -- the model -------------------------------------------------------------------------------------------------------------
def test_the_chat_template_is_used_once(tmp_path):
    """Its special tokens are not added a second time by the tokenizer."""
    vlm = load(saved("llama", tmp_path, TEMPLATE))
    (sample,) = load_samples(str(write(tmp_path, "a big dog")), 1)
    ids = vlm.prompt(sample, "unused").inputs["input_ids"][0].tolist()
    assert ids.count(vlm.tokenizer.bos_token_id) == 1 and ids[0] == vlm.tokenizer.bos_token_id
    assert "a big dog" in vlm.tokenizer.decode(ids)
    plain = load(saved("llama", tmp_path / "plain"))
    asked = plain.prompt(sample, "unused").inputs["input_ids"][0]
    assert plain.tokenizer.decode(asked, skip_special_tokens=True).strip() == "a big dog"


def write(folder: Path, content: str) -> Path:
    file = folder / "one.txt"
    file.write_text(content)
    return file


@pytest.mark.parametrize("family", FAMILIES)
def test_a_study_of_a_model_that_reads_text_alone(family, tmp_path, prompts):
    found = Study(
        saved(family, tmp_path / "model"), tmp_path / "run", data=prompts, samples=6, role="hidden", max_new_tokens=6, max_k=4,
        controls=1,
    ).run()  # fmt: skip
    assert found.samples == 6 and found.baseline["exact_match"] == 1 and found.baseline["clip_score"] is None
    assert found.baseline["kl"] == pytest.approx(0, abs=1e-5)
    assert any("no CLIP score" in note for note in found.notes)
    assert [p.k for p in found.curve][:4] == [0, 1, 2, 3]


def test_perplexity_alone_decides_the_collapse(tmp_path, prompts):
    found = Study(
        saved("qwen3", tmp_path / "model"), tmp_path / "run", data=prompts, samples=6, role="all", max_new_tokens=6, controls=2,
        split="same",
    ).run()  # fmt: skip
    intact = found.baseline["ppl_reference"]
    assert found.k_star is not None and intact is not None
    for point in found.curve:
        assert point.collapsed == ((point.metrics["ppl_reference"] or 0) >= 10 * intact) and point.metrics["clip_score"] is None
    assert any(not p.collapsed for p in found.curve[1:]) and found.chance == {"clip_score": None}


def test_images_are_left_out_and_prompts_are_needed(tmp_path):
    model = saved("llama", tmp_path / "model")
    (tmp_path / "pics").mkdir()
    for seed in (0, 1):
        picture(seed, (20, 20)).picture.save(tmp_path / "pics" / f"{seed}.png")
    rows = [{"image": f"pics/{seed}.png", "prompt": p} for seed, p in ((0, "a dog"), (1, "a cat"))]
    (tmp_path / "both.jsonl").write_text("\n".join(map(json.dumps, rows)))
    asked: dict[str, Any] = {"samples": 2, "max_k": 1, "controls": 0, "max_new_tokens": 4}
    assert Study(model, tmp_path / "run", data=str(tmp_path / "both.jsonl"), **asked).run().baseline["clip_score"] is None
    with pytest.raises(DataError, match=r"reads text alone, and .* has no prompts; expected --data"):
        Study(model, tmp_path / "other", data=str(tmp_path / "pics"), **asked).run()
    assert not (tmp_path / "other").exists()
    with pytest.raises(OptionError, match="clip is 'tiny-clip', and the samples have no images"):
        Study(model, tmp_path / "other", data=str(tmp_path / "both.jsonl"), clip="tiny-clip", **asked).run()


def test_the_embedded_prompts_take_the_place_of_the_scenes(tmp_path):
    """For a model that is named and for one that is given; the run says so, and is found again either way."""
    asked: dict[str, Any] = {"samples": 4, "max_k": 1, "controls": 0, "max_new_tokens": 4}
    model = saved("llama", tmp_path / "model")
    named = Study(model, tmp_path / "named", **asked).run()
    given = Study(load(model), tmp_path / "given", **asked).run()
    assert named.curve == given.curve
    for folder in ("named", "given"):
        assert yaml.safe_load((tmp_path / folder / "config.yaml").read_text())["data"] == "prompts"
    assert Study(model, tmp_path / "named", data="prompts", **asked).run() == named
    assert {s.id.rpartition("-")[0] for s in load_samples("prompts", 64)} == set(load_categories("prompts", 1))
    with pytest.raises(DataError, match="prompts have no category 'cars'; they have science, "):
        load_samples("prompts", 4, category="cars")


def test_a_model_that_reads_images_refuses_prompts_alone(tmp_path, prompts):
    with pytest.raises(DataError, match=r"reads images, and .*prompts\.txt has none \(line-"):
        Study(tiny_models.llava(), tmp_path / "run", data=prompts, samples=4).run()
    assert not (tmp_path / "run").exists()


# -- the commands ----------------------------------------------------------------------------------------------------------
def test_doctor_and_sites(tmp_path):
    model = saved("qwen3", tmp_path)
    run = CliRunner().invoke(app, ["doctor", model])
    assert run.exit_code == 0 and "lesion understands this model" in run.output
    run = CliRunner().invoke(app, ["sites", model, "--json"])
    assert run.exit_code == 0 and {row["component"] for row in json.loads(run.output)} == {"language"}


def test_the_papers_experiments(tmp_path):
    """Every part, without pictures."""
    rows = [{"prompt": p, "category": c} for c in ("one", "two") for p in PROMPTS]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, rows)))
    model = saved("llama", tmp_path / "model")
    found = paper([model], tmp_path / "out", True, data=str(tmp_path / "p.jsonl"), max_k=2, max_new_tokens=4, controls=1)
    assert set(found.results[model]) >= {"where", "categories", "masks"}
    assert (tmp_path / "out" / "summary.md").exists()
