"""Evaluators that ask this process's model, or replicas in others."""

from __future__ import annotations

from collections.abc import Sequence

from lesion.ablation.clip import ClipScorer
from lesion.ablation.evaluator import Evaluator
from lesion.ablation.ground import Ground
from lesion.ablation.pooled import PooledReplies
from lesion.ablation.replies import MaskedReplies
from lesion.ablation.spent import Spent
from lesion.ablation.units import Grouping
from lesion.core.executor import Executor
from lesion.data.samples import Sample
from lesion.models.inputs import Prompt
from lesion.models.vlm import VisionLanguageModel


def evaluator_on(
    vlm: VisionLanguageModel,
    samples: Sequence[Sample],
    prompts: Sequence[Prompt],
    ground: Ground,
    clip: ClipScorer | None,
    spent: Spent,
    executor: Executor | None = None,
) -> Evaluator:
    """Measures what masks do on some samples.

    Args:
        vlm: The model.
        samples: Those of the ground.
        prompts: The samples' processed prompts.
        ground: Their intact and reference answers, and how they are asked about.
        clip: None for no CLIP score.
        spent: Is added to.
        executor: Its replicas answer; None for this process's model.
    """
    asked = ground.max_new_tokens, ground.batch_size
    if executor is not None:
        replies = PooledReplies(executor, Grouping(vlm, prompts, *asked, ground.alone), ground, spent)
    else:
        replies = MaskedReplies(
            vlm, prompts, ground.intact, ground.references, *asked, ground.statistics, spent, ground.alone
        )
    return Evaluator(vlm, samples, ground.intact, clip, replies)
