"""Options of every kind with every kind of wrong value, on the command line and in Python."""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lesion.core.errors import LesionError, OptionError
from lesion.models.loading import load
from lesion.study.options import StudyOptions
from lesion.study.study import Study
from tests.bad_input.checker import HELPS, LONGEST, Case, nothing, says, table, tree


def asked(name: str, words: str, expected: str, loads: bool = False, warned: tuple[str, ...] = ()) -> Case:
    """A study with these words."""
    return Case(name, nothing, f"study --out run {words}", expected, warned, loads)


def given(name: str, words: str, expected: str, loads: bool = False) -> Case:
    """Another command."""
    return Case(name, nothing, words, expected, (), loads)


LAYERS = "expected numbers and ranges, such as 7 or 0,3-5"
SMALL = "--samples 2 --max-k 1 --controls 0 --max-new-tokens 4 --clip none"

CASES = [
    # -- numbers -------------------------------------------------------------------------------------------------------
    asked("samples 0", "--samples 0", "samples is 0: input should be greater than or equal to 1"),
    asked("samples below 0", "--samples -3", "samples is -3: input should be greater than or equal to 1"),
    asked("samples in words", "--samples many", "Invalid value for '--samples' ... valid integer ... see"),
    asked("samples and a half", "--samples 2.5", "Invalid value for '--samples' ... valid integer ... see"),
    asked("samples without a number", "--samples", "Option '--samples' requires ... see"),
    asked("samples that nobody has", "--samples 99999999999999999999",
          "embedded scenes: at most 10000 scenes ... found count 9999"),
    asked("samples of 5,000 digits", f"--samples {'9' * 5000}", "Invalid value for '--samples' ... see"),
    asked("alpha above 1", "--alpha 1.5", "alpha is 1.5; expected a number from 0 to 1"),
    asked("alpha below 0", "--alpha -0.1", "alpha is -0.1; expected a number from 0 to 1"),
    asked("alpha nan", "--alpha nan", "alpha is nan: input should be a finite number"),
    asked("alpha infinite", "--alpha inf", "alpha is inf: input should be a finite number"),
    asked("alpha with a comma", "--alpha 0,5", "Invalid value for '--alpha' ... valid number ... see"),
    asked("top 0", "--top 0", "top is 0.0; expected a share above 0 and at most 1"),
    asked("top in percent", "--top 5", "top is 5.0; expected a share above 0 and at most 1"),
    asked("noise 0", "--noise 0", "noise is 0.0; expected a number above 0"),
    asked("noise infinite", "--noise inf", "noise is inf: input should be a finite number"),
    asked("steps 0", "--ig-steps 0", "ig_steps is 0; expected at least 1"),
    asked("max-k 0", "--max-k 0", "max_k is 0: input should be greater than or equal to 1"),
    asked("max-k above all neurons", f"{SMALL} --max-k 1000000", "max_k is 1000000; there are ... neurons", True),
    asked("no new tokens", "--max-new-tokens 0", "max_new_tokens is 0: input should be greater than or equal to 1"),
    asked("controls below 0", "--controls -1", "controls is -1: input should be greater than or equal to 0"),
    asked("a budget of 0", "--search-budget 0", "search_budget is 0: input should be greater than or equal to 1"),
    asked("a shortlist of 0", "--shortlist 0", "shortlist is 0: input should be greater than or equal to 1"),
    asked("a minimal limit below 0", "--minimal-limit -1", "minimal_limit is -1: input should be greater than or equal to 0"),
    asked("batches of 0", "--batch-size 0", "batch_size is 0: input should be greater than or equal to 1"),
    asked("seed below 0", "--seed -1", "seed is -1: input should be greater than or equal to 0"),
    asked("seed beyond 64 bits", f"--seed {2**63}", f"seed is {2**63}: input should be less than or equal to {2**63 - 1}"),
    asked("seed that the scenes do not have", "--seed 1000", "embedded scenes: ... seeds 0 to 999; found ... seed 1000"),
    asked("threads 0", "--threads 0", "threads is '0'; expected a number from 1 to 1024, or auto"),
    asked("a million threads", "--threads 1000000", "threads is '1000000'; expected a number from 1 to 1024, or auto"),
    asked("threads in words", "--threads all", "threads is 'all'; expected a number from 1 to 1024, or auto"),
    asked("half a thread", "--threads 0.5", "threads is '0.5'; expected a number from 1 to 1024, or auto"),
    # -- words of a list -----------------------------------------------------------------------------------------------
    asked("split", "--split third", "split is 'third': input should be 'half' or 'same'"),
    asked("target", "--target truth", "target is 'truth': input should be 'answer' or 'reference'"),
    asked("search", "--search fast", "search is 'fast': input should be 'prefix' or 'measured'"),
    asked("quantization", "--quantization 2bit", "quantization is '2bit': input should be 'none', '8bit' or '4bit'"),
    asked("aggregate", "--aggregate median", "aggregate is 'median'; expected one of mean, max, sum, last"),
    asked("positions", "--positions here", "positions is 'here'; expected one of all, image, prompt, answer, first"),
    asked("path of integrated gradients", "--ig-path x", "ig_path is 'x'; expected one of layer, all"),
    asked("scorer", "--scorer best", "scorer 'best' is unknown; available: activation, can"),
    asked("a statistic as scorer", "--scorer value", "scorer 'value' gives no ranking; available: activation, can"),
    asked("mask", "--mask half", "mask 'half' is unknown; expected one of zero, mean"),
    asked("mask without its number", "--mask scale:", "mask is 'scale:'; expected scale:NUMBER"),
    asked("mask with a word", "--mask constant:one", "mask is 'constant:one'; expected constant:NUMBER"),
    asked("mask with a number too much", "--mask zero:1", "mask is 'zero:1'; expected zero alone"),
    asked("mask that is no number", "--mask scale:nan", "mask is 'scale:nan'; expected a finite number"),
    asked("mask without end", "--mask constant:inf", "mask is 'constant:inf'; expected a finite number"),
    asked("positions of the mask", "--mask-positions x",
          "positions is 'x'; expected one of all, first, image, text, generated"),
    asked("stage", "--from nowhere", "stage 'nowhere' is unknown; expected one of answers, importance"),
    asked("dtype", "--dtype int3", "dtype 'int3' is unknown; expected one of auto, float32"),
    asked("device map", "--device-map x", "device map 'x' is unknown; expected one of auto, balanced"),
    asked("device and device map", "--device cpu --device-map auto", "device is 'cpu' and device map 'auto'; give one"),
    # -- parts of a model ----------------------------------------------------------------------------------------------
    asked("component", f"{SMALL} --component brain", "component 'brain' is not in this model; available: vision, connector",
          True),
    asked("role", f"{SMALL} --role gates", "role 'gates' is not in component 'language'; available there: gate, up", True),
    asked("role of another component", f"{SMALL} --component vision --role gate", "role 'gate' is not in ... available there",
          True),
    asked("layers in words", "--layers last", f"layers is 'last'; {LAYERS}"),
    asked("layers below 0", "--layers -1", f"layers is '-1'; {LAYERS}"),
    asked("layers backwards", "--layers 5-3", f"layers is '5-3'; {LAYERS}"),
    asked("a layer left out", "--layers 1,,2", f"layers is '1,,2'; {LAYERS}"),
    asked("a billion layers", "--layers 0-999999999", f"layers is '0-999999999'; {LAYERS}"),
    asked("a layer that is not there", f"{SMALL} --layers 99", "layer 99 is not among the chosen sites; their layers are 0 to",
          True),
    # -- devices -------------------------------------------------------------------------------------------------------
    asked("a device of another name", "--device gpu", "device 'gpu' cannot be used: ... expected auto, cpu, or an accelerator"),
    asked("a GPU that is not there", "--device cuda:99", "device 'cuda:99' cannot be used: ... expected auto, cpu"),
    asked("a device that is not built in", "--device hpu", "device 'hpu' cannot be used: ... expected auto, cpu"),
    asked("a device without values", "--device meta", "device 'meta' cannot be used: it holds no values; expected auto, cpu"),
    # -- CLIP, data, category ------------------------------------------------------------------------------------------
    asked("no such CLIP model", f"{SMALL} --clip nobody", "no model 'nobody': not a folder ... expected one of these", True),
    asked("CLIP that is another model", f"{SMALL} --clip tiny-llava", "the CLIP model 'tiny-llava' cannot be loaded ... --clip",
          True),
    asked("CLIP and no images", "tiny-llava --data prompts",
          "tiny-llava reads images, and prompts has none ... expected images", True),
    asked("a category that scenes do not have", "--category cow", "scenes have no category 'cow'; they have car, dog"),
    asked("a category that prompts do not have", "--data prompts --category cow", "prompts have no category 'cow'; they have"),
    asked("no such data", "--data nowhere", "nowhere is not a folder; expected a folder of images"),
    asked("data like a hub's", "--data owner/name", "owner/name is not a folder; ... hf:owner/name"),
    asked("data of a hub that is not named", "--data hf:name", "'hf:name': expected hf:OWNER/NAME"),
    asked("half of coco", "--data coco:images", "'coco:images': expected coco:IMAGES_DIR:instances.json"),
    # -- force, neurons ------------------------------------------------------------------------------------------------
    asked("force without neurons", "--force", "force is for neurons of another model; give them with --neurons FILE"),
    asked("no such neurons", "--neurons nowhere.json", "nowhere.json: cannot be read as a set of neurons ... No such file"),
    # -- empty words ---------------------------------------------------------------------------------------------------
    *(asked(f"empty {name}", f"--{name} ''",
         f"{name.replace('-', '_')} is '', which is empty; expected some text") for name in (
        "data", "category", "component", "role", "layers", "scorer", "aggregate", "mask", "criterion", "clip", "neurons",
        "dtype",
        "device", "device-map", "threads",
    )),
    given("empty out", f"study --out '' {SMALL}", "out is '', which is empty; expected some text"),
    given("empty model", "sites ''", "model is '', which is empty; expected some text"),
    given("empty run", "show ''", "run is '', which is empty; expected some text"),
    given("empty second run", "diff a ''", "second is '', which is empty; expected some text"),
    given("empty one of several runs", "report a ''", "runs is '', which is empty; expected some text"),
    given("empty neuron", "ranks tiny-llava --neuron ''", "neuron is '', which is empty; expected some text"),
    given("empty coordinates", "check-known tiny-llava --expect ''", "expect is '', which is empty; expected some text"),
    # -- what cannot be read -------------------------------------------------------------------------------------------
    asked("no such option", "--sample 3", "No such option: --sample ... see"),
    asked("no such letter", "-x", "No such option: -x; see"),
    asked("a word too much", "tiny-llava tiny-llava", "unexpected extra argument ... see"),
    asked("a flag with a value", "--strict=yes", "Option '--strict' does not take a value; see"),
    given("no such command", "studio", "No such command 'studio' ... 'study'? ... see"),
    given("one run to compare", "diff one", "Missing argument 'second'; see"),
    given("no run", "show", "Missing argument 'run'; see"),
    # -- other commands ------------------------------------------------------------------------------------------------
    given("try without neurons", "try tiny-llava", "which neurons? give --neurons FILE, or --run RUN"),
    given("try with two sets", "try tiny-llava --neurons a.json --run b", "which neurons? give --neurons FILE, or --run RUN"),
    given("top of nothing", "try tiny-llava --neurons a.json --top 3", "--top needs --run RUN"),
    given("top 0", "try tiny-llava --run a --top 0", "k is 0; expected at least 1"),
    given("try with no tokens", "try tiny-llava --run a --max-new-tokens 0", "max_new_tokens is 0: input should be"),
    given("try with another dtype", "try tiny-llava --run a --dtype int3", "dtype 'int3' is unknown; expected one of auto"),
    given("pairs of one", "certify run --pairs 1", "pairs is 1; expected at least 2"),
    given("pairs in words", "certify run --pairs all", "Invalid value for '--pairs' ... see"),
    given("a neuron in other words", "ranks tiny-llava --neuron 11/507",
          "neuron '11/507' cannot be read; expected role:layer:index"),
    given("a scorer of ranks", "ranks tiny-llava --scorer best", "scorer 'best' is unknown; available: activation"),
    given("coordinates of nobody", "check-known --expect gpt-9", "nothing is known of 'gpt-9'; known: tiny-llava"),
    given("a model twice", "paper tiny-llava tiny-llava",
          "models are tiny-llava, tiny-llava; expected at least one, and each once"),
    given("one image of each category", "paper --per-category 1",
          "per_category is 1: input should be greater than or equal to 2"),
    given("role of the paper", "paper --role gates", "role is 'gates'; the language model of tiny-llava has gate, up"),
    given("coordinates of the paper", "paper --expect nobody", "nothing is known of 'nobody'; known: tiny-llava"),
    given("images of the doctor", "doctor tiny-llava --data nowhere", "nowhere is not a folder; expected a folder of images",
          True),
    given("dtype of the doctor", "doctor tiny-llava --dtype int3", "dtype 'int3' is unknown; expected one of auto"),
]  # fmt: skip


@table(CASES)
def test_one_line_says_what_is_wrong_with_an_option(check: Callable[..., str], case: Case):
    check(case)


# -- in Python ---------------------------------------------------------------------------------------------------------
class Raw:
    """Stands for a model of transformers, which has no ``name``."""


PYTHON: list[tuple[dict[str, Any], str]] = [
    ({"sample": 3}, "unknown option 'sample'; available: model, data"),
    ({"samples": "many"}, "samples is 'many': input should be"),
    ({"samples": 2.5}, "samples is 2.5: input should be a valid integer"),
    ({"samples": None}, "samples is None: input should be"),
    ({"samples": [3]}, "samples is [3]: input should be a valid integer"),
    ({"samples": 10**30}, "embedded scenes"),
    ({"alpha": "high"}, "alpha is 'high': input should be a valid number"),
    ({"alpha": math.nan}, "alpha is nan: input should be"),
    ({"top": math.inf}, "top is inf: input should be a finite number"),
    ({"noise": -math.inf}, "noise is -inf: input should be"),
    ({"strict": "perhaps"}, "strict is 'perhaps': input should be a valid boolean"),
    ({"data": None}, "data is None: input should"),
    ({"data": 3}, "data is 3: input should be a valid string"),
    ({"prompt": b"What?\xff"}, "prompt is b'What?\\xff': input should be"),
    ({"prompt": ["What?"]}, "prompt is ['What?']: input should be a valid string"),
    ({"seed": -1}, "seed is -1: input should be"),
    ({"role": None}, "role is None: input should be a valid string"),
    ({"layers": 3}, "layers is 3: input should be a valid string"),
    ({"layers": [1, 2]}, "layers is [1, 2]: input should be a valid string"),
    ({"threads": -1}, "threads is '-1'; expected a number"),
    ({"criterion": 3}, "criterion is 3: input should be a valid string"),
    ({"criterion": None}, "criterion is None: input should"),
    ({"criterion": int}, "criterion is <class 'int'>: input should be"),
    ({"criterion": {}}, "not a criterion: name is missing"),
    ({"criterion": {"name": "x", "conditions": []}}, "not a criterion: conditions is []: tuple should have at least 1 item"),
    ({"criterion": {"function": "os.system"}}, "criterion is None: input should be"),
    ({"mask": 0}, "mask is 0: input should be a valid string"),
    ({"mask": "constant:1e999"}, "mask is 'constant:1e999'; expected a"),
    ({"data": "a\0b"}, "data is 'a\\x00b', which is no text in UTF-8; rename it"),
    ({"out": "a\0b"}, "out is 'a\\x00b', which is no"),
    ({"clip": "\ud800"}, "clip is '\\ud800', which is no text in UTF-8"),
    ({"out": " "}, "out is ' ', which is empty; expected"),
    ({"out": ""}, "out is '', which is empty; expected"),
    ({"model": 3}, "model is a int; expected a name, a folder, or what lesion.load returns"),
    ({"model": None}, "model is a NoneType; expected a name, a folder, or what lesion.load returns"),
    ({"model": Raw()}, "model is a Raw; expected a name, a folder, or what lesion.load returns"),
    ({"model": Path("nowhere")}, "no model 'nowhere': not a folder"),
    ({"data": Path("nowhere")}, "nowhere is not a folder; expected"),
    ({"prompt": "x" * 10**6 + "\0"}, "prompt is 'xxxx ... which is no text in UTF-8"),
]  # fmt: skip


@pytest.mark.parametrize(("options", "expected"), PYTHON, ids=[words[:40] for _, words in PYTHON])
def test_one_line_says_what_is_wrong_in_python(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any], expected: str
):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(LesionError) as error:
        Study(**{"out": tmp_path / "run", "data": "scenes", **options}).run()
    line = str(error.value)
    assert line.isprintable() and len(line) <= LONGEST and HELPS.search(line), line
    says(line, expected)
    assert tree(tmp_path) == {}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"dtype": None}, "dtype None is unknown; expected one of auto"),
        ({"device_map": 3}, "device map 3 is unknown; expected one of auto"),
        ({"quantization": "2bit"}, "quantization '2bit' is unknown; expected one of none"),
        ({"device": 3.5}, "device '3.5' cannot be used: ... expected auto"),
        ({"name": "a" * 5000}, "aaa cannot be read: File name too long; mend that"),
        ({"name": "a\0b"}, "no model 'a\\x00b': ... expected one of these"),
    ],
)  # fmt: skip
def test_one_line_says_what_is_wrong_with_loading(options: dict[str, Any], expected: str):
    with pytest.raises(LesionError) as error:
        load(**{"name": "tiny-llava", **options})
    says(str(error.value), expected)


def test_a_path_is_as_good_as_its_words():
    options = StudyOptions.parse(model=Path("a/b"), data=Path("c"), neurons=Path("d.json"))
    assert (options.model, options.data, options.neurons) == ("a/b", "c", "d.json")
    assert Study(Path("tiny-llava"), out="run").options.model == "tiny-llava"
    assert os.fspath(Study(Path("tiny-llava")).out).startswith("runs/tiny-llava")


def test_a_value_without_end_is_not_repeated_whole():
    loop: list[Any] = []
    loop.append(loop)
    for value in (["x" * 10**6] * 10**4, {"a": {"b": {"c": {"d": "e" * 10**6}}}}, loop, 10**4000):
        with pytest.raises(OptionError) as error:
            StudyOptions.parse(data=value)
        assert len(str(error.value)) <= LONGEST and "data is" in str(error.value)
