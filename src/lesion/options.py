"""The question that a study asks: every choice, with its default, as data that replays the run."""

from __future__ import annotations

import shlex
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesion.data import SCENES
from lesion.errors import OptionError, RunError
from lesion.scorers import ScoreOptions, get_scorer, rankers

DEFAULT_PROMPT = "Describe this image in detail."
EASING = ("device", "device_map", "batch_size")
"""Options that change how long a study takes, and not what it finds."""


class StudyOptions(BaseModel):
    """Everything that decides what a study finds. The fields are the command line's options."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str = Field("tiny-llava", description="embedded name, local folder or hub id")
    data: str = Field(SCENES, description="'scenes' for the embedded ones, or images: see lesion.sources")
    category: str | None = Field(None, description="only images of this category")
    prompt: str = Field(DEFAULT_PROMPT, min_length=1, description="what the model is asked about each image")
    component: str = Field("language", description="vision, connector, qformer, language or all")
    role: str = Field("gate", description="gate, up, hidden, down or all")
    scorer: str = Field("can", description="what neurons are ranked by")
    alpha: float = Field(1.0, description="exponent of the gradient in CAN, 0 to 1")
    aggregate: str = Field("mean", description="over tokens: mean, max, sum or last")
    positions: str = Field("all", description="tokens that count: all, image, prompt, answer or first")
    samples: int = Field(32, ge=1, description="number of images")
    split: Literal["half", "same"] = Field("half", description="rank on one half and measure on the other, or both on all")
    target: Literal["answer", "reference"] = Field("answer", description="the intact model's own answer, or the data's text")
    mask: Literal["zero", "mean", "class-mean"] = Field("zero", description="what a masked neuron is set to")
    max_k: int | None = Field(None, ge=1, description="largest number of neurons to mask; default: all")
    max_new_tokens: int = Field(64, ge=1, description="longest answer")
    controls: int = Field(10, ge=0, description="control sets of each kind")
    minimal_limit: int = Field(32, ge=0, description="largest k* for which a minimal set is sought")
    clip: str = Field("auto", description="CLIP model for the CLIP score; 'none' for none")
    seed: int = Field(0, ge=0, description="chooses samples and controls")
    strict: bool = Field(False, description="an unreadable image is an error")
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    device_map: str | None = Field(None, description="spread over GPUs, CPU and disk: auto, balanced or sequential")
    quantization: Literal["none", "8bit", "4bit"] = Field("none", description="of the weights, with bitsandbytes")
    batch_size: int = Field(16, ge=1, description="images at a time")

    @classmethod
    def parse(cls, **given: Any) -> StudyOptions:
        """Checks options.

        Raises:
            OptionError: An unknown option, or a value that makes no sense; one line for the first of them.
        """
        try:
            options = cls(**given)
        except ValidationError as error:
            raise OptionError(first_complaint(error, cls)) from None
        if not get_scorer(options.scorer).ranks:
            raise OptionError(f"scorer {options.scorer!r} gives no ranking; available: {', '.join(rankers())}")
        options.scoring()
        return options

    def scoring(self) -> ScoreOptions:
        """The part that scoring reads."""
        return ScoreOptions(self.alpha, self.aggregate, self.positions, seed=self.seed)  # pyright: ignore[reportArgumentType]

    def question(self) -> dict[str, Any]:
        """What makes it this study and not another: all options but those that only change how long it takes."""
        return self.model_dump(exclude=set(EASING))

    def command(self) -> str:
        """The command line that asks the same; options with their default are left out."""
        words = ["lesion", "study", self.model]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if name != "model" and value != field.default:
                flag = f"--{name.replace('_', '-')}"
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    def to_yaml(self) -> str:
        return yaml.safe_dump(self.model_dump(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str, where: str) -> StudyOptions:
        """Reads :meth:`to_yaml`.

        Raises:
            RunError: Not a study's options; ``where`` names the file.
        """
        try:
            data = yaml.safe_load(text)
            return cls.parse(**data)
        except (yaml.YAMLError, TypeError, OptionError) as error:
            raise RunError(f"{where} is not a study's configuration: {str(error).splitlines()[0]}") from None


def first_complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """One line about the first option that pydantic finds wrong."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        return f"unknown option {name!r}; available: {', '.join(model.model_fields)}"
    return f"{name} is {first['input']!r}: {first['msg'][0].lower()}{first['msg'][1:]}"
