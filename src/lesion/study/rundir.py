"""The run directory: what a study decided, measured and found, so that it can be resumed, checked and replayed.

``evaluations.jsonl`` grows by one line an evaluation, by several at once where they were measured together; every other file is
written whole or not at all. A process that is killed loses at most the evaluations it was at. What is read back is checked
against the checksums with which it was written.
"""

from __future__ import annotations

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from lesion.core.errors import RunError
from lesion.core.evaluation import Evaluation
from lesion.core.files import write_text
from lesion.core.journal import Journal, Place
from lesion.core.neurons import MOST
from lesion.core.outcome import Likelihood, SampleOutcome, perplexity, pool
from lesion.core.parsing import from_json, number_of
from lesion.study.checksums import Checksums
from lesion.study.checksums import read_checked as read_checked  # for those who read a directory that they do not hold
from lesion.study.lock import LOCK, locked
from lesion.study.options import StudyOptions

CONFIG, MANIFEST, RESULT, STAGES = "config.yaml", "manifest.json", "result.json", "stages.json"
ANSWERS, IMPORTANCE, RANKING, CURVE = "answers.json", "importance.safetensors", "ranking.csv", "curve.json"
COLLAPSE, CONFIRMED, MINIMAL, CONTROLS = "collapse.json", "confirmed.json", "minimal.json", "controls.json"
BLIND, RANKS, SHORTLIST, SEARCH = "blind.json", "ranks.json", "shortlist.safetensors", "search.json"
CRITICAL, EXPLANATION, FOUND = "critical.json", "explanation.json", "found.json"
EVALUATIONS, FIGURES, PICTURES, REPORT = "evaluations.jsonl", "figures", "pictures", "report.html"
PLAN, TIMINGS, FAULTS = "plan.json", "timings.json", "faults.json"


RECENT, ROOM = 64, 16 * 2**20
"""So many evaluations are kept in memory, if their lines have no more bytes than that; the last one whatever its size."""

Made = TypeVar("Made")
OF_ANOTHER_SHAPE = (KeyError, TypeError, ValueError, AttributeError, IndexError)
"""What making something of JSON raises where the JSON is of something else."""


class RunDirectory:
    """A study's folder. Use :meth:`open` as a context; it holds the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path, self._journal = path, Journal(path / EVALUATIONS)
        # Lines are many and long; what is kept of them is where they are, and the last that were looked at.
        self._places: dict[str, Place] = {}
        self._recent: OrderedDict[Place, dict[str, Any]] = OrderedDict()

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, options: StudyOptions) -> Iterator[RunDirectory]:
        """Opens or makes the folder of a study.

        Raises:
            RunError: It holds another study or other files, another process works in it, or it cannot be written.
        """
        run = cls(Path(path))
        run.check(options)
        with locked(run.path):
            if not (run.path / CONFIG).exists():
                write_text(run.path / CONFIG, options.to_yaml())
            run._places = {run._key(entry): place for place, entry in run._journal.places(mend=True)}
            run._checksums = Checksums(run.path, mend=True)
            yield run

    def check(self, options: StudyOptions) -> None:
        """Reads only.

        Raises:
            RunError: The folder holds another study, or files that are no study's.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"{self.path} is a file; expected a folder, or a name that is not there yet")
        config = self.path / CONFIG
        if config.exists():
            held, new = StudyOptions.from_yaml(config.read_bytes(), str(config)).question(), options.question()
            # A name makes no other model: where a manifest says what the model was, its identity is compared (check_same).
            named = {"model"} if (self.path / MANIFEST).exists() else set()
            differing = [name for name in new if held[name] != new[name] and name not in named]
            if differing:
                first = differing[0]
                raise RunError(
                    f"{self.path} holds another study ({first} is {held[first]!r} there, {new[first]!r} here); "
                    "choose another --out"
                )
        elif self.path.exists() and any(not p.name.startswith((LOCK, f".{CONFIG}", PLAN)) for p in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no study; choose another --out")

    # -- evaluations -------------------------------------------------------------------------------------------------
    def evaluation(self, key: str) -> Evaluation | None:
        """What was measured under a key; None where nothing was."""
        return self._measured(key, lambda line: Evaluation(
            number_of(line["neurons"], "neurons", MOST), tuple(map(SampleOutcome.from_dict, line["samples"])), key
        ))  # fmt: skip

    def reading(self, key: str) -> list[Likelihood] | None:
        """How likely the reference answers were under a key, where nothing else was measured."""
        return self._measured(_reading(key), _references)

    def _measured(self, key: str, make: Callable[[dict[str, Any]], Made]) -> Made | None:
        """What a line says; None where there is none."""
        if key not in self._places:
            return None
        try:
            return make(self._line(self._places[key]))
        except OF_ANOTHER_SHAPE:
            self._journal.refuse()

    def _line(self, place: Place) -> dict[str, Any]:
        if place not in self._recent:
            self._recent[place] = self._journal.at(place)
        self._recent.move_to_end(place)
        while len(self._recent) > 1 and (len(self._recent) > RECENT or sum(p.length for p in self._recent) > ROOM):
            self._recent.popitem(last=False)
        return self._recent[place]

    def _key(self, entry: Any) -> str:
        key = entry.get("key") if isinstance(entry, dict) else None
        if not isinstance(key, str):
            self._journal.refuse()
        return key

    def add_readings(self, readings: Sequence[tuple[str, int, Sequence[Likelihood]]]) -> None:
        """Appends a line for each, in one write."""
        self._append([
            {
                "key": _reading(key), "kind": "reading", "neurons": count,
                "samples": [{"reference": asdict(part)} for part in reading],
            }
            for key, count, reading in readings
        ])  # fmt: skip

    def add_evaluations(self, entries: Sequence[tuple[str, dict[str, Any], Evaluation]]) -> None:
        """Appends a line for each, in one write."""
        self._append([
            {"key": key, **about, "metrics": e.metrics, "samples": [o.as_dict() for o in e.outcomes]}
            for key, about, e in entries
        ])  # fmt: skip

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        places = self._journal.append(lines)
        self._places |= {line["key"]: place for line, place in zip(lines, places, strict=True)}

    def measured(self) -> list[tuple[int, float | None]]:
        """Of every set that was measured, in the order of the file: how many neurons, and the perplexity of the references."""
        try:
            return [
                (number_of(entry["neurons"], "neurons", MOST), perplexity(pool(_references(entry))))
                for _, entry in self._journal.places()
            ]
        except OF_ANOTHER_SHAPE:
            self._journal.refuse()

    # -- files -------------------------------------------------------------------------------------------------------
    @cached_property
    def _checksums(self) -> Checksums:
        return Checksums(self.path)

    def write_bytes(self, name: str, data: bytes) -> None:
        """Writes a file of the run, whole or not at all, with its checksum."""
        self._checksums.write(name, data)

    def write_json(self, name: str, data: Any) -> None:
        self.write_bytes(name, (json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode())

    def read_bytes(self, name: str) -> bytes | None:
        """A file of the run; None if it is not there.

        Raises:
            RunError: It is not what was written.
        """
        return self._checksums.read(name) if (self.path / name).exists() else None

    def read_json(self, name: str) -> Any | None:
        """A JSON file of the run; None if it is not there.

        Raises:
            RunError: It is there and is not what was written, or no JSON.
        """
        data = self.read_bytes(name)
        try:
            return None if data is None else from_json(data)
        except ValueError:
            self._refuse(name)

    def read_as(self, name: str, make: Callable[[Any], Made]) -> Made | None:
        """What a JSON file of the run holds; None if it is not there, or holds null.

        Args:
            name: The file.
            make: Makes it of the JSON.

        Raises:
            RunError: It is there and is not what was written, or of another shape.
        """
        data = self.read_json(name)
        try:
            return None if data is None else make(data)
        except OF_ANOTHER_SHAPE:
            self._refuse(name)

    def _refuse(self, name: str) -> NoReturn:
        raise RunError(f"{self.path / name} is damaged; delete it to have it made again") from None


def _references(entry: dict[str, Any]) -> list[Likelihood]:
    return [Likelihood.from_dict(sample["reference"]) for sample in entry["samples"]]


def _reading(key: str) -> str:
    return f"{key}-reading"


def slug(model: str) -> str:
    """A model's name as the name of a file."""
    return model.strip("./").replace("/", "--") or "model"


def default_folder(options: StudyOptions, *words: str) -> Path:
    """``runs/<model>-<words>-<hash of the options>``: the same question finds its own folder again."""
    text = json.dumps(options.question(), sort_keys=True)
    return Path("runs") / "-".join((slug(options.model), *words, hashlib.sha256(text.encode()).hexdigest()[:8]))
