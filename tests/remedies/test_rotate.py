"""A model whose residual stream was turned computes the same, and no channel carries the massive value alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lesion import load
from lesion.cli.app import app
from lesion.core.errors import ModelError, OptionError
from lesion.core.neurons import Neuron, NeuronSet
from lesion.data.samples import load_samples
from lesion.models.vlm import VisionLanguageModel
from lesion.remedies.harden import Hardened, harden
from lesion.remedies.rotate import Rotate, Turn, Turned, rotate
from lesion.remedies.stream import Stream, check_entrance
from tests.families.__main__ import BUILDERS
from tests.models.test_families import prompts_of
from tests.remedies.test_export import run_stock, stock
from tests.remedies.test_harden import language

__all__ = ["stock"]  # a fixture

PROMPT, MASSIVE = "Describe the image.", (74, 139)
REFUSED = {
    "llava_next": "begins with more than the outputs of the embedding and of model.multi_modal_projector.linear_2",
    "llava_onevision": "begins with more than the outputs of the embedding and of model.multi_modal_projector.linear_2",
    "blip_2_opt": "layers.0.input_layernorm is missing, or no RMS norm",
    "blip_2_t5": "are not called one after the other from one list",
    "paligemma": "embed_tokens is no plain embedding",
    "gemma3": "embed_tokens is no plain embedding",
    "aya_vision": "layers.0.input_layernorm is missing, or no RMS norm with a weight alone",
    "cohere2_vision": "layers.0.input_layernorm is missing, or no RMS norm with a weight alone",
    "qwen3_vl": r"deepstack_merger_list.1.linear_fc2 adds images to the residual stream",
    "qwen3_vl_moe": "layers.0.mlp.up_proj is missing, or no plain linear layer",
    "mllama": "are not called one after the other from one list",
    "florence2": "are not called one after the other from one list",
    "phi3": "layers.0.self_attn.q_proj is missing, or no plain linear layer",
    "gpt2": "are not called one after the other from one list",
    "opt": "layers.0.input_layernorm is missing, or no RMS norm",
    "mixtral": "layers.0.mlp.up_proj is missing, or no plain linear layer",
}
"""Family -> why its residual stream is not turned; all others are."""


def massive(vlm: VisionLanguageModel) -> NeuronSet:
    """The channels of tiny-llava that a study of ``down`` finds."""
    return NeuronSet((Neuron(language(vlm, "down", 1), i) for i in MASSIVE), vlm.identity())


@pytest.fixture(scope="module")
def turned(tmp_path_factory: pytest.TempPathFactory) -> Hardened:
    """tiny-llava, turned."""
    vlm = load("tiny-llava")
    return harden(vlm, massive(vlm), tmp_path_factory.mktemp("turned") / "out", Rotate(), load_samples("scenes", 4), PROMPT)


def log_probs(vlm: VisionLanguageModel) -> list[torch.Tensor]:
    prompts = [vlm.prompt(sample, PROMPT) for sample in load_samples("scenes", 12, seed=3)]
    contexts = vlm.embed(prompts)
    return vlm.answer_log_probs(contexts, [vlm.encode("a big red house and a small tree")] * len(prompts))


def test_it_is_the_same_function_on_other_samples(turned: Hardened):
    assert turned.difference < 1e-4
    for mine, theirs in zip(log_probs(load("tiny-llava")), log_probs(load(turned.path)), strict=True):
        assert float((mine - theirs).abs().max()) < 1e-4 * float(mine.abs().max())


def test_no_channel_carries_the_massive_value_alone(turned: Hardened):
    """Two channels share it in tiny-llava, half of the square sum each; of 192 none has much then."""
    change = turned.change
    assert isinstance(change, Turned) and change.channels == MASSIVE and change.width == 192
    assert change.share_before > 0.49 and change.share_after < 0.02
    assert change.largest_after < change.largest_before / 5
    vlm = load(turned.path)
    stream, prompts = Stream.of(vlm), [vlm.prompt(sample, PROMPT) for sample in load_samples("scenes", 4)]
    largest = max(float(state.abs().max()) for prompt in prompts for state in stream.seen(vlm, prompt))
    assert largest == pytest.approx(change.largest_after, rel=1e-4)


def test_any_tool_loads_it(turned: Hardened, stock: Path):
    """In an environment without lesion, as a class of transformers, with an output head of its own."""
    found = run_stock(stock, "AutoModelForImageTextToText", turned.path, "")
    own = load(turned.path).model.state_dict()
    assert found.keys() == own.keys() and "lm_head.weight" in found
    for name, value in own.items():
        assert found[name] == pytest.approx(float(value.double().square().sum()), rel=1e-9, abs=1e-9)
    norms = [name for name in found if "language_model" in name and "norm" in name]
    assert len(norms) == 13 and all(found[name] == 192 for name in norms), "their weights are 1"
    assert found["lm_head.weight"] != found["model.language_model.embed_tokens.weight"]


def test_a_language_model_with_a_head_of_its_own_within_another(tmp_path: Path):
    """InstructBLIP holds a whole Llama; its Q-Former's projection puts images into the stream."""
    vlm = load("tiny-instructblip")
    neurons = NeuronSet([Neuron(language(vlm, "down", 1), 5)], vlm.identity())
    assert harden(vlm, neurons, tmp_path / "out", Rotate(), load_samples("scenes", 2), PROMPT).difference < 1e-4


@pytest.mark.parametrize("name", BUILDERS)
def test_a_family_is_turned_or_refused(name: str):
    """Norms have weights that are not 1; what is turned computes the same, and what is refused was not touched."""
    example = BUILDERS[name]()  # one of its own, since it is changed
    vlm, draw = VisionLanguageModel(example.model, example.processor, name), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for path, weight in vlm.model.named_parameters():
            if "norm" in path and path.endswith("weight"):
                weight += torch.rand(weight.shape, generator=draw) / 3
    prompts, before = prompts_of(vlm), {path: value.clone() for path, value in vlm.model.state_dict().items()}
    if name in REFUSED:
        with pytest.raises(ModelError, match=REFUSED[name]):
            stream = Stream.of(vlm)
            check_entrance(vlm, stream, prompts[0], Turn([0, 3], stream.width))
        assert all(torch.equal(value, before[path]) for path, value in vlm.model.state_dict().items())
        return
    answers = vlm.generate(vlm.embed(prompts), 6)
    meant, stream = vlm.answer_log_probs(vlm.embed(prompts), answers), Stream.of(vlm)
    turn = Turn([0, 3], stream.width)
    check_entrance(vlm, stream, prompts[0], turn)
    rotate(vlm.model, stream, turn)
    for mine, theirs in zip(meant, vlm.answer_log_probs(vlm.embed(prompts), answers), strict=True):
        assert float((mine - theirs).abs().max()) < 1e-4 * float(mine.abs().max())


@pytest.mark.parametrize("channels", [[507], [0, 5, 17]])
def test_the_map_is_orthogonal_and_spreads_each_axis(channels: list[int]):
    """One axis goes to 1/sqrt(576) of every channel, but for signs; several to directions that are orthogonal to each other."""
    matrix = Turn(channels, 576)(torch.eye(576, dtype=torch.float64))
    assert torch.allclose(matrix @ matrix.T, torch.eye(576, dtype=torch.float64), atol=1e-12)
    spread = matrix[channels].abs()
    if len(channels) == 1:
        assert torch.allclose(spread, torch.full_like(spread, 1 / 24))
    assert float(spread.max()) < 2 / 24


@pytest.mark.parametrize("what", ["bias", "subclass", "meta", "more"])
def test_another_make_is_refused_and_left_as_it_was(what: str):
    vlm = load("tiny-llava")
    block: Any = vlm.model.model.language_model.layers[2]
    if what == "bias":
        block.input_layernorm.bias = torch.nn.Parameter(torch.zeros(192))
    elif what == "subclass":
        block.mlp.up_proj.__class__ = type("Quantised", (torch.nn.Linear,), {})
    elif what == "meta":
        block.mlp.up_proj.to("meta")
    else:
        block.register_parameter("scale", torch.nn.Parameter(torch.ones(192)))
    before = vlm.model.model.language_model.embed_tokens.weight.clone()
    message = {
        "bias": r"layers\.2\.input_layernorm is missing, or no RMS norm with a weight alone",
        "more": r"layers\.2\.scale is no weight of layers like Llama's",
    }.get(what, r"layers\.2\.mlp\.up_proj is missing, or no plain linear layer in memory between 192 channels and others")
    with pytest.raises(ModelError, match=message):
        Stream.of(vlm)
    assert torch.equal(before, vlm.model.model.language_model.embed_tokens.weight)


def test_only_output_channels_of_the_language_model_are_turned(tmp_path: Path):
    vlm = load("tiny-llava")
    vision = next(s for s in vlm.sites if (s.component, s.role) == ("vision", "down"))
    for site in (language(vlm, "hidden"), vision):
        with pytest.raises(OptionError, match=f"{site.key} holds no output channels of the language model; expected neurons"):
            harden(vlm, NeuronSet([Neuron(site, 0)]), tmp_path / "out", Rotate(), load_samples("scenes", 1), PROMPT)
    assert list(tmp_path.iterdir()) == []


def test_a_turn_that_went_wrong_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Where something reads the stream that was not turned, the answers differ."""
    vlm = load("tiny-llava")
    whole = Stream.of

    def forgetful(model: VisionLanguageModel) -> Stream:
        stream = whole(model)
        object.__setattr__(stream, "writers", stream.writers[1:])
        return stream

    monkeypatch.setattr(Stream, "of", forgetful)
    with pytest.raises(ModelError, match=r"what was written says .* nothing was kept|log-probabilities of what was written"):
        harden(vlm, massive(vlm), tmp_path / "out", Rotate(), load_samples("scenes", 2), PROMPT)
    assert list(tmp_path.iterdir()) == []


def test_the_command(tmp_path: Path):
    massive(load("tiny-llava")).save(tmp_path / "set.json")
    words = ["harden", "tiny-llava", str(tmp_path / "set.json"), str(tmp_path / "out"), "--samples", "2", "--rotate"]
    both = CliRunner().invoke(app, [*words, "--split", "4"])
    assert both.exit_code == 2 and "--split and --rotate are remedies of their own; give one of them" in both.stderr
    assert not (tmp_path / "out").exists()
    done = CliRunner().invoke(app, [*words, "--json"])
    told = json.loads(done.stdout)
    assert done.exit_code == 0 and told["remedy"] == "rotate" and told["channels"] == [*MASSIVE] and told["neurons"] == 2
    card = (tmp_path / "out" / "README.md").read_text()
    assert "channels 74, 139 of its residual stream turned" in card and "language layer 1 down[139]" in card
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] is False and config["text_config"]["tie_word_embeddings"] is False
