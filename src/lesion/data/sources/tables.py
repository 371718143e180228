"""Images in the rows of a table: parquet files, folders that `datasets` saved, data sets of the Hugging Face hub.

Of all rows only the columns that say something are read, and of those rows that are chosen the image's bytes: they are
opened where the bytes of files are, so an image is the same from a table as from a folder.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from lesion.core.errors import DataError
from lesion.data.sources.entry import CATEGORY, PROMPT, REFERENCE, Entry, first, present, regular, within
from lesion.data.sources.inside import kept, named

HUB, PARQUET = "hf:", ".parquet"
IMAGE = ("image", "img", "jpg", "jpeg", "png", "webp", "picture", "photo", "file_name")
"""The names of a column of images, where none has the Image feature; the first counts."""
_ID = r"[\w.-]+/[\w.-]+"
_HUB = re.compile(rf"{HUB}(?P<name>{_ID})(?:/(?P<config>[^@:]+))?(?:@(?P<revision>[^:]+))?(?::(?P<split>.+))?")


class _Table(Protocol):
    """Rows that can be read one column, or one cell, at a time.

    Attributes:
        where: What to call it in a message.
        prefix: What the rows' ids begin with.
        features: Column -> its type, as `datasets` describes it.
        rows: How many.
        folder: What paths of images are relative to; None where only absolute ones make sense.
    """

    where: str
    prefix: str
    features: Mapping[str, Any]
    rows: int
    folder: Path | None

    def column(self, name: str) -> Sequence[Any]:
        """All of one column."""
        ...

    def cell(self, name: str, row: int) -> Any:
        """One cell, an image as the bytes that are stored."""
        ...


def like_id(text: str) -> bool:
    """Whether it could be the name of a data set of the hub."""
    return re.fullmatch(_ID, text) is not None


def is_saved(folder: Path, inside: Sequence[Path]) -> bool:
    """Whether ``Dataset.save_to_disk`` or ``DatasetDict.save_to_disk`` wrote what is inside of it."""
    of_one = ("dataset_info.json", "state.json")
    return folder / "dataset_dict.json" in inside or all(folder / name in inside for name in of_one)


def parquet(root: Path) -> list[Entry]:
    """A parquet file, or all of a folder; an id is ``FILE/ROW``.

    Raises:
        DataError: No such file, one that is no parquet, no column of images, no rows, or `datasets` is not installed.
    """
    if not present(root):
        raise DataError(f"{root} is not a file; expected a parquet file")
    _library(str(root))
    return _entries(str(root), (_Parquet(file, name) for name, file in within(root, PARQUET)))


def saved(folder: Path) -> list[Entry]:
    """What ``save_to_disk`` wrote, all splits of it; an id is ``SPLIT/ROW``.

    Raises:
        DataError: It cannot be loaded, has no column of images or no rows, or `datasets` is not installed.
    """
    datasets = _library(str(folder))
    loaded = _attempt(str(folder), lambda: datasets.load_from_disk(str(folder)))
    splits = loaded if isinstance(loaded, dict) else {str(loaded.split or "row"): loaded}
    return _entries(str(folder), (_Dataset(str(folder), name, data, folder) for name, data in splits.items()))


def hub(source: str) -> list[Entry]:
    """``hf:OWNER/NAME[/CONFIG][@REVISION][:SPLIT]``, from the hub or, where that was fetched before, from its cache.

    Raises:
        DataError: No such data set or split, the hub cannot be reached, no column of images, no rows, or `datasets` is not
            installed.
    """
    match = _HUB.fullmatch(source)
    if match is None:
        raise DataError(f"{source!r}: expected {HUB}OWNER/NAME[/CONFIG][@REVISION][:SPLIT]")
    name, config, revision = match["name"], match["config"], match["revision"]
    if Path(name).exists():
        # `datasets` would read that instead, and the same command would mean other data elsewhere.
        raise DataError(f"{source}: there is a local {name}, which hides the hub's; to read it, leave out {HUB}")
    datasets = _library(source)
    split = match["split"]
    if split is None:
        splits = _attempt(source, lambda: datasets.get_dataset_split_names(name, config, revision=revision))
        if len(splits) != 1:
            one = splits[0] if splits else "SPLIT"
            raise DataError(f"{source} has the splits {', '.join(splits) or '(none)'}; name one: {source}:{one}")
        split = splits[0]
    data = _attempt(source, lambda: datasets.load_dataset(name, config, revision=revision, split=split))
    return _entries(source, [_Dataset(source, split, data, None)])


def _entries(where: str, tables: Iterable[_Table]) -> list[Entry]:
    made: list[Entry] = []
    for table in tables:
        image = _image_column(table)
        read = partial(_image_bytes, table, image)
        for row, about in enumerate(_texts(table, image)):
            texts = first(about, CATEGORY), first(about, REFERENCE), first(about, PROMPT)
            made.append(Entry(f"{table.prefix}/{row}", partial(read, row), *texts))
    if not made:
        raise DataError(f"{where} has no rows; expected a row an image")
    return made


def _image_column(table: _Table) -> str:
    """The column of the Image feature, then one by its name, then one that holds bytes and paths as that feature does."""
    from datasets import Image

    features = table.features
    typed = [name for name, feature in features.items() if isinstance(feature, Image)]
    packed = [name for name, feature in features.items() if isinstance(feature, dict) and "bytes" in feature]
    kinds = ("binary", "string") if table.folder else ("binary",)
    named = [name for name in IMAGE if name in packed or str(getattr(features.get(name), "dtype", "")).endswith(kinds)]
    for columns in (typed, named, packed):
        if columns:
            return next((name for name in IMAGE if name in columns), columns[0])
    raise DataError(
        f"{table.where} has no column of images; expected an Image feature or one of {', '.join(IMAGE)}; "
        f"it has {', '.join(features) or 'no columns'}"
    )


def _texts(table: _Table, image: str) -> Iterable[dict[str, Any]]:
    """Row by row the texts about the image; a class is its name, not its number."""
    names = [n for n in (*CATEGORY, *REFERENCE, *PROMPT) if n != image and _is_text(table.features.get(n))]
    columns = [_named(table.features[name], table.column(name)) for name in names]
    if short := [name for name, column in zip(names, columns, strict=True) if len(column) < table.rows]:
        raise DataError(
            f"{table.where} says that it has {table.rows:,} rows, and its column {short[0]} has fewer; copy or download it anew"
        )
    return (dict(zip(names, (c[row] for c in columns), strict=True)) for row in range(table.rows))


def _is_text(feature: Any) -> bool:
    """Whether it is a value or a list of values: a ``label`` can also be a picture, and ``text`` a conversation."""
    from datasets import ClassLabel, Value

    inner = getattr(feature, "feature", feature)
    return isinstance(inner, ClassLabel) or (isinstance(inner, Value) and "binary" not in inner.dtype)


def _named(feature: Any, values: Sequence[Any]) -> Sequence[Any]:
    names = getattr(getattr(feature, "feature", feature), "names", None)
    if names is None:
        return values

    def name(value: Any) -> Any:
        if isinstance(value, list):
            return [name(one) for one in value]
        return names[value] if value is not None and 0 <= value < len(names) else None  # -1: not labelled

    return [name(value) for value in values]


def _image_bytes(table: _Table, column: str, row: int) -> bytes:
    cell = table.cell(column, row)
    if isinstance(cell, dict):
        cell = cell["bytes"] if cell["bytes"] is not None else cell.get("path")
    if isinstance(cell, bytes):
        return cell
    if isinstance(cell, str):
        return regular(_file(cell, table.folder)).read_bytes()
    raise ValueError("the row has none")


def _file(name: str, folder: Path | None) -> Path:
    """The file that a cell names; of the hub's data, one that its libraries have fetched."""
    if folder is not None:
        return kept(named(folder, name), [folder])
    from datasets.config import HF_DATASETS_CACHE
    from huggingface_hub.constants import HF_HUB_CACHE

    return kept(Path(name), [Path(HF_DATASETS_CACHE), Path(HF_HUB_CACHE)])


class _Parquet:
    """One file; its class labels come with it where `datasets` wrote it."""

    folder: Path | None

    def __init__(self, file: Path, prefix: str) -> None:
        self.where, self.prefix, self.folder, self._file = str(file), prefix, file.parent, file
        self.features, self.rows = _attempt(self.where, self._described)

    def column(self, name: str) -> Sequence[Any]:
        return _attempt(self.where, lambda: self._column(name))

    def cell(self, name: str, row: int) -> Any:
        from pyarrow.parquet import ParquetFile

        # Page by page, where the file has pages: all images of a file can be in one row group.
        with ParquetFile(self._file, pre_buffer=False, buffer_size=1 << 20) as opened:
            group = 0
            while row >= (size := opened.metadata.row_group(group).num_rows):
                group, row = group + 1, row - size
            for batch in opened.iter_batches(batch_size=16, row_groups=[group], columns=[name], use_threads=False):
                if row < len(batch):
                    return batch.column(0)[row].as_py()
                row -= len(batch)
        raise ValueError("the file ends before it")

    def _described(self) -> tuple[Mapping[str, Any], int]:
        from datasets import Features
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self._file) as opened:
            return Features.from_arrow_schema(opened.schema_arrow), opened.metadata.num_rows

    def _column(self, name: str) -> Sequence[Any]:
        from pyarrow.parquet import ParquetFile

        with ParquetFile(self._file) as opened:
            return opened.read(columns=[name]).column(0).to_pylist()


class _Dataset:
    """A ``datasets.Dataset``, which maps its file into memory."""

    def __init__(self, where: str, prefix: str, data: Any, folder: Path | None) -> None:
        self.where, self.prefix, self.folder, self._data = where, prefix, folder, data
        self.features: Mapping[str, Any] = data.features
        self.rows = len(data)

    def column(self, name: str) -> Sequence[Any]:
        return self._view(name)[:].column(0).to_pylist()

    def cell(self, name: str, row: int) -> Any:
        return self._view(name)[row].column(0)[0].as_py()

    def _view(self, name: str) -> Any:
        # Arrow's format leaves images as they are stored, as Image(decode=False) does, inside lists and structs too.
        return self._data.select_columns([name]).with_format("arrow")


def _library(source: str) -> Any:
    try:
        import datasets
    except ImportError:
        raise DataError(f"{source} needs the library datasets, which is not installed: pip install 'lesion[data]'") from None
    return datasets


def _attempt(source: str, call: Callable[[], Any]) -> Any:
    """Runs one step of loading; whatever the libraries raise becomes one line that names the source."""
    try:
        return call()
    except Exception as error:  # each library has errors of its own
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        why = lines[0][:300].rstrip(".") if lines else type(error).__name__
        raise DataError(f"{source} cannot be loaded: {why}; expected what `datasets` can read") from None
