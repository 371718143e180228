"""From a name to a loaded model: an embedded name, a local folder or a hub id."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lesion import zoo
from lesion.errors import ModelError, OptionError
from lesion.models.families import Family, family_of
from lesion.sites import Sites, discover

if TYPE_CHECKING:
    import torch

    from lesion.models.vlm import VisionLanguageModel

DTYPES = ("auto", "float32", "bfloat16", "float16")


def resolve(name: str) -> str:
    """What ``from_pretrained`` is given: the folder of an embedded name, a local folder, or the hub id as it is.

    Raises:
        ModelError: The name looks like a folder, and there is no model in it.
    """
    if name in zoo.EMBEDDED:
        return str(zoo.folder(name))
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise ModelError(f"{name} has no config.json; expected a folder that save_pretrained wrote")
        return name
    if name.startswith((".", "/", "~")) or os.sep * 2 in name or name.count("/") != 1:
        raise ModelError(
            f"no model {name!r}: not a folder, not an embedded model ({', '.join(zoo.EMBEDDED)}), and not a hub id (owner/name)"
        )
    return name


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
    except (RuntimeError, AssertionError) as error:
        raise OptionError(f"device {name!r} cannot be used: {str(error).splitlines()[0]}") from None
    return device


def load(name: str, dtype: str = "auto", device: str = "auto", trust_remote_code: bool = False) -> VisionLanguageModel:
    """Loads a vision-language model with its processor, ready to be studied: frozen, in evaluation mode.

    Args:
        name: An embedded name, a local folder or a hub id.
        dtype: ``auto`` is the checkpoint's own on a GPU and float32 on a CPU.
        device: As torch names it; ``auto`` is a GPU where there is one.
        trust_remote_code: Run the repository's own code. Off unless asked for.

    Raises:
        ModelError: No such model, a family that is not supported, weights or processor that cannot be loaded.
        OptionError: An unknown dtype or device.
    """
    if dtype not in DTYPES:
        raise OptionError(f"dtype {dtype!r} is unknown; expected one of {', '.join(DTYPES)}")
    source = resolve(name)

    import torch
    from transformers import AutoModelForImageTextToText, AutoProcessor

    from lesion.models.vlm import VisionLanguageModel

    place = pick_device(device)
    wanted = (torch.float32 if place.type == "cpu" else "auto") if dtype == "auto" else getattr(torch, dtype)
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    _, family = _config(name, source, trust_remote_code)
    processor = _attempt(name, "processor", lambda: AutoProcessor.from_pretrained(source, **options))
    model = _attempt(name, "weights", lambda: AutoModelForImageTextToText.from_pretrained(source, dtype=wanted, **options))
    return VisionLanguageModel(model.to(place), processor, family, name)


def load_structure(name: str, trust_remote_code: bool = False) -> Sites:
    """A model's sites from its configuration alone: no weights are read, so it is quick for a model of any size.

    Raises:
        ModelError: No such model, or a family that is not supported.
    """
    source = resolve(name)

    import torch
    from transformers import AutoModelForImageTextToText

    config, family = _config(name, source, trust_remote_code)
    with torch.device("meta"):
        model = _attempt(
            name, "structure", lambda: AutoModelForImageTextToText.from_config(config, trust_remote_code=trust_remote_code)
        )
    return discover(model, family)


def _config(name: str, source: str, trust_remote_code: bool) -> tuple[Any, Family]:
    from transformers import AutoConfig

    config = _attempt(name, "config", lambda: AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code))
    if not getattr(config, "use_decoder_only_language_model", True):
        raise ModelError(f"{name} has an encoder-decoder language model, which is not supported yet")
    return config, family_of(config)


def _attempt(name: str, part: str, call: Any) -> Any:
    """Runs one loading step; whatever the libraries raise becomes one line that names the model and the part."""
    try:
        return call()
    except (OSError, ValueError, RuntimeError, KeyError, ImportError, TypeError) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        raise ModelError(f"the {part} of {name!r} cannot be loaded: {lines[0] if lines else type(error).__name__}") from None
