"""The CLIP score of an image and a text: ``100 * max(cos(image, text), 0)`` (arXiv 2104.08718, without its factor 2.5)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from lesion.core.errors import LesionError, ModelError, OptionError
from lesion.core.progress import Progress
from lesion.data.samples import DRAWN, Sample
from lesion.models.checkpoint import check_loaded, check_weights
from lesion.models.loading import pick_device, resolve
from lesion.models.quiet import no_bars

if TYPE_CHECKING:
    import torch

EMBEDDED = "tiny-clip"
DEFAULT = "openai/clip-vit-base-patch32"
"""For anything but the embedded scenes."""


class ClipScorer:
    """Scores texts against images with a CLIP model.

    Args:
        name: An embedded name, a local folder or a hub id.
        device: As for :func:`lesion.load`.
        model: A loaded model, instead of a name.
        processor: Its processor.

    Raises:
        ModelError: It cannot be loaded, or is not a CLIP model.
    """

    def __init__(self, name: str, device: str = "auto", model: Any = None, processor: Any = None) -> None:
        from transformers import AutoConfig, CLIPModel, CLIPProcessor

        self.name = name
        if model is None:
            try:
                source = resolve(name)
                # Where it is left out, transformers asks for it in the terminal.
                own: dict[str, Any] = {"trust_remote_code": False}
                # from_pretrained would fill a model of another kind with random weights, and say so in a log only.
                if (kind := AutoConfig.from_pretrained(source, **own).model_type) != "clip":
                    raise ValueError(f"its model type is {kind!r}, expected 'clip'")
                if Path(source).is_dir():
                    check_weights(name, Path(source))
                with no_bars():
                    loading: dict[str, Any] = {"output_loading_info": True, "ignore_mismatched_sizes": True}
                    loaded: Any = CLIPModel.from_pretrained(source, **loading)
                    model, info = loaded
                    check_loaded(name, info)
                    processor = CLIPProcessor.from_pretrained(source, **own)
            except LesionError:
                raise
            except Exception as error:  # the libraries, and what is damaged, raise errors of many kinds
                reason = (str(error).strip() or type(error).__name__).splitlines()[0]
                raise ModelError(f"the CLIP model {name!r} cannot be loaded ({reason}); name another with --clip") from None
        self.model: Any = model.float().eval().requires_grad_(False).to(pick_device(device))
        self.processor: Any = processor
        self._images: dict[str, np.ndarray] = {}

    def images(self, samples: Sequence[Sample], batch: int = 32) -> np.ndarray:
        """Unit vectors of the samples' images, ``[samples, width]``; each image is run once."""
        import torch

        new = [s for s in samples if s.id not in self._images]
        for i in range(0, len(new), batch):
            part = new[i : i + batch]
            inputs = self.processor(images=[s.picture for s in part], return_tensors="pt").to(self.model.device)
            with torch.inference_mode():
                vectors = _unit(self.model.get_image_features(**inputs))
            self._images |= {s.id: v for s, v in zip(part, vectors, strict=True)}
        return np.stack([self._images[s.id] for s in samples])

    def texts(self, texts: Sequence[str], batch: int = 32) -> np.ndarray:
        """Unit vectors of texts, ``[texts, width]``; a text is cut at the model's longest (77 tokens in CLIP)."""
        import torch

        longest = self.model.config.text_config.max_position_embeddings
        rows = []
        for i in range(0, len(texts), batch):
            inputs = self.processor.tokenizer(
                list(texts[i : i + batch]), padding=True, truncation=True, max_length=longest, return_tensors="pt"
            ).to(self.model.device)
            with torch.inference_mode():
                rows.append(_unit(self.model.get_text_features(**inputs)))
        return np.concatenate(rows)

    def score(self, samples: Sequence[Sample], texts: Sequence[str]) -> list[float]:
        """The CLIP score of each sample's image with its text. An empty text says nothing of an image and scores 0."""
        cosines = (self.images(samples) * self.texts(texts)).sum(1)
        return [score(c) if text.strip() else 0.0 for c, text in zip(cosines, texts, strict=True)]

    def chance(self, samples: Sequence[Sample], texts: Sequence[str]) -> list[float]:
        """Each sample's chance level: the mean score of its image with the other samples' texts.

        A sample that has no others is given its own score: there is no chance level to speak of.
        """
        scores = np.maximum(100 * self.images(samples) @ self.texts(texts).T, 0.0)
        scores[:, [not text.strip() for text in texts]] = 0.0
        if len(samples) == 1:
            return [float(scores[0, 0])]
        return [float((row.sum() - row[i]) / (len(row) - 1)) for i, row in enumerate(scores)]


def score(cosine: float) -> float:
    """``100 * max(cosine, 0)``."""
    return float(100 * max(cosine, 0.0))


def _unit(output: Any) -> np.ndarray:
    """Rows divided by their norm, float64."""
    # transformers 5 wraps the projected features in an output object; before, they came bare.
    features: torch.Tensor = getattr(output, "pooler_output", output).cpu().double()
    return (features / features.norm(dim=-1, keepdim=True)).numpy()


def load_clip(
    name: str, samples: Sequence[Sample], data: str, device: str, progress: Progress, note: Callable[[str], None]
) -> ClipScorer | None:
    """The CLIP model of a study's options: by its name, or the one that knows the data.

    Args:
        name: ``auto`` for :data:`EMBEDDED` on the embedded scenes and :data:`DEFAULT` on photographs; ``none`` for none.
        samples: What it will score.
        data: Where they come from.
        device: As for :func:`lesion.load`.
        progress: Listens to the stages.
        note: Called with one line where there will be no CLIP score.

    Returns:
        None where there is nothing to look at.

    Raises:
        ModelError: It cannot be loaded.
        OptionError: A CLIP model is named, and the samples have no images.
    """
    if any(s.image is None for s in samples):
        if name not in ("auto", "none"):
            raise OptionError(f"clip is {name!r}, and the samples have no images; leave out --clip")
        name = "none"
    if name == "none":
        note("no CLIP score: collapse is judged without it")
        return None
    if name == "auto":
        # By the data, not by the model: the embedded one has seen nothing but drawn scenes.
        name = EMBEDDED if data in DRAWN else DEFAULT
    with progress.stage(f"loading {name}", None):
        return ClipScorer(name, device)
