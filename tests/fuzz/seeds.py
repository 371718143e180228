"""Valid files of every kind that lesion reads, small and made in code, and the folder that they are put into."""

from __future__ import annotations

import atexit
import io
import json
import os
import shutil
import tarfile
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from lesion.core.evaluation import Evaluation
from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.core.outcome import Likelihood
from lesion.core.ranking import Ranking
from lesion.core.sites import Site, Sites
from lesion.study.certificate import Certificate
from lesion.study.options import StudyOptions
from lesion.study.result import Result
from lesion.study.rundir import EVALUATIONS, RunDirectory
from tests import results

DOWN = Site("layers.0.mlp.down_proj", "language", "down", 0, 64)
GATE = Site("layers.1.mlp.gate_proj", "language", "gate", 1, 96)
EXPERT = Site("layers.1.mlp.experts", "language", "gate", 1, 32, expert=3)
SITES = Sites([DOWN, GATE, EXPERT])
"""Of a model that no file needs to know."""
MINE = Identity("owner/model", "a" * 64, "c0ffee", "float32", ("merged mask 12",), "b" * 16)
HEAD: dict[str, Any] = {
    "format": "lesion-certificate-1", "model": MINE.as_dict(), "mask": "zero", "criterion": {"name": "perplexity"},
    "samples": ["a", "b"], "tokens": [12, 3], "intact": [0.1, None],
    "sites": [{**site.location, "width": site.width} for site in (DOWN, GATE)],
}  # fmt: skip
"""What a certificate is about."""


# -- files ---------------------------------------------------------------------------------------------------------------
@cache
def folder() -> Path:
    """Where files are put, in memory where the system has a place for that; gone when the process ends."""
    memory = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    path = Path(tempfile.mkdtemp(prefix="lesion-fuzz-", dir=memory))
    atexit.register(shutil.rmtree, path, ignore_errors=True)
    return path


def put(name: str, data: bytes) -> Path:
    """Writes a file."""
    file = folder() / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(data)
    return file


def emptied(name: str) -> Path:
    """A folder with nothing in it."""
    path = folder() / name
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


@cache
def pictures() -> Path:
    """A folder of images."""
    for name in ("a.png", "car/b.png"):
        put(f"pictures/{name}", encoded(Image.new("RGB", (3, 2), "red"), "PNG"))
    return folder() / "pictures"


@cache
def saved_folder() -> Path:
    """What ``Dataset.save_to_disk`` wrote."""
    import datasets

    columns = {"image": [{"bytes": TINY, "path": None}] * 2, "label": [0, 1], "text": ["a", "b"]}
    classes = datasets.ClassLabel(names=["car", "dog"])
    features = datasets.Features({"image": datasets.Image(), "label": classes, "text": datasets.Value("string")})
    path = folder() / "saved"
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict(columns, features=features).save_to_disk(str(path))
    return path


def as_json(value: Any) -> bytes:
    return json.dumps(value).encode()


def encoded(made: Image.Image, form: str, **how: Any) -> bytes:
    held = io.BytesIO()
    made.save(held, form, **how)
    return held.getvalue()


TINY = encoded(Image.new("L", (1, 1)), "PNG")


# -- sets of neurons -----------------------------------------------------------------------------------------------------
def sets() -> list[bytes]:
    made = [
        NeuronSet.from_arrays({DOWN: np.array([3, 9]), GATE: np.array([0, 95])}, MINE),
        NeuronSet.from_arrays({EXPERT: np.array([31])}, MINE), NeuronSet(), NeuronSet.from_arrays({GATE: np.arange(96)}),
    ]  # fmt: skip
    return [one.to_json().encode() for one in made]


def rankings() -> list[bytes]:
    order = list(NeuronSet.from_arrays({site: np.arange(3) for site in SITES}))
    Ranking.of(order, SITES, "can", [9.0 - i for i in range(9)]).save(folder() / "seed.csv")
    plain = "path,role,index\n" + "".join(f"{n.site.module_name},{n.site.role},{n.index}\n" for n in order)
    return [(folder() / "seed.csv").read_bytes(), plain.encode()]


def words() -> list[bytes]:
    return [b"down:0:7\nlanguage-gate:1:95\n0,2-5\nllama-2-7b\n0:7:3\n1:2533:7890\n", b"vision-hidden:0:3\n3-5\nolmo-7b-0724\n"]


# -- studies -------------------------------------------------------------------------------------------------------------
def configs() -> list[bytes]:
    made = [
        StudyOptions.parse(),
        StudyOptions.parse(criterion="degeneration", layers="0,3-5", mask="scale:0.5", max_k=7, threads=2),
        StudyOptions.parse(data="coco:a:b.json", category="car", neurons="set.json", force=True, positions="image"),
    ]  # fmt: skip
    return [*(one.to_yaml().encode() for one in made), as_json(StudyOptions.parse().model_dump())]


def criteria() -> list[bytes]:
    conditions = [
        {"metric": "ppl_reference", "test": "decades", "limit": 2.0},
        {"metric": "exact_match", "test": "at-least", "limit": 0.5},
    ]
    made = {"name": "mine", "about": "words", "rule": "any", "conditions": conditions}
    plain = "name: mine\nabout: words\nconditions:\n- metric: clip_score\n  test: at-chance\n  limit: 0.1\n  chance: 0.5\n"
    return [as_json(made), plain.encode()]


def evaluated() -> list[bytes]:
    made = results.result(samples=2, ks=(0, 2), nll=(0.1, 4.0)).read_curve()
    run = RunDirectory(emptied("seed-run"))
    about: dict[str, Any] = {"kind": "prefix", "neurons": 2, "mask": "zero"}
    held = [(key, about, Evaluation(e.k, e.outcomes, key)) for key, e in zip(("intact", "masked"), made, strict=True)]
    run.add_evaluations(held)
    run.add_readings([("x", 2, [Likelihood(0.5, 12), Likelihood(None, 3)])])
    return [(run.path / EVALUATIONS).read_bytes()]


def some_results() -> list[bytes]:
    stands = results.result(samples=1, ks=(0, 1), nll=(0.1, 0.1), controls=0, pictures=False, experts=2)
    return [_small(one).model_dump_json().encode() for one in (shown(), stands)]


def shown() -> Result:
    """A result that an explanation can be of."""
    return _small(results.result(samples=2, ks=(0, 1, 2), nll=(0.1, 0.2, 4.0), controls=1, pictures=False))


def _small(made: Result) -> Result:
    return made.model_copy(update={"top": made.top[:4], "places": made.places[:6]})


def explanations() -> list[bytes]:
    first, second = (
        {"path": "m", "component": "language", "role": "down", "layer": 0, "index": i, "width": 64} for i in (3, 9)
    )  # fmt: skip
    dose = {"factor": 0.5, "rise": None, "collapsed": True}
    answers = [{"sample": "s0", "answer": "a", "mode": "empty"}]
    layer = {"layer": 1, "intact": 100.0, "masked": 0.1, "typical": 0.2}
    trace = {
        "channel": 3, "token": 0, "token_class": "first", "written_by": 1, "read_by": None, "layers": [layer], "number": 3.0,
        "before_layer": 2, "masked_rise": 4.0, "restored_rise": 0.1,
    }  # fmt: skip
    made = {
        "source": "minimal set", "neurons": [first, second], "samples": 2, "rise": 4.0, "sum": 0.2, "trace": trace,
        "pairs": [{"members": [0, 1], "rise": 4.0, "sum": 0.2, "interplay": "synergy"}],
        "doses": [{"neuron": n, "alone": 0.1, "promised": 0.01, "doses": [dose]} for n in (first, second)],
        "together": [{"factor": 0.0, "collapsed": True, "rise": 4.0, "answers": answers, "clip_score": 3.0}],
        "losses": [{"sample": "s0", "tokens": ["a", "b"], "intact": [0.1, 0.2], "masked": [3.0, None]}],
    }  # fmt: skip
    return [as_json(made)]


def certificates() -> list[bytes]:
    (folder() / "seed.jsonl").unlink(missing_ok=True)
    made = Certificate.open(folder() / "seed.jsonl", HEAD)
    made.add_singles(0, 8, [[0.1, 0.2], [None, 3.0]])
    made.add_pairs([((0, 3), (1, 7))], [[0.1, 0.5]])
    made.add_decision(((0, 9),), None)
    return [(folder() / "seed.jsonl").read_bytes()]


# -- images and what is said of them ---------------------------------------------------------------------------------------
def metadata() -> list[bytes]:
    rows = [
        {"file_name": "a.png", "text": "a red thing", "label": "thing"},
        {"file_name": "car/b.png", "caption": ["a car", "b"]},
    ]
    return [b"\n".join(map(as_json, rows)) + b"\n"]


def captions() -> list[bytes]:
    return [b"image,caption\na.png#0,one, two\na.png#1,other\ncar/b.png,three\n", b"\xef\xbb\xbfa.png\tone\ncar/b.png\ttwo\n"]


def asked() -> list[bytes]:
    rows = [
        {"image": "pictures/a.png", "prompt": "Is it red?", "answer": "yes", "category": "car"},
        {"image": "pictures/car/b.png"},
        {"prompt": "What is it?", "answer": ["x", "y"], "label": 3},
    ]
    return [b"\n".join(map(as_json, rows)) + b"\n"]


def prompts() -> list[bytes]:
    return ["What is it?\n\n  Wo ist es, überall? \nA third\n".encode()]


def coco_instances() -> list[bytes]:
    return [as_json({
        "images": [{"id": 1, "file_name": "a.png"}, {"id": 2, "file_name": "car/b.png"}],
        "categories": [{"id": 7, "name": "car"}, {"id": 9, "name": "dog"}],
        "annotations": [
            {"image_id": 1, "category_id": 7, "area": 10.0}, {"image_id": 1, "category_id": 9, "area": 30},
            {"image_id": 2, "category_id": 7, "bbox": [0, 0, 5, 5]},
        ],
    })]  # fmt: skip


def coco_captions() -> list[bytes]:
    return [as_json({"annotations": [{"image_id": 1, "caption": " a dog by a car "}, {"image_id": 2, "caption": "x"}]})]


def shards() -> list[bytes]:
    files = {
        "sub/0.png": TINY, "sub/0.txt": b"a thing", "sub/0.json": b'{"label": "car", "question": "Is it red?"}',
        "1.jpg": TINY, "1.cls": b"dog", "1.caption": "grün".encode(),
    }  # fmt: skip
    made = []
    for form in (tarfile.USTAR_FORMAT, tarfile.PAX_FORMAT, tarfile.GNU_FORMAT):
        held = io.BytesIO()
        with tarfile.open(fileobj=held, mode="w", format=form) as tar:
            for name, content in files.items():
                # Long names are written in a way of their own by each of the later two.
                member = tarfile.TarInfo(name if form == tarfile.USTAR_FORMAT else name.replace("sub", "süb" * 40))
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        made.append(held.getvalue())
    return made


def parquets() -> list[bytes]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    pictures()
    made = []
    for columns in (
        {"image": [{"bytes": TINY, "path": None}] * 2, "caption": ["a", "b"], "label": [0, 1]},
        {"file_name": ["pictures/a.png", "pictures/car/b.png"], "text": [["a"], ["b", "c"]]},
    ):
        held = io.BytesIO()
        pq.write_table(pa.table(columns), held)
        made.append(held.getvalue())
    return made


def saved() -> list[bytes]:
    return [(saved_folder() / "dataset_info.json").read_bytes()]


def images() -> list[bytes]:
    colours = Image.fromarray(np.arange(7 * 5 * 3, dtype=np.uint8).reshape(5, 7, 3))
    deep = Image.fromarray(np.arange(16, dtype=np.uint16).reshape(4, 4) * 4000)
    exif = Image.Exif()
    exif[0x0112] = 6  # turned
    return [
        *(encoded(colours, form) for form in ("PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP")),
        encoded(colours, "JPEG", exif=exif), encoded(deep, "PNG"), encoded(deep, "TIFF"),
        encoded(colours, "TIFF", compression="tiff_lzw"), encoded(colours.convert("RGBA"), "PNG"),
        encoded(colours.convert("P"), "PNG", transparency=1),
    ]  # fmt: skip


# -- models --------------------------------------------------------------------------------------------------------------
def ggufs() -> list[bytes]:
    from gguf import GGMLQuantizationType, GGUFWriter, quantize

    made = []
    for architecture, kind in (("llama", None), ("qwen2", GGMLQuantizationType.Q8_0)):
        writer = GGUFWriter(folder() / "seed.gguf", architecture)
        writer.add_name("tiny")
        writer.add_block_count(1)
        writer.add_layer_norm_rms_eps(1e-5)
        writer.add_token_list(["a", "bc", "ü"])
        writer.add_token_types([1, 1, 3])
        writer.add_token_scores([0.5, 0.25, 0.0])
        writer.add_bool("tokenizer.ggml.add_bos_token", True)
        weights = np.arange(64, dtype=np.float32).reshape(2, 32)
        writer.add_tensor("blk.0.ffn_down.weight", weights if kind is None else quantize(weights, kind), raw_dtype=kind)
        writer.add_tensor("output_norm.weight", np.ones(32, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()
        made.append((folder() / "seed.gguf").read_bytes())
    return made
