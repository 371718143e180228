"""GGUF: one file with a model's weights, mostly quantised, and its tokenizer, as llama.cpp reads it.

transformers reads the file and turns every weight back into ordinary floats, so that it is studied, masked and saved like any
other model. What quantisation took away is gone: the weights are the values that the file's numbers stand for.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable
from contextlib import redirect_stderr
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from lesion.core.errors import ModelError
from lesion.models import gguf_layout

SUFFIX = ".gguf"
_MAGIC = b"GGUF"
_FROM_A_QUANTISED_FILE = ("hf_quantizer", "quantization_method", "is_quantized")


@dataclass(frozen=True)
class Header:
    """What a file says of itself.

    Attributes:
        architecture: As GGUF names it, such as ``llama``.
        tensors: Type of tensor, such as ``Q4_1`` or ``F32``, -> how many of them.
        parameters: Number of weights.
        size: Of the weights in the file, in bytes.
    """

    architecture: str
    tensors: dict[str, int]
    parameters: int
    size: int

    @property
    def bits(self) -> float:
        """Bits a weight, on average."""
        return 8 * self.size / self.parameters

    def __str__(self) -> str:
        types = ", ".join(f"{name} {count}" for name, count in self.tensors.items())
        return f"architecture {self.architecture}; tensors: {types}; {self.bits:.1f} bits a weight"

    @property
    def lost(self) -> str:
        """What a study of it cannot see."""
        if all(name in ("F32", "F16", "BF16", "F64") for name in self.tensors):
            return "nothing: no tensor is quantised"
        return (
            "what quantisation rounded away: the weights are the values that the file stands for, not those of the original; "
            "activations are not rounded, as llama.cpp may do"
        )


def is_gguf(name: str) -> bool:
    """Whether a model's name is that of a GGUF file."""
    return name.lower().endswith(SUFFIX)


def read_header(path: str | Path) -> Header:
    """Reads a file's header, and checks that transformers reads its architecture and that the file is whole.

    Raises:
        ModelError: No such file, no GGUF file, a truncated one, an architecture that transformers does not read, or the package
            ``gguf`` is missing.
    """
    path = Path(path)
    if not path.is_file():
        raise ModelError(f"no file {path}; expected a {SUFFIX} file")
    with path.open("rb") as file:
        if file.read(len(_MAGIC)) != _MAGIC:
            raise ModelError(f"{path} is no GGUF file: it does not begin with {_MAGIC.decode()}; copy or download it anew")
    if find_spec("gguf") is None:
        raise ModelError(f"{path.name} is a GGUF file, and to read it needs gguf, which is not installed; pip install gguf")
    from gguf import GGUFReader
    from transformers.modeling_gguf_pytorch_utils import GGUF_SUPPORTED_ARCHITECTURES

    try:
        gguf_layout.check(path)
        reader = GGUFReader(path)
        architecture = _text(reader, "general.architecture")
        types = Counter(tensor.tensor_type.name for tensor in reader.tensors)
        weights, size = (sum(int(getattr(tensor, name)) for tensor in reader.tensors) for name in ("n_elements", "n_bytes"))
        if not weights:
            raise ValueError("it has no weights")
    except (ValueError, LookupError, OSError, OverflowError, TypeError, AttributeError) as error:
        size = path.stat().st_size
        raise ModelError(f"{path} is damaged or cut off after {size:,} bytes ({error}); copy or download it anew") from None
    if architecture not in GGUF_SUPPORTED_ARCHITECTURES:
        raise ModelError(
            f"{path.name} has the architecture {architecture!r}, which transformers does not read from GGUF; "
            f"expected one of {', '.join(sorted(GGUF_SUPPORTED_ARCHITECTURES))}"
        )
    return Header(architecture, dict(types.most_common()), weights, size)


def _text(reader: Any, key: str) -> str:
    field = reader.get_field(key)
    return "" if field is None else str(field.contents())


def as_ordinary(model: Any) -> Any:
    """A model that transformers has read from GGUF, as if its floats had been a checkpoint: it can be saved and exported.

    Raises:
        ModelError: Its weights were left in GGUF blocks, in which no gradient flows.
    """
    quantiser = getattr(model, "hf_quantizer", None)
    packed = getattr(quantiser, "packed_modules", None)
    if packed:
        raise ModelError(f"transformers left {len(packed)} modules in GGUF blocks; lesion needs them as floats")
    for name in _FROM_A_QUANTISED_FILE:
        if name in vars(model):
            delattr(model, name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    return model


def read_model(make: Callable[..., Any], path: str | Path, **options: Any) -> Any:
    """A model with its weights as floats.

    Args:
        make: A class's ``from_pretrained``.
        path: The file.
        **options: Others of ``make``.

    Raises:
        ModelError: As for :func:`as_ordinary`.
    """
    # transformers draws this loader's bar whether bars are wanted or not.
    with redirect_stderr(io.StringIO()):
        model = make(Path(path).parent, **reading(path), **_dequantising(), **options)
    return as_ordinary(model)


def reading(path: str | Path) -> dict[str, Any]:
    """What every ``from_pretrained`` is given beside the file's folder."""
    return {"gguf_file": Path(path).name}


def _dequantising() -> dict[str, Any]:
    """What a model's ``from_pretrained`` is given so that no weight stays in blocks, where transformers could leave it so."""
    try:
        from transformers import GgufConfig  # later than the first of transformers 5
    except ImportError:
        return {}
    return {"quantization_config": GgufConfig(dequantize=True)}
