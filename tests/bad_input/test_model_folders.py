"""Folders of models that are damaged, incomplete, hostile, or something else."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from lesion import zoo
from lesion.core.errors import ModelError
from lesion.models.loading import load
from tests import gguf_files
from tests.bad_input.checker import Case, as_anybody, nothing, says, table

SITES, STUDY = "sites model", "study model --samples 2 --clip none --out run"
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ANEW = "copy or download it anew"


def writes(name: str, content: str | bytes) -> Callable[[Path], object]:
    """Writes a file of the model."""
    return lambda folder: (folder / "model" / name).write_bytes(content.encode() if isinstance(content, str) else content)


def lacks(*names: str) -> Callable[[Path], object]:
    """Takes files of the model away."""
    return lambda folder: [(folder / "model" / name).unlink() for name in names]


def config(**changed: Any) -> Callable[[Path], object]:
    """Changes entries of the configuration; ``text__x`` is x of the language model, and None takes one away."""

    def make(folder: Path) -> None:
        file = folder / "model" / "config.json"
        data = json.loads(file.read_text())
        for name, value in changed.items():
            of = data["text_config"] if name.startswith("text__") else data
            of[name.removeprefix("text__")] = value
        file.write_text(json.dumps({name: value for name, value in data.items() if value is not None}))

    return make


def weights(act: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], object]:
    """Changes the weights."""

    def make(folder: Path) -> None:
        state = load_file(folder / "model" / WEIGHTS)
        act(state)
        save_file(state, folder / "model" / WEIGHTS, {"format": "pt"})

    return make


def raw(act: Callable[[bytes], bytes]) -> Callable[[Path], object]:
    """Changes the bytes of the weights' file."""

    def make(folder: Path) -> None:
        file = folder / "model" / WEIGHTS
        file.write_bytes(act(file.read_bytes()))

    return make


def shards(act: Callable[[Path, dict[str, Any]], object] = lambda folder, index: None) -> Callable[[Path], object]:
    """Splits the weights in three files, and changes those or their index."""

    def make(folder: Path) -> None:
        place = folder / "model"
        state = load_file(place / WEIGHTS)
        (place / WEIGHTS).unlink()
        names, placed = sorted(state), {}
        for number in range(3):
            shard = f"model-0000{number + 1}-of-00003.safetensors"
            part = {name: state[name] for name in names[number::3]}
            save_file(part, place / shard, {"format": "pt"})
            placed |= dict.fromkeys(part, shard)
        index = {"metadata": {}, "weight_map": placed}
        act(place, index)
        (place / INDEX).write_text(json.dumps(index))

    return make


def both(*acts: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: [act(folder) for act in acts]


def header(about: Any, data: bytes = b"") -> bytes:
    """A safetensors file."""
    text = json.dumps(about).encode()
    return struct.pack("<Q", len(text)) + text + data


class Evil:
    """Makes a folder when it is unpickled."""

    def __reduce__(self) -> Any:
        return os.mkdir, ("unpickled",)


EVIL = pickle.dumps(Evil())
NO_CLIP = ("no CLIP score",)
OWN = {"model_type": "mine", "auto_map": {"AutoConfig": "own.Mine", "AutoModelForImageTextToText": "own.Mine"}}
OF_MODEL = "'model' cannot be loaded: ... mend it, or copy or download it anew"

CASES = [
    # -- the configuration ---------------------------------------------------------------------------------------------
    Case("no config", lacks("config.json"), SITES, "model has no config.json; expected a folder that save_pretrained wrote"),
    Case("config is empty", writes("config.json", ""), SITES, f"the config of {OF_MODEL}"),
    Case("config is cut off", writes("config.json", '{"model_type": "ll'), SITES, f"the config of {OF_MODEL}"),
    Case("config is binary", writes("config.json", bytes(range(256))), SITES, f"the config of {OF_MODEL}"),
    Case("config is a list", writes("config.json", "[]"), SITES, f"the config of {OF_MODEL}"),
    Case("config is null", writes("config.json", "null"), SITES, f"the config of {OF_MODEL}"),
    Case("config is nested without end", writes("config.json", "[" * 100_000), SITES, f"the config of {OF_MODEL}"),
    Case("config is a folder", both(lacks("config.json"), lambda f: (f / "model/config.json").mkdir()), SITES,
         "has no config.json"),
    Case("config is a link to itself",
         both(lacks("config.json"), lambda f: (f / "model/config.json").symlink_to("config.json")), SITES,
         "model has no config.json; expected"),
    Case("config is a pipe", both(lacks("config.json"), lambda f: os.mkfifo(f / "model/config.json")), SITES,
         "has no config.json"),
    Case("config says nothing", writes("config.json", "{}"), SITES, f"the config of {OF_MODEL}"),
    Case("a type that nobody knows", writes("config.json", '{"model_type": "brain"}'), SITES, f"the config of {OF_MODEL}"),
    Case("a type that is a number", writes("config.json", '{"model_type": 3}'), SITES, f"the config of {OF_MODEL}"),
    Case("a type that only compares", writes("config.json", '{"model_type": "clip"}'), SITES,
         "model type 'clip' is not ... expected"),
    Case("a width in words", config(text__hidden_size="wide"), SITES, "the ... of 'model' cannot be loaded: ... mend it"),
    Case("a width of 0", config(text__hidden_size=0), SITES, "the config of 'model' has hidden_size 0; expected at least 1"),
    Case("a width below 0", config(text__hidden_size=-16), SITES, "the config of 'model' has hidden_size -16; expected at"),
    Case("no layers", config(text__num_hidden_layers=0), SITES,
         "the config of 'model' has num_hidden_layers 0; expected at least 1"),
    Case("a billion layers", config(text__num_hidden_layers=10**9), SITES,
         "the config of 'model' has num_hidden_layers 1,000,000,000"),
    Case("heads that do not divide the width", config(text__num_attention_heads=3), SITES, f"the config of {OF_MODEL}"),
    Case("an activation that nobody knows", config(text__hidden_act="x"), SITES,
         "the structure of 'model' cannot be loaded: ... mend"),
    # -- code of its own -----------------------------------------------------------------------------------------------
    Case("code of its own", both(writes("config.json", json.dumps(OWN)), writes("own.py", "import os; os.mkdir('ran')")), SITES,
         "the config of 'model' comes with code of its own, which is not run unasked; read it, and give --trust-remote-code"),
    # -- the processor -------------------------------------------------------------------------------------------------
    Case("no tokenizer", lacks("tokenizer.json"), STUDY, f"the processor of {OF_MODEL}"),
    Case("no processor", lacks("processor_config.json"), STUDY, "the processor of 'model' ... image"),
    Case("no processor and no tokenizer", lacks("processor_config.json", "tokenizer.json", "tokenizer_config.json"), STUDY,
         "the processor of 'model' cannot be loaded: "),
    Case("tokenizer is empty", writes("tokenizer.json", ""), STUDY, f"the processor of {OF_MODEL}"),
    Case("tokenizer is another thing", writes("tokenizer.json", '{"version": "1.0"}'), STUDY, f"the processor of {OF_MODEL}"),
    Case("tokenizer is binary", writes("tokenizer.json", bytes(range(256))), STUDY, f"the processor of {OF_MODEL}"),
    Case("processor is empty", writes("processor_config.json", ""), STUDY, f"the processor of {OF_MODEL}"),
    Case("processor is a list", writes("processor_config.json", "[1]"), STUDY, f"the processor of {OF_MODEL}"),
    Case("a template that ends too early", writes("chat_template.jinja", "{% for m in messages %}"), STUDY,
         "the processor of model refuses sample ... mend the model's processor", NO_CLIP, loads=True),
    Case("a template that asks for what is not there", writes("chat_template.jinja", "{{ messages[0].x.y.z }}"), STUDY,
         "the processor of model refuses sample ... mend the model's processor", NO_CLIP, loads=True),
    Case("a template that breaks out", writes("chat_template.jinja", "{{ ''.__class__.__mro__[1].__subclasses__() }}"), STUDY,
         "the processor of model refuses sample ... mend the model's processor", NO_CLIP, loads=True),
    Case("a template without the image", writes("chat_template.jinja", "hello"), STUDY,
         "the processor of model refuses sample ... mend the model's processor", NO_CLIP, loads=True),
    # -- weights that are not there, or no weights ---------------------------------------------------------------------
    Case("no weights", lacks(WEIGHTS), STUDY, f"model has no weights; expected {WEIGHTS}, or {INDEX}"),
    Case("weights are empty", writes(WEIGHTS, ""), STUDY, f"{WEIGHTS} is damaged or cut off after 0 bytes ( ... ); {ANEW}"),
    Case("weights are cut off", raw(lambda data: data[: len(data) // 2]), STUDY,
         f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    Case("weights lack their last byte", raw(lambda data: data[:-1]), STUDY,
         f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    Case("weights have more behind them", raw(lambda data: data + b"x"), STUDY,
         f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    Case("weights are text", writes(WEIGHTS, "once upon a time, and more"), STUDY,
         f"{WEIGHTS} is damaged or cut off after 26 bytes"),
    Case("a head that is longer than the file", writes(WEIGHTS, struct.pack("<Q", 2**62) + b"{}"), STUDY,
         f"{WEIGHTS} is damaged"),
    Case("a head that is a list", writes(WEIGHTS, header([1])), STUDY, f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    Case("a tensor beyond the end", writes(WEIGHTS, header({"a": {"dtype": "F32", "shape": [9], "data_offsets": [0, 36]}})),
         STUDY, f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    Case("tensors that overlap", writes(WEIGHTS, header({
        "a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]},
        "b": {"dtype": "F32", "shape": [1], "data_offsets": [2, 6]},
    }, b"x" * 6)), STUDY, "the weights of 'model' cannot be loaded: ", loads=True),
    Case("a type of number that nobody knows",
         writes(WEIGHTS, header({"a": {"dtype": "F31", "shape": [1], "data_offsets": [0, 4]}}, b"x" * 4)), STUDY,
         "the weights of 'model' cannot be", loads=True),
    Case("weights that link to themselves", both(lacks(WEIGHTS), lambda f: (f / "model" / WEIGHTS).symlink_to(WEIGHTS)), STUDY,
         "model has no weights; expected"),
    # -- weights of another model --------------------------------------------------------------------------------------
    Case("one weight is not there", weights(lambda state: state.pop(sorted(state)[0])), STUDY,
         "model lacks 1 of the weights that its config.json asks for, such as ", loads=True),
    Case("a layer is not there", config(text__num_hidden_layers=4), STUDY, "model lacks ... of the weights ... such as",
         loads=True),
    Case("no weight is there", weights(lambda state: state.clear()), STUDY, "model lacks ... of the weights ... such as",
         loads=True),
    Case("another width", config(text__intermediate_size=25), STUDY, "model has ... of shape ... expected ... by its config",
         loads=True),
    Case("a weight of another shape",
         weights(lambda state: state.update({k: v[:-1].clone() for k, v in state.items() if "gate" in k})), STUDY,
         "model has ... of shape [23, 16]; expected [24, 16], by its config.json", loads=True),
    Case("another vocabulary", config(text__vocab_size=7), STUDY, "model has ... of shape ... expected ... by its config",
         loads=True),
    # -- shards --------------------------------------------------------------------------------------------------------
    Case("a shard is not there", both(shards(), lacks("model-00002-of-00003.safetensors")), STUDY,
         f"model lacks 1 of its 3 weight files, such as model-00002-of-00003.safetensors; {ANEW}"),
    Case("all shards but one", both(shards(), lacks("model-00001-of-00003.safetensors", "model-00003-of-00003.safetensors")),
         STUDY, "model lacks 2 of its 3 weight files, such as model-00001"),
    Case("a shard is cut off", both(shards(), writes("model-00003-of-00003.safetensors", b"x" * 20)), STUDY,
         "model-00003-of-00003.safetensors is damaged or cut off after 20 bytes"),
    Case("no index", both(shards(), lacks(INDEX)), STUDY, "model has no weights; expected model.safetensors, or"),
    Case("the index is empty", both(shards(), writes(INDEX, "")), STUDY,
         f"{INDEX} is damaged: expected a JSON object with a weight_map"),
    Case("the index is a list", both(shards(), writes(INDEX, "[]")), STUDY, f"{INDEX} is damaged: expected a JSON object"),
    Case("the index names nothing", both(shards(), writes(INDEX, '{"weight_map": {}}')), STUDY,
         f"{INDEX} is damaged: expected"),
    Case("the index names a number", both(shards(), writes(INDEX, '{"weight_map": {"a": 3}}')), STUDY,
         f"{INDEX} is damaged: expected"),
    Case("the index names a file elsewhere", shards(lambda place, index: index["weight_map"].update(a="../other.safetensors")),
         STUDY, f"{INDEX} names '../other.safetensors'; expected safetensors files beside it"),
    Case("the index names a pickle",
         both(shards(lambda place, index: index["weight_map"].update(a="evil.bin")), writes("evil.bin", EVIL)), STUDY,
         f"{INDEX} names 'evil.bin'; expected safetensors files"),
    Case("the index names a tensor that is not there",
         shards( lambda place, index: index["weight_map"].update(a="model-00001-of-00003.safetensors")), STUDY,
         "model-00001-of-00003.safetensors lacks a, which"),
    # -- pickles -------------------------------------------------------------------------------------------------------
    *(Case(f"a pickle called {name}", both(lacks(WEIGHTS), writes(name, EVIL)), STUDY,
           f"model has its weights as a pickle ({name}), which can run code ... never loaded here; expected {WEIGHTS}")
      for name in ("pytorch_model.bin", "model.pt", "consolidated.00.pth", "model.ckpt")),
    Case("a pickle called safetensors", writes(WEIGHTS, EVIL), STUDY, f"{WEIGHTS} is damaged or cut off after ... {ANEW}"),
    # -- a folder or a file that is something else ---------------------------------------------------------------------
    Case("an empty folder", lambda f: (f / "else").mkdir(), "sites else", "else has no config.json; expected a folder that"),
    Case("a folder above the model",
         lambda f: shutil.move(f / "model", f / "above" / "model") if (f / "above").mkdir() is None else None, "sites above",
         "above has no config.json; expected a folder that save_pretrained wrote"),
    Case("an adapter", both(lacks("config.json"), writes("adapter_config.json", "{}")), SITES,
         "model has no config.json; it is an adapter; expected a whole model: merge the adapter"),
    Case("a folder with a gguf file", both(lacks("config.json"), writes("a.gguf", "GGUF")), SITES,
         "model has no config.json; it holds a GGUF file; name that file itself: model/a.gguf"),
    Case("the weights' file itself", nothing, f"sites model/{WEIGHTS}",
         f"model/{WEIGHTS} is a file; expected the folder that a model was"),
    Case("a file of text", lambda f: (f / "notes.txt").write_text("x"), "sites notes.txt",
         "notes.txt is a file; expected the folder that a model was"),
    Case("a hub's address", nothing, "sites https://huggingface.co/owner/name",
         "no model 'https://hugg ... such as owner/name"),
    Case("a hub's id that is not here", nothing, "sites owner/name",
         "the config of 'owner/name' cannot be loaded: ... check the name"),
    Case("a home folder", nothing, "sites ~/model", "no model ... not a folder ... expected one of these"),
    Case("the folder as its own run directory", nothing, "study model --samples 2 --clip none --out model",
         "model is not empty and holds no study; choose another --out"),
    # -- GGUF ----------------------------------------------------------------------------------------------------------
    Case("no such gguf file", nothing, "sites none.gguf", "no file none.gguf; expected a .gguf file"),
    Case("a folder called gguf", lambda f: (f / "x.gguf").mkdir(), "sites x.gguf", "no file x.gguf; expected a .gguf file"),
    Case("a gguf file that is empty", writes("a.gguf", ""), "sites model/a.gguf",
         "model/a.gguf is no GGUF file: it does not begin"),
    Case("a gguf file of text", writes("a.gguf", "once upon"), "sites model/a.gguf",
         "model/a.gguf is no GGUF file: it does not begin"),
    Case("a gguf file that is cut off", writes("a.gguf", b"GGUF\3\0\0\0"), "sites model/a.gguf",
         "model/a.gguf is damaged or cut off"),
    Case("a gguf file of a version to come", writes("a.gguf", b"GGUF" + struct.pack("<IQQ", 99, 0, 0)), "sites model/a.gguf",
         "model/a.gguf is damaged or cut off after 24 bytes ( ... ); copy or download it anew"),
    Case("a gguf file of 2^60 tensors", writes("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 2**60, 0)), "sites model/a.gguf",
         "model/a.gguf is damaged or cut off after 24 bytes ( ... ); copy or download it anew"),
    Case("a gguf file of 2^60 entries", writes("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60)), "sites model/a.gguf",
         "model/a.gguf is damaged or cut off after 24 bytes ( ... ); copy or download it anew"),
    Case("a gguf file with a name of 2^60 bytes", writes("a.gguf", b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**60)),
         "sites model/a.gguf", "model/a.gguf is damaged or cut off after 32 bytes ( ... ); copy or download it anew"),
    Case("a gguf file that is whole and says nothing", writes("a.gguf", b"GGUF" + struct.pack("<IQQ", 3, 0, 0)),
         "sites model/a.gguf", "model/a.gguf is damaged or cut off after 24 bytes ( ... ); copy or download it anew"),
    Case("a gguf file of another architecture", lambda f: gguf_files.write_llama(f / "a.gguf", gguf_files.llama(), "rwkv6"),
         "sites a.gguf", "a.gguf has the architecture 'rwkv6', which transformers does not read from GGUF; expected one of"),
]  # fmt: skip


@table(CASES)
def test_a_folder_that_is_no_model_is_refused(check: Callable[..., str], case: Case, tmp_path: Path, tiny: Path):
    shutil.copytree(tiny, tmp_path / "model")
    check(case)
    assert not list(tmp_path.glob("ran")) + list(tmp_path.glob("unpickled")), "code of the model was run"


CLIP = "study --samples 2 --clip model --out run"
CLIPS = [
    Case("clip that is another model", writes("config.json", '{"model_type": "bert"}'), CLIP,
         "the CLIP model 'model' cannot be loaded (its model type is 'bert', expected 'clip'); name another with --clip",
         loads=True),
    Case("clip without weights", lacks(WEIGHTS), CLIP, f"model has no weights; expected {WEIGHTS}", loads=True),
    Case("clip cut off", raw(lambda data: data[:-9]), CLIP, f"{WEIGHTS} is damaged or cut off after ... {ANEW}", loads=True),
    Case("clip as a pickle", both(lacks(WEIGHTS), writes("pytorch_model.bin", EVIL)), CLIP, "model has its weights as a pickle",
         loads=True),
    Case("clip that lacks a weight", weights(lambda state: state.pop("logit_scale")), CLIP, "model lacks 1 of the weights",
         loads=True),
    Case("clip without a tokenizer", lacks("tokenizer.json"), CLIP, "the CLIP model 'model' cannot be loaded ( ... --clip",
         loads=True),
    Case("clip without its images' part", lacks("processor_config.json"), CLIP, "the CLIP model 'model' cannot be loaded",
         loads=True),
]  # fmt: skip


@table(CLIPS)
def test_a_clip_model_that_is_none_is_refused(check: Callable[..., str], case: Case, tmp_path: Path):
    shutil.copytree(zoo.folder("tiny-clip"), tmp_path / "model", ignore=shutil.ignore_patterns("card.json", "README.md"))
    check(case)


UNREADABLE = {
    "config": ("config.json", "the config of 'model' cannot be loaded: ... mend it"),
    "weights": (WEIGHTS, f"{WEIGHTS} cannot be read: Permission denied; mend that"),
    "processor": ("processor_config.json", "the processor of 'model' "),
    "all": (".", "model cannot be read: Permission denied; mend that"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNREADABLE)
def test_a_model_that_may_not_be_read(check: Callable[..., str], tmp_path: Path, tiny: Path, name: str):
    file, line = UNREADABLE[name]
    shutil.copytree(tiny, tmp_path / "model")
    try:
        check(Case(name, lambda f: (f / "model" / file).chmod(0), STUDY, line), as_anybody())
    finally:
        (tmp_path / "model" / file).chmod(0o700)


def test_a_model_in_shards_is_loaded(tmp_path: Path, tiny: Path):
    shutil.copytree(tiny, tmp_path / "model")
    shards()(tmp_path)
    assert load(str(tmp_path / "model")).identity().weights == load(str(tiny)).identity().weights


def test_code_of_its_own_is_run_where_it_is_asked_for(tmp_path: Path):
    (tmp_path / "config.json").write_text(json.dumps(OWN))
    (tmp_path / "own.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w').close()\n")
    with pytest.raises(ModelError) as error:
        load(str(tmp_path), trust_remote_code=True)
    assert (tmp_path / "ran").exists()
    says(str(error.value), "the config of ... cannot be loaded: ... mend it")
