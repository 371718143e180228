"""The run directory: what a study decided, measured and found, so that it can be resumed, checked and replayed.

``evaluations.jsonl`` grows by one line an evaluation, by several at once where they were measured together; every other file is
written whole or not at all. A process that is killed loses at most the evaluations it was at.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any

from lesion.core.errors import RunError
from lesion.core.evaluation import Evaluation
from lesion.core.files import write_text
from lesion.core.outcome import Likelihood, SampleOutcome
from lesion.study.options import StudyOptions

try:
    import fcntl
except ImportError:  # Windows has no such lock; there, two processes in one folder are the user's to avoid
    fcntl = None

CONFIG, MANIFEST, RESULT, STAGES = "config.yaml", "manifest.json", "result.json", "stages.json"
ANSWERS, IMPORTANCE, RANKING, CURVE = "answers.json", "importance.safetensors", "ranking.csv", "curve.json"
COLLAPSE, MINIMAL, CONTROLS, CRITICAL = "collapse.json", "minimal.json", "controls.json", "critical.json"
BLIND, RANKS, SHORTLIST, SEARCH = "blind.json", "ranks.json", "shortlist.safetensors", "search.json"
EXPLANATION, FOUND = "explanation.json", "found.json"
EVALUATIONS, FIGURES, PICTURES, REPORT, LOCK = "evaluations.jsonl", "figures", "pictures", "report.html", ".lock"


class RunDirectory:
    """A study's folder. Use :meth:`open` as a context; it holds the folder's lock."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lines: dict[str, dict[str, Any]] = {}

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, options: StudyOptions) -> Iterator[RunDirectory]:
        """Opens or makes the folder of a study.

        Raises:
            RunError: It holds another study or other files, another process works in it, or it cannot be written.
        """
        run = cls(Path(path))
        run.check(options)
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            lock = (run.path / LOCK).open("a")
        except OSError as error:
            raise RunError(f"{path} cannot be used as a run directory: {error.strerror or error}") from None
        with lock:
            _hold(lock, run.path)
            if not (run.path / CONFIG).exists():
                write_text(run.path / CONFIG, options.to_yaml())
            run._read_evaluations()
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
            held, new = StudyOptions.from_yaml(config.read_text(), str(config)).question(), options.question()
            # A name makes no other model: where a manifest says what the model was, its identity is compared (check_same).
            named = {"model"} if (self.path / MANIFEST).exists() else set()
            differing = [name for name in new if held[name] != new[name] and name not in named]
            if differing:
                first = differing[0]
                raise RunError(
                    f"{self.path} holds another study ({first} is {held[first]!r} there, {new[first]!r} here); "
                    "choose another --out"
                )
        elif self.path.exists() and any(p.name != LOCK and not p.name.startswith(f".{CONFIG}") for p in self.path.iterdir()):
            raise RunError(f"{self.path} is not empty and holds no study; choose another --out")

    # -- evaluations -------------------------------------------------------------------------------------------------
    def _read_evaluations(self) -> None:
        path = self.path / EVALUATIONS
        if not path.exists():
            return
        data = path.read_bytes()
        whole = data[: data.rfind(b"\n") + 1]
        if whole != data:
            # A process was killed in the middle of a line; the line is not finished work.
            os.truncate(path, len(whole))
        for number, line in enumerate(whole.splitlines(), start=1):
            try:
                entry = json.loads(line)
                self._lines[entry["key"]] = entry
            except (ValueError, KeyError, TypeError):
                raise RunError(f"{path} line {number} is damaged; remove that line to have it measured again") from None

    def evaluation(self, key: str) -> Evaluation | None:
        """What was measured under a key; None where nothing was."""
        line = self._lines.get(key)
        if line is None:
            return None
        return Evaluation(line["neurons"], tuple(SampleOutcome.from_dict(sample) for sample in line["samples"]), key)

    def reading(self, key: str) -> list[Likelihood] | None:
        """How likely the reference answers were under a key, where nothing else was measured."""
        line = self._lines.get(_reading(key))
        return None if line is None else [Likelihood(**sample["reference"]) for sample in line["samples"]]

    def add_readings(self, readings: Mapping[str, Sequence[Likelihood]]) -> None:
        """Appends a line for each, in one write."""
        self._append([
            {"key": _reading(key), "kind": "reading", "samples": [{"reference": asdict(part)} for part in reading]}
            for key, reading in readings.items()
        ])  # fmt: skip

    def add_evaluations(self, entries: Sequence[tuple[str, dict[str, Any], Evaluation]]) -> None:
        """Appends a line for each, in one write."""
        self._append([
            {"key": key, **about, "metrics": e.metrics, "samples": [o.as_dict() for o in e.outcomes]}
            for key, about, e in entries
        ])  # fmt: skip

    def _append(self, lines: Sequence[dict[str, Any]]) -> None:
        text = "".join(json.dumps(line, allow_nan=False, ensure_ascii=False) + "\n" for line in lines)
        with (self.path / EVALUATIONS).open("ab") as file:
            file.write(text.encode())
            file.flush()
            os.fsync(file.fileno())
        self._lines |= {line["key"]: line for line in lines}

    # -- files -------------------------------------------------------------------------------------------------------
    def write_json(self, name: str, data: Any) -> None:
        write_text(self.path / name, json.dumps(data, indent=1, allow_nan=False, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> Any | None:
        """A JSON file of the run; None if it is not there.

        Raises:
            RunError: It is there and is not JSON.
        """
        path = self.path / name
        if not path.exists():
            return None
        try:
            return json.loads(path.read_text())
        except ValueError:
            raise RunError(f"{path} is damaged; delete it to have it made again") from None


def _reading(key: str) -> str:
    return f"{key}-reading"


def slug(model: str) -> str:
    """A model's name as the name of a file."""
    return model.strip("./").replace("/", "--") or "model"


def default_folder(options: StudyOptions, *words: str) -> Path:
    """``runs/<model>-<words>-<hash of the options>``: the same question finds its own folder again."""
    text = json.dumps(options.question(), sort_keys=True)
    return Path("runs") / "-".join((slug(options.model), *words, hashlib.sha256(text.encode()).hexdigest()[:8]))


def _hold(lock: IO[str], path: Path) -> None:
    """The lock goes when the file is closed, or its process ends, however it ends."""
    if fcntl is None:
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise RunError(f"another process is working in {path}; wait for it, or choose another --out") from None
