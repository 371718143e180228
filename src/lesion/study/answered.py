"""An :class:`Answered`: a model, samples, and what it says of them when nothing is masked; each computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from lesion.ablation.ground import Ground
from lesion.core.errors import DataError
from lesion.core.packet import pack, unpack
from lesion.data.samples import Sample, digest
from lesion.models.inputs import Answer, Prompt
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.options import StudyOptions
from lesion.study.rundir import RunDirectory

if TYPE_CHECKING:
    from lesion.core.executor import Executor
    from lesion.core.identity import Identity
    from lesion.core.progress import Progress
    from lesion.hooks.intervention import Statistics


class Answered:
    """A model and samples.

    Attributes:
        options: What is asked, and how answers are made.
        vlm: The model.
        identity: Which model it is.
        samples: Sample id -> sample: all that are ranked or measured on.
        run: Where everything is kept.
        progress: Listens to the stages.
        executor: Its replicas answer and score; None for this process's model.
    """

    options: StudyOptions
    vlm: VisionLanguageModel
    identity: Identity
    samples: dict[str, Sample]
    run: RunDirectory
    progress: Progress
    executor: Executor | None = None

    @cached_property
    def prompts(self) -> dict[str, Prompt]:
        """Sample id -> its processed prompt."""
        with self.progress.stage("preparing images", len(self.samples)) as advance:
            prompts = {}
            for sample in self.samples.values():
                prompts[sample.id] = self.vlm.prompt(sample, self.options.prompt)
                advance(1)
            return prompts

    @cached_property
    def answers(self) -> dict[str, Answer]:
        """Sample id -> the intact model's own answer; kept in ``answers.json``."""
        key = self.key("answers", digest(list(self.samples.values())))
        kept = self.run.read_as(rundir.ANSWERS, lambda data: None if data["key"] != key else {
            id: Answer.from_dict(answer) for id, answer in data["answers"].items()
        })
        if kept is not None:
            return kept
        answers: dict[str, Answer] = {}
        ids, size = list(self.samples), self.options.batch_size
        _ = self.prompts  # a stage of its own
        parts = [ids[i : i + size] for i in range(0, len(ids), size)]
        with self.progress.stage("intact answers", len(ids)) as advance:
            for place, said in self._said(parts):
                answers |= zip(parts[place], said, strict=True)
                advance(len(said))
        answers = {id: answers[id] for id in ids}
        self.run.write_json(rundir.ANSWERS, {"key": key, "answers": {id: a.as_dict() for id, a in answers.items()}})
        return answers

    def _said(self, parts: Sequence[Sequence[str]]) -> Iterator[tuple[int, list[Answer]]]:
        """The place of each part of the samples, and the intact model's answers there."""
        if self.executor is not None:
            tasks = [pack({"kind": "answers", "samples": list(part)}) for part in parts]
            for place, data in self.executor.run(tasks):
                yield place, [Answer.from_dict(answer) for answer in unpack(data)[0]]
            return
        for place, part in enumerate(parts):
            contexts = self.vlm.embed([self.prompts[id] for id in part])
            yield place, self.vlm.generate(contexts, self.options.max_new_tokens)

    @cached_property
    def targets(self) -> dict[str, Answer]:
        """Sample id -> the text whose likelihood is the loss and the reference perplexity."""
        if self.options.target == "answer":
            return self.answers
        missing = [s.id for s in self.samples.values() if not s.reference]
        if missing:
            raise DataError(f"{missing[0]} has no reference text ({len(missing)} such samples); use --target answer")
        return {id: self.vlm.encode(s.reference or "") for id, s in self.samples.items()}

    def ground(self, ids: Sequence[str], statistics: Statistics | None = None, alone: bool = False) -> Ground:
        """What those who are asked about samples must know of them; arguments as of :meth:`ablation`."""
        intact, targets = [self.answers[i] for i in ids], [self.targets[i] for i in ids]
        return Ground(ids, intact, targets, self.options.max_new_tokens, self.options.batch_size, statistics or {}, alone)

    def batches(self, count: int) -> list[range]:
        """The numbers of the samples that go through the model together when they are scored."""
        size = self.options.batch_size if self.vlm.structure.family.rows_are_samples else 1
        return [range(i, min(i + size, count)) for i in range(0, count, size)]

    def key(self, *parts: Any) -> str:
        """The hash of the model and of everything that decides an outcome."""
        common = (self.identity.key, str(self.vlm.model.dtype), self.options.prompt, self.options.max_new_tokens)
        return hashlib.sha256(json.dumps([*common, *parts]).encode()).hexdigest()[:24]
