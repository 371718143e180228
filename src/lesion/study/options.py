"""The question that a study asks: every choice, with its default, as data that replays the run."""

from __future__ import annotations

import math
import os
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, cast

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lesion.core.criterion import CRITERIA, CollapseCriterion, Criterion, Judgement, get_criterion, register_criterion
from lesion.core.errors import OptionError, RunError
from lesion.core.parsing import from_yaml, short
from lesion.core.sites import parse_layers
from lesion.data.samples import DEFAULT_PROMPT, SCENES
from lesion.data.sources import regular
from lesion.hooks.intervention import Intervention, get_intervention
from lesion.models import threads
from lesion.scoring.options import ScoreOptions
from lesion.scoring.scorers import get_scorer, rankers

EASING = ("device", "device_map", "batch_size", "threads")
"""Options that change how long a study takes, and not what it finds."""


class StudyOptions(BaseModel):
    """Everything that decides what a study finds. The fields are the command line's options, their descriptions its help."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(
        "tiny-llava",
        description="a name (tiny-llava, tiny-instructblip, smollm2, smol-llava), local folder, FILE.gguf or hub id",
    )
    data: str = Field(
        SCENES,
        description="scenes, questions, quiz or prompts (embedded), a folder (images, parquet, tar), FILE.jsonl, FILE.txt, "
        "coco:IMAGES:instances.json[:captions.json], hf:OWNER/NAME",
    )
    category: str | None = Field(None, description="only images of this category")
    prompt: str = Field(DEFAULT_PROMPT, min_length=1, description="what the model is asked about each image")
    component: str = Field("language", description="vision, connector, qformer, language or all")
    role: str = Field("gate", description="gate, up, hidden, down, all of these, or head")
    layers: str | None = Field(None, description="only neurons of these layers, such as 3-5; default: all")
    scorer: str = Field("can", description="what neurons are ranked by")
    alpha: float = Field(1.0, description="exponent of the gradient in CAN, 0 to 1")
    aggregate: str = Field("mean", description="over tokens: mean, max, sum or last")
    positions: str = Field("all", description="tokens that count in the ranking: all, image, prompt, answer or first")
    top: float = Field(0.01, description="share of the neurons that counts as top in a neuron's consistency")
    noise: float = Field(0.1, description="of the perturbation scorer, as a share of the standard deviation")
    ig_steps: int = Field(8, description="steps of integrated gradients, each a forward and a backward pass")
    ig_path: str = Field("layer", description="what integrated gradients scale at once: layer (one site) or all chosen sites")
    neurons: str | None = Field(None, description="rank by this file instead: a set of neurons (JSON) or a ranking (CSV)")
    force: bool = Field(False, description="take the neurons of --neurons though they were found in another model")
    samples: int = Field(32, ge=1, description="number of images")
    split: Literal["half", "same"] = Field("half", description="rank on one half and measure on the other, or both on all")
    target: Literal["answer", "reference"] = Field("answer", description="the intact model's own answer, or the data's text")
    mask: str = Field(
        "zero", description="what a masked neuron becomes: zero, mean, class-mean, first-mean, scale:FACTOR, constant:NUMBER"
    )
    mask_positions: str = Field("all", description="tokens that are masked: all, first, image, text or generated")
    criterion: str | CollapseCriterion = Field(
        "paper", description="what counts as collapsed: paper, perplexity, degeneration, task, or FILE.yaml"
    )
    max_k: int | None = Field(None, ge=1, description="largest number of neurons to mask; default: all")
    max_new_tokens: int = Field(64, ge=1, description="longest answer")
    controls: int = Field(10, ge=0, description="control sets of each kind")
    search: Literal["prefix", "measured"] = Field(
        "prefix", description="prefix: the first k of the ranking; measured: beside that, the fewest found by measuring sets"
    )
    search_budget: int = Field(500, ge=1, description="sets that the measured search may measure")
    shortlist: int = Field(128, ge=1, description="neurons that the measured search makes sets of")
    minimal_limit: int = Field(32, ge=0, description="largest k* for which a minimal set is sought")
    clip: str = Field("auto", description="CLIP model for the CLIP score; none for none")
    seed: int = Field(0, ge=0, le=2**63 - 1, description="chooses samples and controls")
    strict: bool = Field(False, description="an unreadable image stops the study")
    dtype: str = Field("auto", description="auto, float32, bfloat16 or float16")
    trust_remote_code: bool = Field(False, description="run code that comes with the model")
    device: str = Field("auto", description="auto, cpu, cuda, cuda:1, ...")
    device_map: str | None = Field(None, description="spread over GPUs, CPU and disk: auto, balanced or sequential")
    quantization: Literal["none", "8bit", "4bit"] = Field("none", description="of the weights, with bitsandbytes")
    batch_size: int = Field(16, ge=1, description="images at a time; does not change the answer")
    threads: str = Field(
        "auto", coerce_numbers_to_str=True, description="of the CPU; auto: as many as other processes leave cores idle"
    )

    @classmethod
    def parse(cls, /, **values: Any) -> StudyOptions:
        """Checks options. A criterion may also be a function (:func:`lesion.core.criterion.register_criterion`).

        Raises:
            OptionError: An unknown option, or a value that makes no sense; one line for the first of them.
        """
        values = {name: os.fspath(value) if isinstance(value, os.PathLike) else value for name, value in values.items()}
        for name, value in values.items():
            check_text(name, value)
        if "criterion" in values:
            values["criterion"] = _criterion(values["criterion"])
        try:
            options = cls(**values)
        except ValidationError as error:
            raise OptionError(first_complaint(error, cls)) from None
        if not get_scorer(options.scorer).ranks:
            raise OptionError(f"scorer {options.scorer!r} gives no ranking; available: {', '.join(rankers())}")
        threads.check(options.threads)
        options.scoring()
        act = options.intervention()
        numbers = [value for field in fields(act) if isinstance(value := getattr(act, field.name), float)]
        if not all(map(math.isfinite, numbers)):
            raise OptionError(f"mask is {options.mask!r}; expected a finite number")
        get_criterion(options.criterion)
        if options.layers is not None:
            parse_layers(options.layers)
        if options.force and options.neurons is None:
            raise OptionError("force is for neurons of another model; give them with --neurons FILE")
        return options

    def scoring(self) -> ScoreOptions:
        """The part that scoring reads."""
        return ScoreOptions(
            self.alpha, self.aggregate, self.positions, self.top, self.seed, self.noise,  # pyright: ignore[reportArgumentType]
            self.ig_steps, self.ig_path,  # pyright: ignore[reportArgumentType]
        )  # fmt: skip

    def intervention(self) -> Intervention:
        """What a masked neuron becomes."""
        return get_intervention(self.mask, self.mask_positions)

    def rule(self) -> Criterion:
        """What counts as collapsed."""
        return get_criterion(self.criterion)

    def question(self) -> dict[str, Any]:
        """What makes it this study and not another: all options but those that only change how long it takes."""
        return {**self.model_dump(exclude=set(EASING)), "criterion": self.rule().model_dump()}

    def command(self) -> str:
        """The command line that asks the same; options with their default are left out."""
        words = ["lesion", "study", self.model]
        for name, field in type(self).model_fields.items():
            value = getattr(self, name)
            if isinstance(value, CollapseCriterion):
                value = f"{value.name}.yaml"
            if name != "model" and value != field.default:
                flag = f"--{name.replace('_', '-')}"
                words += [flag] if value is True else [flag, str(value)]
        return shlex.join(words)

    def to_yaml(self) -> str:
        """For ``config.yaml``: everything, the criterion as data."""
        return yaml.safe_dump(_plain({**self.model_dump(), "criterion": self.rule().model_dump()}), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str | bytes, where: str) -> StudyOptions:
        """Reads :meth:`to_yaml`.

        Raises:
            RunError: Not a study's options; ``where`` names the file.
        """
        try:
            data = from_yaml(text)
            if not isinstance(data, dict) or (isinstance(data.get("criterion"), str) and not is_name(data["criterion"])):
                raise ValueError("expected options by their names, and the criterion by its name or as data")
            return cls.parse(**{str(name): value for name, value in data.items()})
        except ValueError as error:  # an OptionError is one
            raise RunError(f"{where} is not a study's configuration: {error}; choose another --out") from None


def first_complaint(error: ValidationError, model: type[BaseModel]) -> str:
    """One line about the first option that pydantic finds wrong."""
    first = error.errors()[0]
    # Of a field that may be of several types, pydantic names the type as well.
    name = ".".join(str(part) for part in first["loc"] if part not in ("str", CollapseCriterion.__name__))
    if first["type"] == "extra_forbidden":
        return f"unknown option {name!r}; available: {', '.join(model.model_fields)}"
    if first["type"] == "missing":
        return f"{name} is missing; expected it beside the others"
    return f"{name} is {short(first['input'])}: {first['msg'][0].lower()}{first['msg'][1:]}"


def check_text(name: str, value: Any) -> None:
    """Whether a value, where it is text, can be given to a library and kept in a file.

    Raises:
        OptionError: It is empty, or has something in it that is no character.
    """
    if not isinstance(value, str):
        return
    if not value.strip():
        raise OptionError(f"{name} is {short(value)}, which is empty; expected some text")
    if any(character == "\0" or "\ud800" <= character <= "\udfff" for character in value):
        raise OptionError(f"{name} is {short(value)}, which is no text in UTF-8; rename it, or write it anew")


def is_name(criterion: str) -> bool:
    """Whether a criterion is named, and not in a file: what comes with a run directory names no other files."""
    return not criterion.endswith((".yaml", ".yml", ".json"))


def _criterion(criterion: Any) -> Any:
    """A criterion as the options keep it: by its name where that says it all, otherwise as data."""
    if callable(criterion) and not isinstance(criterion, type):
        name = getattr(criterion, "__qualname__", type(criterion).__name__)
        if isinstance(CRITERIA.get(name), CollapseCriterion):
            raise OptionError(f"criterion {name!r} is one of lesion's own; give the function another name")
        CRITERIA.pop(name, None)
        register_criterion(name)(cast("Judgement", criterion))
        return name
    if isinstance(criterion, str) and not is_name(criterion):
        try:
            found = from_yaml(regular(Path(criterion)).read_bytes())
        except (OSError, ValueError) as error:
            why = getattr(error, "strerror", None) or error
            raise OptionError(
                f"the criterion in {criterion} cannot be read: {why}; expected YAML with name and conditions"
            ) from None
        if not isinstance(found, dict):
            raise OptionError(f"not a criterion: {criterion} holds {short(found)}; expected name and conditions")
        criterion = found
    if isinstance(criterion, dict) and "function" in criterion:
        return criterion.get("name")
    if isinstance(criterion, dict):
        try:
            criterion = CollapseCriterion(**{str(name): value for name, value in criterion.items()})
        except ValidationError as error:
            raise OptionError(f"not a criterion: {first_complaint(error, CollapseCriterion)}") from None
    if isinstance(criterion, CollapseCriterion) and CRITERIA.get(criterion.name) == criterion:
        return criterion.name
    return criterion


def _plain(value: Any) -> Any:
    """Tuples as lists, for YAML."""
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return [_plain(v) for v in value] if isinstance(value, list | tuple) else value
