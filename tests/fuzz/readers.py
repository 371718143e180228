"""Every reader of files that may come from anyone: each a function of a file's bytes, with valid files to begin with.

A reader also does what is done next with what it read, such as writing it again: a value that breaks the next step is as bad as
an exception here.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

from lesion.core.errors import LesionError
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import parse_layers
from lesion.data.samples import Sample, load_image
from lesion.data.sources import Entry, entries
from lesion.report.fits import check
from lesion.report.html import Run, report
from lesion.report.plots import save_figures
from lesion.study.certificate import Certificate
from lesion.study.explanation import Explanation
from lesion.study.options import StudyOptions
from lesion.study.published import Coordinate, Known, known, recognise
from lesion.study.ranks import neuron_of
from lesion.study.result import Result
from lesion.study.rundir import CONFIG, EVALUATIONS, EXPLANATION, RESULT, RunDirectory
from tests.fuzz import seeds
from tests.fuzz.limits import GROWTH, Failure, attempt, check_message
from tests.fuzz.mutations import Kind
from tests.fuzz.seeds import HEAD, MINE, SITES, emptied, folder, pictures, put


@dataclass(frozen=True)
class Reader:
    """A reader.

    Attributes:
        read: Reads a file's bytes; raises a :class:`~lesion.core.errors.LesionError` where they are not what they should be.
        kind: What its files are.
        seeds: Makes valid files.
        share: Of the executions, beside the others' (1).
        growth: How many bytes the memory in use may grow by for a file.
    """

    read: Callable[[bytes], None]
    kind: Kind
    seeds: Callable[[], list[bytes]]
    share: float = 1.0
    growth: int = GROWTH

    def attempt(self, data: bytes) -> Failure | None:
        """None where the file was read, or refused as it should be."""
        return attempt(self.read, data, self.growth)


# -- sets of neurons -----------------------------------------------------------------------------------------------------
def neurons(data: bytes) -> None:
    """``critical.json``, and every other set."""
    read = NeuronSet.load(put("set.json", data))
    assert NeuronSet.load(put("again.json", read.to_json().encode())) == read
    assert len(read.table()) == len(read) and read._repr_html_() and repr(read)
    if read.identity is not None:
        str(read.identity).encode()


def found(data: bytes) -> None:
    """``found.json`` as a study takes it (``--neurons FILE``): fitted to a model, and as a ranking."""
    fitted = NeuronSet.load(put("found.json", data)).fit(SITES, MINE)
    if len(fitted):
        Ranking.of(fitted, SITES, "found.json").save(folder() / "ranking-of-it.csv")


def ranking(data: bytes) -> None:
    """``ranking.csv``, or any other (``--neurons FILE.csv``)."""
    read = Ranking.load(put("ranking.csv", data), SITES)
    read.table()
    str(read.name).encode()
    read.save(folder() / "ranking-again.csv")


def coordinates(data: bytes) -> None:
    """Coordinates: what is known of a model by its name, rows of known weights, and neurons and layers in words."""
    for line in data.decode("utf-8", "replace").splitlines()[:50]:
        recognise(line)
        for read in (known, partial(neuron_of, sites=SITES), parse_layers):
            _tolerant(partial(read, line))
        numbers = [int(part) for part in line.split(":") if len(part) < 30 and part.isascii() and part.lstrip("-").isdigit()]
        if len(numbers) == 3:
            for role in ("hidden", "down"):
                _tolerant(partial(Known("m", (Coordinate(*numbers),), "s", "m").neurons, SITES, role))


def _tolerant(read: Callable[[], object]) -> None:
    """One line of several: a refusal of one is not the end of the file, but it must be a good one."""
    try:
        read()
    except LesionError as error:
        check_message(str(error))


# -- studies -------------------------------------------------------------------------------------------------------------
def config(data: bytes) -> None:
    """``config.yaml`` of a run directory, compared with the options of a study."""
    file = put(f"configured/{CONFIG}", data)
    RunDirectory(file.parent).check(StudyOptions.parse())


def options(data: bytes) -> None:
    """The same as options, which are written again."""
    read = StudyOptions.from_yaml(data.decode("utf-8", "replace"), CONFIG)
    assert StudyOptions.from_yaml(read.to_yaml(), CONFIG) == read
    read.command().encode()
    json.dumps(read.question())


def criterion(data: bytes) -> None:
    """A criterion's file (``--criterion FILE.yaml``)."""
    read = StudyOptions.parse(criterion=str(put("criterion.yaml", data)))
    read.to_yaml().encode()
    str(read.rule())


def evaluations(data: bytes) -> None:
    """``evaluations.jsonl`` of a run directory."""
    path = folder() / "evaluated"
    if not path.exists():
        path.mkdir()
        (path / CONFIG).write_text(StudyOptions.parse().to_yaml())
    put(f"evaluated/{EVALUATIONS}", data)
    with RunDirectory.open(path, StudyOptions.parse()) as run:
        for key in ("intact", "masked", "extra", "x"):
            evaluation, reading = run.evaluation(key), run.reading(key)
            if evaluation is not None:
                assert evaluation.modes and len(evaluation.nll) == len(evaluation.tokens)
                json.dumps(evaluation.metrics, allow_nan=False)
            if reading is not None:
                sum(part.tokens for part in reading)


def result(data: bytes) -> None:
    """``result.json`` as commands load it."""
    path = emptied("resulted")
    (path / RESULT).write_bytes(data)
    Result.load(path).model_dump_json()


def reported(data: bytes) -> None:
    """``result.json`` as the report shows it."""
    path = emptied("reported")
    (path / RESULT).write_bytes(data)
    report([Run.load(path)]).encode()


def figures(data: bytes) -> None:
    """``result.json`` as figures show it."""
    path = emptied("drawn")
    (path / RESULT).write_bytes(data)
    made = Run.load(path)
    check(made.result)
    save_figures(made.result, path / "figures")


def explanation(data: bytes) -> None:
    """``explanation.json`` of a run directory."""
    read = Explanation.load(put(f"explained/{EXPLANATION}", data).parent)
    assert read is not None
    read.model_dump_json()


def explained(data: bytes) -> None:
    """The same as the report shows it."""
    path = put(f"explained/{EXPLANATION}", data).parent
    report([Run(_shown(), path)]).encode()


@cache
def _shown() -> Result:
    return seeds.shown()


def certificate(data: bytes) -> None:
    """``certificate.jsonl``."""
    read = Certificate.open(put("certificate.jsonl", data), HEAD)
    for size in (1, 2):
        for members in read.sets(size):
            assert read.rise(members) >= -1e300 and read.likelihoods(members)
            assert all(index < 96 and site < 2 for site, index in members)
    assert all(answer in (None, True, False) for answer in read.collapsed.values())


# -- images and what is said of them -------------------------------------------------------------------------------------
def _listed(source: str | Path) -> None:
    """What a study does with a source: its categories, and each sample by its texts, which are hashed, kept and printed."""
    listed = entries(str(source))
    sorted({name for entry in listed for name in (entry.inside or {entry.category}) if name})
    for entry in listed:
        assert Sample(entry.id, None, entry.category, entry.reference, entry.prompt).digest
        f"{entry.where}{entry.category}".encode()
        _opened(entry)


def _opened(entry: Entry) -> None:
    """The bytes of its image, which the reader of images reads."""
    try:
        opened = entry.open()
    except (OSError, ValueError):
        return
    assert not isinstance(opened, Path) or opened.resolve().is_relative_to(folder().resolve()), f"{opened} is elsewhere"


def metadata(data: bytes) -> None:
    """``metadata.jsonl`` in a folder of images."""
    (pictures() / "captions.txt").unlink(missing_ok=True)
    (pictures() / "metadata.jsonl").write_bytes(data)
    _listed(pictures())


def captions(data: bytes) -> None:
    """``captions.txt`` in a folder of images."""
    (pictures() / "metadata.jsonl").unlink(missing_ok=True)
    (pictures() / "captions.txt").write_bytes(data)
    _listed(pictures())


def asked(data: bytes) -> None:
    """``FILE.jsonl``: a line an image, or a prompt."""
    pictures()
    _listed(put("asked.jsonl", data))


def prompts(data: bytes) -> None:
    """``FILE.txt``: a line a prompt."""
    _listed(put("prompts.txt", data))


def coco_instances(data: bytes) -> None:
    """COCO's annotations."""
    _listed(f"coco:{pictures()}:{put('instances.json', data)}")


def coco_captions(data: bytes) -> None:
    """COCO's captions."""
    _listed(f"coco:{pictures()}:{put('good.json', seeds.coco_instances()[0])}:{put('captions.json', data)}")


def shard(data: bytes) -> None:
    """A webdataset shard."""
    _listed(put("shard.tar", data))


def parquet(data: bytes) -> None:
    """A parquet file."""
    _listed(put("table.parquet", data))


def saved(data: bytes) -> None:
    """What describes a folder that ``Dataset.save_to_disk`` wrote."""
    (seeds.saved_folder() / "dataset_info.json").write_bytes(data)
    _listed(seeds.saved_folder())


def image(data: bytes) -> None:
    """A picture; one that claims to be large takes its room before it is found out."""
    load_image(put("picture.png", data))


# -- models --------------------------------------------------------------------------------------------------------------
def gguf(data: bytes) -> None:
    """The header of a GGUF file: its metadata and what it says of its tensors."""
    from lesion.models.gguf import read_header

    header = read_header(put("model.gguf", data))
    assert str(header) and header.lost and header.bits >= 0


READERS: Mapping[str, Reader] = {
    "neurons": Reader(neurons, "json", seeds.sets),
    "found": Reader(found, "json", seeds.sets),
    "ranking": Reader(ranking, "text", seeds.rankings),
    "coordinates": Reader(coordinates, "text", seeds.words),
    "config": Reader(config, "yaml", lambda: seeds.configs()[:1], 0.3),
    "options": Reader(options, "yaml", seeds.configs, 0.3),
    "criterion": Reader(criterion, "yaml", seeds.criteria, 0.3),
    "evaluations": Reader(evaluations, "journal", seeds.evaluated, 0.3),
    "certificate": Reader(certificate, "journal", seeds.certificates),
    "result": Reader(result, "json", seeds.some_results),
    "report": Reader(reported, "json", seeds.some_results, 0.15),
    "figures": Reader(figures, "json", seeds.some_results, 0.002),
    "explanation": Reader(explanation, "json", seeds.explanations),
    "explained": Reader(explained, "json", seeds.explanations, 0.05),
    "metadata": Reader(metadata, "jsonl", seeds.metadata),
    "captions": Reader(captions, "text", seeds.captions),
    "asked": Reader(asked, "jsonl", seeds.asked),
    "prompts": Reader(prompts, "text", seeds.prompts),
    "coco-instances": Reader(coco_instances, "json", seeds.coco_instances),
    "coco-captions": Reader(coco_captions, "json", seeds.coco_captions),
    "shard": Reader(shard, "tar", seeds.shards),
    "parquet": Reader(parquet, "binary", seeds.parquets, 0.05),
    "saved": Reader(saved, "json", seeds.saved, 0.05),
    "image": Reader(image, "binary", seeds.images, growth=1 << 30),
    "gguf": Reader(gguf, "binary", seeds.ggufs),
}
"""By name."""


@cache
def corpus(name: str) -> Sequence[bytes]:
    """The valid files of a reader, each of which has been read: what is loaded once is loaded now."""
    reader = READERS[name]
    made = reader.seeds()
    for data in made:
        reader.read(data)
    return made
