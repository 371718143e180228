"""Prompts that are empty, enormous, no text, or hold what stands for the image."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lesion.core.errors import DataError, LesionError
from lesion.data.samples import Sample, load_samples
from tests import tiny_models
from tests.bad_input.checker import Case, says, table
from tests.bad_input.test_images import WHOLE
from tests.models.test_families import vlm_of

SMALL = "--samples 2 --max-k 1 --controls 0 --max-new-tokens 4 --clip none"
NO_CLIP = ("no CLIP score",)
LONG = "what is at the top of it ? " * 5000


def asks(*prompts: Any, suffix: str = "jsonl") -> Callable[[Path], object]:
    """Makes data that ask these of one picture, or are the prompts themselves."""

    def make(folder: Path) -> None:
        (folder / "a.png").write_bytes(WHOLE)
        lines = prompts if suffix == "txt" else [json.dumps({"image": "a.png", "prompt": prompt}) for prompt in prompts]
        (folder / f"d.{suffix}").write_text("\n".join(lines) + "\n")

    return make


def none(folder: Path) -> None:
    pass


DATA = f"study model --data d.jsonl {SMALL} --out run"
CASES = [
    # -- said by an option ---------------------------------------------------------------------------------------------
    *(Case(f"{command}: {name}", none, f"{command} --prompt {prompt!r}",
         f"prompt is {prompt!r}, which is empty; expected some text")
      for command in ("study model", "doctor model", "try model --run run", "check-known model", "ranks model", "paper model")
      for name, prompt in (("empty", ""), ("a blank", " "))),
    Case("only line ends", none, "study model --prompt", "prompt is '\\n\\n\\t', which is empty; expected",
         exactly=("\n\n\t",)),
    Case("a zero byte", none, "study model --prompt", "prompt is 'a\\x00b', which is no text in UTF-8", exactly=("a\0b",)),
    Case("bytes that are no text", none, "study model --prompt", "prompt is 'a\\udcffb', which is no text in UTF-8",
         exactly=("a\udcffb",)),
    Case("the image's token", none, f"study model {SMALL} --out run --prompt 'what is in <image> ?'",
         "the prompt of sample scene-10000000 has <image> in it, which lesion puts there itself; leave it out", NO_CLIP,
         loads=True),
    Case("enormous", none, f"study model {SMALL} --out run --prompt",
         "the prompt of sample scene-10000000 has ... tokens; expected at most 128", NO_CLIP, loads=True, exactly=(LONG,)),
    Case("enormous for the doctor", none, "doctor model --prompt", "has ... tokens; expected at most 128", loads=True,
         exactly=(LONG,)),
    Case("the image's token for the doctor", none, "doctor model --prompt '<image>'", "has <image> in it ... leave it out",
         loads=True),
    # -- said by the data ----------------------------------------------------------------------------------------------
    Case("the image's token in the data", asks("<image>", "<image>"), DATA, "the prompt of sample ... has <image> in it",
         NO_CLIP, loads=True),
    Case("enormous in the data", asks(LONG, LONG), DATA, "the prompt of sample ... has ... tokens; expected at most 128",
         NO_CLIP, loads=True),
    Case("the image's token in one line", asks("<image>", *["what ?"] * 7), f"{DATA} --samples 8 --seed 2",
         "the prompt of sample ... has <image> in it", NO_CLIP, loads=True),
    Case("a file of nothing", asks("", " ", suffix="txt"), "study model --data d.txt --out run",
         "d.txt has no line; expected a prompt"),
    Case("prompts and no images", asks("what ?", "who ?", suffix="txt"), f"study model --data d.txt {SMALL} --out run",
         "model reads images, and d.txt has none (line- ... ); expected images", loads=True),
]  # fmt: skip


@table(CASES)
def test_a_prompt_that_cannot_be_asked_is_refused(check: Callable[..., str], case: Case, tmp_path: Path, tiny: Path):
    shutil.copytree(tiny, tmp_path / "model")
    check(case)


@pytest.mark.parametrize("prompt", ["", "  ", "\n", None, [], [""], {}])
def test_an_empty_prompt_in_the_data_is_none(tmp_path: Path, prompt: Any):
    """The study's own is asked then."""
    asks(prompt)(tmp_path)
    assert [s.prompt for s in load_samples(str(tmp_path / "d.jsonl"), 1)] == [None]
    (tmp_path / "d.jsonl").write_text(json.dumps({"prompt": prompt}))
    with pytest.raises(DataError, match="line 1: expected an object with 'image'"):
        load_samples(str(tmp_path / "d.jsonl"), 1)


def test_half_a_character_in_the_data_can_be_written_down(tmp_path: Path):
    (tmp_path / "d.jsonl").write_text('{"prompt": "what \\ud83d ?", "answer": "\\udcff", "category": "a\\ud800"}')
    (sample,) = load_samples(str(tmp_path / "d.jsonl"), 1)
    assert (sample.prompt, sample.reference, sample.category) == ("what \\ud83d ?", "\\udcff", "a\\ud800")
    assert sample.digest and json.dumps(sample.prompt, ensure_ascii=False).encode()


def test_a_model_that_reads_text_alone_has_a_longest_prompt_too():
    vlm = vlm_of("llama")
    most = vlm.model.config.max_position_embeddings
    assert vlm.prompt(Sample("a", None, prompt="what is it ?")).inputs["input_ids"].shape[1] < most
    with pytest.raises(DataError) as error:
        vlm.prompt(Sample("a", None, prompt=LONG))
    says(str(error.value), f"the prompt of sample a has ... tokens; expected at most {most:,} ... shorten it")


def test_a_q_former_has_a_longest_prompt():
    """The language model would read more."""
    vlm = tiny_models.instructblip()
    with pytest.raises(LesionError, match="tokens; expected at most 64, which is what random-instructblip reads: shorten it"):
        vlm.prompt(tiny_models.samples(1)[0], "what is it ? " * 20)
