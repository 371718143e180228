"""From a name to a loaded model: an embedded or packaged name, a local folder, a GGUF file or a hub id."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion import zoo
from lesion.core.errors import LesionError, ModelError, OptionError
from lesion.core.sites import Sites
from lesion.models import gguf, packaged
from lesion.models.checkpoint import check_config, check_folder, check_loaded, check_weights
from lesion.models.discovery import discover
from lesion.models.quiet import no_bars
from lesion.models.vlm import VisionLanguageModel

if TYPE_CHECKING:
    import torch

DTYPES = ("auto", "float32", "bfloat16", "float16")
DEVICE_MAPS = ("auto", "balanced", "balanced_low_0", "sequential")
QUANTIZATIONS = ("none", "8bit", "4bit")
HUB_ID = r"[A-Za-z0-9_][\w.-]{0,95}/[A-Za-z0-9_][\w.-]{0,95}"
SHOWN = 200
"""Characters of a name, or of a library's message, that are repeated."""


def resolve(name: str) -> str:
    """What ``from_pretrained`` is given: the folder of an embedded or packaged name or a GGUF file, a folder, or a hub id.

    Raises:
        ModelError: The name looks like a folder or a file, and there is no model in it; or a packaged model's package is
            missing.
    """
    if name in zoo.EMBEDDED:
        return str(zoo.folder(name))
    if name in packaged.PACKAGED:
        return str(packaged.folder(name))
    path, shown = Path(name), name[:SHOWN]
    try:
        if gguf.is_gguf(name):
            gguf.read_header(path)
            return str(path.parent)
        if name and path.is_dir():
            check_folder(name, path)
            return name
        if path.is_file():
            raise ModelError(f"{shown} is a file; expected the folder that a model was saved in, or a {gguf.SUFFIX} file")
    except OSError as error:
        raise ModelError(f"{shown} cannot be read: {error.strerror or error}; mend that, or name another model") from None
    if re.fullmatch(HUB_ID, name) is None:
        raise ModelError(
            f"no model {shown!r}: not a folder, not an embedded model ({', '.join((*zoo.EMBEDDED, *packaged.PACKAGED))}), "
            f"not a {gguf.SUFFIX} file, and not a hub id; expected one of these, such as owner/name"
        )
    return name


def split_revision(name: str) -> tuple[str, str | None]:
    """``owner/name@revision`` as a hub id and a branch, tag or commit; None where no revision is given.

    Folders and embedded names have no revision.
    """
    base, at, revision = name.rpartition("@")
    return (base, revision) if at and base and not Path(name).exists() else (name, None)


def pick_device(name: str = "auto") -> torch.device:
    """The named device; ``auto`` is a GPU where there is one.

    Raises:
        OptionError: torch does not know it, or this machine has none.
    """
    import torch

    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
        if device.type == "meta":
            raise RuntimeError("it holds no values")
    except Exception as error:  # every kind of device has errors of its own where it is not there
        why, asked = _first_line(error).partition(". ")[0], str(name)[:SHOWN]
        raise OptionError(
            f"device {asked!r} cannot be used: {why}; expected auto, cpu, or an accelerator that is there"
        ) from None
    return device


def load(
    name: str,
    dtype: str = "auto",
    device: str = "auto",
    trust_remote_code: bool = False,
    device_map: str | dict[str, Any] | None = None,
    quantization: str = "none",
) -> VisionLanguageModel:
    """Loads a model with its processor (or its tokenizer, if it reads text alone), ready to be studied.

    Args:
        name: An embedded or packaged name, a local folder, a GGUF file, or a hub id, which may end in ``@revision``.
        dtype: ``auto`` is the checkpoint's own on a GPU and float32 on a CPU.
        device: As torch names it; ``auto`` is a GPU where there is one.
        trust_remote_code: Run the repository's own code. Off unless asked for.
        device_map: As accelerate takes it: ``auto`` spreads the model over the GPUs, then the CPU's memory, then the disk.
        quantization: ``8bit`` or ``4bit`` with bitsandbytes; ``none`` as the checkpoint is.

    Raises:
        ModelError: No such model, a make of feed-forward network that is not known, weights or processor that cannot be loaded.
        OptionError: An unknown dtype, device, device map or quantization, or a device beside a device map.
    """
    check_placing(dtype, device, device_map, quantization)
    source = _Source(name, trust_remote_code)
    # The processor is small: what is wrong with it is said before the weights are read.
    processor = source.processor()
    model = source.model(dtype, device, device_map, quantization)
    # The folder of a GGUF file holds others too, so no hash is kept there.
    return VisionLanguageModel(model, processor, name, None if source.gguf else source.path)


def check_placing(dtype: str, device: str, device_map: str | dict[str, Any] | None, quantization: str) -> None:
    """Whether a model can be loaded so, as far as that can be said before anything of it is known.

    Raises:
        OptionError: An unknown dtype, device map or quantization, or a device beside a device map.
    """
    if dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown; expected one of {', '.join(DTYPES)}")
    if device_map is not None and device != "auto":
        raise OptionError(f"device is {device!r} and device map {device_map!r}; give one of them")
    if device_map is not None and not isinstance(device_map, dict) and device_map not in DEVICE_MAPS:
        raise OptionError(f"device map {device_map!r} is unknown; expected one of {', '.join(DEVICE_MAPS)}")
    if quantization not in QUANTIZATIONS:
        raise OptionError(f"quantization {quantization!r} is unknown; expected one of {', '.join(QUANTIZATIONS)}")


def load_weights(name: str, trust_remote_code: bool = False, **placing: Any) -> Any:
    """Loads a model without its processor; arguments and errors as for :func:`load`."""
    return _Source(name, trust_remote_code).model(**placing)


def reads_text_alone(name: str, trust_remote_code: bool = False) -> bool:
    """Whether a model takes no images, from its configuration alone; errors as for :func:`load`."""
    return _Source(name, trust_remote_code).text_only


class ProcessorError(ModelError):
    """The model is there, and what turns images and text into its inputs cannot be loaded."""


class _Source:
    """A model that has a name, of which nothing but the configuration has been read."""

    def __init__(self, name: str, trust_remote_code: bool) -> None:
        base, revision = split_revision(name)
        self.name, self.path = name, resolve(base)
        self.gguf = gguf.is_gguf(base)
        own = gguf.reading(base) if self.gguf else _at(revision)
        self.options: dict[str, Any] = {"trust_remote_code": trust_remote_code, **own}
        self.config = _config(name, self.path, self.options)
        check_config(name, self.config)
        self.make = _auto_class(self.config)
        self.text_only: bool = self.make.__name__ == "AutoModelForCausalLM"

    def processor(self) -> Any:
        from transformers import AutoProcessor, AutoTokenizer

        part, make = ("tokenizer", AutoTokenizer) if self.text_only else ("processor", AutoProcessor)
        try:
            processor = _attempt(self.name, part, lambda: make.from_pretrained(self.path, **self.options))
        except ModelError as error:
            raise ProcessorError(str(error)) from None
        if not self.text_only and not hasattr(processor, "image_processor"):
            # transformers falls back on the tokenizer where a part of the processor cannot be made.
            raise ProcessorError(f"the processor of {self.name!r} has no image processor; is preprocessor_config.json there?")
        return processor

    def model(
        self,
        dtype: str = "auto",
        device: str = "auto",
        device_map: str | dict[str, Any] | None = None,
        quantization: str = "none",
    ) -> Any:
        import torch

        check_placing(dtype, device, device_map, quantization)
        if Path(self.path).is_dir() and not self.gguf:
            check_weights(self.name, Path(self.path))
        place = pick_device(device)
        wanted = (torch.float32 if place.type == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype)
        placed: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
        if self.gguf and quantization != "none":
            raise OptionError(f"quantization is {quantization!r}, and {self.name} is quantised already; leave it out")
        if quantization != "none":
            placed = {"device_map": device_map or {"": place}, "quantization_config": _quantised(quantization, place)}
        options = {"dtype": wanted, **placed, "trust_remote_code": self.options["trust_remote_code"]}
        if self.gguf:
            model = _attempt(self.name, "weights", lambda: gguf.read_model(self._whole, self.name, **options))
        else:
            options |= {**self.options, "use_safetensors": True}
            model = _attempt(self.name, "weights", lambda: self._whole(self.path, **options))
        return model if placed else model.to(place)

    def _whole(self, path: str, **options: Any) -> Any:
        """The model of ``from_pretrained``, all of whose weights were in its files."""
        model, info = self.make.from_pretrained(path, output_loading_info=True, ignore_mismatched_sizes=True, **options)
        check_loaded(self.name, info)
        return model


def _quantised(quantization: str, place: torch.device) -> Any:
    from importlib.util import find_spec

    from transformers import BitsAndBytesConfig

    if find_spec("bitsandbytes") is None:
        raise OptionError(f"quantization {quantization!r} needs bitsandbytes; pip install bitsandbytes")
    if quantization == "4bit" and place.type == "cpu":
        raise OptionError("4bit weights have no gradients on a CPU (bitsandbytes); use 8bit, or a GPU")
    return BitsAndBytesConfig(load_in_8bit=quantization == "8bit", load_in_4bit=quantization == "4bit")


def load_structure(name: str, trust_remote_code: bool = False) -> Sites:
    """A model's sites from its configuration alone: no weights are read, so it is quick for a model of any size.

    Raises:
        ModelError: No such model, or one whose feed-forward networks are of a make that is not known.
    """
    import torch

    source = _Source(name, trust_remote_code)
    trust = {"trust_remote_code": trust_remote_code}
    with torch.device("meta"):
        model = _attempt(name, "structure", lambda: source.make.from_config(source.config, **trust))
    return discover(model)


def _at(revision: str | None) -> dict[str, str]:
    return {} if revision is None else {"revision": revision}


def _config(name: str, source: str, options: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return _attempt(name, "config", lambda: AutoConfig.from_pretrained(source, **options))


def _auto_class(config: Any) -> Any:
    """The class that loads a model: for images and text where there is one, for text alone otherwise.

    Raises:
        ModelError: It writes no text.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING

    for make, mapping in (
        (AutoModelForImageTextToText, MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING),
        (AutoModelForCausalLM, MODEL_FOR_CAUSAL_LM_MAPPING),
    ):
        if type(config) in mapping or make.__name__ in (getattr(config, "auto_map", None) or {}):
            return make
    raise ModelError(
        f"model type {config.model_type!r} is not supported; expected a model that writes text about images, or about text"
    )


def _attempt(name: str, part: str, call: Any) -> Any:
    """Runs one loading step; whatever the libraries raise becomes one line that names the model and the part."""
    try:
        with no_bars():
            return call()
    except LesionError:
        raise
    except Exception as error:  # the libraries, and what is damaged, raise errors of many kinds
        package = _missing_package(str(error))
        if package is not None:
            raise ModelError(f"the {part} of {name!r} needs {package}, which is not installed; pip install {package}") from None
        if "trust_remote_code" in str(error):
            raise ModelError(
                f"the {part} of {name!r} comes with code of its own, which is not run unasked; read it, and give "
                "--trust-remote-code if you trust it"
            ) from None
        why = _first_line(error)
        raise ModelError(
            f"the {part} of {name!r} cannot be loaded: {why}; mend it, or copy or download it anew" if Path(name).exists()
            else f"the {part} of {name!r} cannot be loaded: {why}; check the name, or fetch it beforehand (hf download)"
        ) from None


def _first_line(error: Exception) -> str:
    """What a library says, without what follows."""
    first, *others = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if first.endswith(":") and others:
        first = f"{first} {others[0]}"
    return first[:SHOWN].rstrip(".:;")


def _missing_package(message: str) -> str | None:
    """The package that a library says it lacks; None where it says something else."""
    patterns = (r"`pip install ([\w-]+)`", r"requires the (\w+) library but it was not found", r"No module named '([\w-]+)")
    return next((match[1].lower() for pattern in patterns if (match := re.search(pattern, message))), None)
