"""The task of both vision-language models: a caption of each scene, and the answers to questions about it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from lesion.zoo.scenes import Scene
from training import common

Conversation = list[tuple[str, str]]
"""Prompts with their answers, one after the other, about one scene."""


class MakesRows(Protocol):
    """How a model wants its inputs."""

    def __call__(self, conversations: list[Conversation]) -> tuple[dict[str, torch.Tensor], torch.Tensor]:
        """Model inputs without the pictures, and labels (-100 outside the answers)."""
        ...


Teacher = Callable[[dict[str, torch.Tensor], Any, torch.Tensor], torch.Tensor]
"""Given a pass's inputs, its outputs with attentions, and its scenes' patch labels: a loss."""


class Task:
    """Draws scenes and gives the loss of their captions and of questions about each.

    Args:
        model: Called with the inputs, ``pixel_values`` among them.
        rows: Makes the inputs.
        seed: Of the stream of scenes.
        batch: Scenes at a time.
        questions: How many about each scene.
        together: All of a scene's questions in one conversation; otherwise each in its own.
        teach: A second loss, computed from the questions' pass.
        teach_captions: Computed from the captions' pass too.
    """

    def __init__(
        self,
        model: Any,
        rows: MakesRows,
        seed: int,
        batch: int,
        questions: int = 1,
        together: bool = True,
        teach: Teacher | None = None,
        teach_captions: bool = False,
    ) -> None:
        self.model, self.rows, self.batch = model, rows, batch
        self.questions, self.together, self.teach, self.teach_captions = questions, together, teach, teach_captions
        self.stream = common.Scenes(seed)

    def loss(self, hidden: list[torch.Tensor] | None = None) -> torch.Tensor:
        """Loss of one batch; appends every layer's residual stream to ``hidden`` where given."""
        scenes = self.stream.take(self.batch)
        pictures = common.pixels(scenes)
        told: list[Conversation] = [[(self.stream.prompt(), self.stream.caption(s))] for s in scenes]
        total = self._part(told, pictures, hidden, scenes if self.teach_captions else None)
        asked = [self.stream.questions(s, self.questions) for s in scenes]
        if not self.together:
            scenes = [scene for scene, turns in zip(scenes, asked, strict=True) for _ in turns]
            owner = torch.tensor([i for i, turns in enumerate(asked) for _ in turns], device=pictures.device)
            asked, pictures = [[turn] for turns in asked for turn in turns], pictures[owner]
        return total + self._part(asked, pictures, hidden, scenes if self.teach else None)

    def _part(
        self,
        conversations: list[Conversation],
        pictures: torch.Tensor,
        hidden: list[torch.Tensor] | None,
        taught: list[Scene] | None = None,
    ) -> torch.Tensor:
        inputs, labels = self.rows(conversations)
        wanted = {"output_hidden_states": hidden is not None, "output_attentions": taught is not None}
        out = self.model(**inputs, pixel_values=pictures, **{name: True for name, asked in wanted.items() if asked})
        if hidden is not None:
            hidden.extend(out.hidden_states)
        loss = common.answer_loss(out.logits, labels)
        if taught is not None and self.teach is not None:
            loss = loss + self.teach(inputs, out, common.patch_labels(taught))
        return loss

    @torch.no_grad()
    def fixed_loss(self, seed: int = 12345) -> float:
        """Loss of one batch that is the same at every call; the training's own stream does not move."""
        stream, self.stream = self.stream, common.Scenes(seed)
        value = self.loss().item()
        self.stream = stream
        return value
