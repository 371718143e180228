"""A :class:`Session`: everything that asking a model needs, opened in one place and in one order.

Loading the samples and the model, the CLIP model, the doctor's check, the run directory with its lock: whatever can be wrong
with a question is found before the directory is made. What is asked is up to :mod:`lesion.study.stages`, to
:mod:`lesion.study.check_known` and to :mod:`lesion.paper`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from lesion.ablation.clip import ClipScorer, load_clip
from lesion.core.executor import Executor
from lesion.core.identity import Identity
from lesion.core.progress import Progress, Silent
from lesion.core.sites import Sites
from lesion.data.samples import Sample, load_samples, split
from lesion.models.threads import computing
from lesion.models.vlm import VisionLanguageModel
from lesion.study import rundir
from lesion.study.bench import Bench
from lesion.study.doctor import examine
from lesion.study.manifest import check_same, manifest
from lesion.study.options import StudyOptions
from lesion.study.reading import as_read, check_fit, chosen_sites, loaded, with_data
from lesion.study.rundir import RunDirectory, default_folder
from lesion.study.spec import spec_of


class Session(Bench):
    """A bench on which neurons are ranked and masked; use :meth:`open`.

    Attributes:
        ranked: The samples that neurons are ranked on.
        sites: The sites whose neurons are asked about: reachable ones of the options' component, role and layers.
    """

    def __init__(
        self,
        options: StudyOptions,
        vlm: VisionLanguageModel,
        identity: Identity,
        samples: Sequence[Sample],
        halves: tuple[list[Sample], list[Sample]],
        clip: ClipScorer | None,
        run: RunDirectory,
        progress: Progress,
        notes: list[str],
        executor: Executor | None = None,
    ) -> None:
        self.executor = executor
        self.options, self.vlm, self.identity, self.clip, self.run = options, vlm, identity, clip, run
        self.progress, self.notes = progress, notes
        self.samples = {s.id: s for s in samples}
        self.ranked, self.measured = halves
        self.sites: Sites = chosen_sites(vlm, options)

    @classmethod
    @contextmanager
    def open(
        cls,
        options: StudyOptions,
        model: VisionLanguageModel | None = None,
        out: str | Path | None = None,
        progress: Progress | None = None,
        more: Sequence[Sample] = (),
        notes: Sequence[str] = (),
        ranks: bool = True,
        judges: bool = True,
        check: Callable[[VisionLanguageModel, Sites, Identity], object] | None = None,
        executor: Executor | None = None,
    ) -> Iterator[Session]:
        """Makes everything, and closes the run directory when the context ends.

        Args:
            options: What is asked.
            model: A loaded model; default: the options' one is loaded.
            out: The run directory; default: one named after the options, so that the same question finds its own again.
            progress: Listens to the stages.
            more: Samples beside those of the options.
            notes: The first notes.
            ranks: False where nothing will be ranked: all samples are then for measuring.
            judges: False where no collapse will be judged: no CLIP model is loaded.
            check: Called with the model, the chosen sites and the identity before the directory is made; raises what is wrong
                with them.
            executor: Its replicas answer and score; default: this process's model. They load the model by the options' name.

        Raises:
            ModelError: The model cannot be loaded or has no feed-forward sites.
            DataError: No usable samples.
            OptionError: An option that does not fit this model.
            RunError: The run directory holds another study, or one of another model or data, or another process works in it.
        """
        progress, collected = progress or Silent(), list(notes)
        options = with_data(options, model)
        folder = Path(out) if out is not None else default_folder(options, options.component, options.role)
        RunDirectory(folder).check(options)

        def note(line: str) -> None:
            collected.append(line)
            progress.warn(line)

        for line in notes:
            progress.warn(line)
        samples = load_samples(options.data, options.samples, options.seed, options.strict, note, options.category)
        split(samples, options.split if ranks else "same")  # what is wrong with it is said before anything is loaded
        if ranks and options.split == "same":
            note("neurons are ranked and measured on the same samples, so k* is fitted to them")
        vlm = model or loaded(options, progress)
        samples = as_read(vlm, samples, options.data)
        halves = split(samples, options.split if ranks else "same")
        more = as_read(vlm, more, options.data)
        sites = chosen_sites(vlm, options)
        check_fit(vlm, sites, options)
        identity = vlm.identity(untouched=model is None)
        if check is not None:
            check(vlm, sites, identity)
        everything = list({s.id: s for s in (*samples, *more)}.values())
        check_same(RunDirectory(folder), vlm, identity, everything)
        clip = load_clip(options.clip, samples, options.data, options.device, progress, note) if judges else None
        complaint = examine(vlm, samples[0], options.prompt).complaint
        if complaint:
            note(f"this model fails lesion's self-check ({complaint}); `lesion doctor {options.model}` shows all of it")
        session = cls(options, vlm, identity, everything, halves, clip, RunDirectory(folder), progress, collected, executor)
        if not (folder / rundir.CONFIG).exists():
            _ = session.prompts  # what is wrong with one is said before the directory is made
        with RunDirectory.open(folder, options) as session.run, computing(options.threads), vlm.prepared():
            session.write_manifest(finished=False)
            spec = spec_of(options, vlm, identity, everything, more).pack() if executor is not None else b""
            with nullcontext() if executor is None else executor.opened(spec, folder):
                yield session
            session.write_manifest(finished=True)

    def write_manifest(self, finished: bool) -> None:
        """Writes ``manifest.json``; the number of starts grows where a session begins."""
        about = manifest(
            self.run, self.options, self.vlm, self.identity, self.samples.values(), self.ranked, self.measured, finished
        )
        # What a process that was killed had spent is not known.
        self.run.write_json(rundir.MANIFEST, {**about, "spent": asdict(self.spent) if finished else None})
