"""Neurons of one's own: what a study masks instead of a scorer's ranking (``--neurons FILE``, ``Study(ranking=...)``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lesion.core.errors import NeuronSetError, OptionError
from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.data.sources import regular
from lesion.study.options import StudyOptions
from lesion.study.rundir import CRITICAL, RANKING
from lesion.study.session import Session

IN_PYTHON = "ranking:"
"""What the option ``neurons`` begins with where a ranking was passed as an object."""


def file_of(options: StudyOptions) -> Path | None:
    """The file of ``--neurons``; None without one."""
    file = options.neurons
    return None if file is None or file.startswith(IN_PYTHON) else Path(file)


def check_file(options: StudyOptions) -> None:
    """Whether the file of ``--neurons`` can be read, as far as that can be said without the model.

    Raises:
        NeuronSetError: It cannot.
    """
    file = file_of(options)
    if file is not None and file.suffix == ".csv":
        check_ranking(file)
    elif file is not None:
        read_set(file)


def read_set(file: Path) -> NeuronSet:
    """A set of neurons.

    Raises:
        NeuronSetError: The file cannot be read, or is none.
    """
    try:
        regular(file)
    except OSError as error:
        why = error.strerror or error
        raise NeuronSetError(f"{file}: cannot be read as a set of neurons: {why}; expected a run's {CRITICAL}, say") from None
    return NeuronSet.load(file)


def check_ranking(file: Path) -> None:
    """Whether there is a file to read a ranking from, and not a pipe that nobody writes to.

    Raises:
        NeuronSetError: There is none.
    """
    try:
        with regular(file).open("rb"):
            pass
    except OSError as error:
        raise NeuronSetError(
            f"{file}: cannot be read as a ranking: {error.strerror or error}; expected a run's {RANKING}, say"
        ) from None


def own_order(options: StudyOptions, sites: Sites, identity: Identity) -> Ranking | None:
    """The neurons of ``--neurons``: a ranking (CSV), or a set (JSON) in order of site and index; None without.

    Raises:
        NeuronSetError: They cannot be read, belong to another model, or are not of the chosen component and role.
        OptionError: They were an object, which is not at hand now.
    """
    file = file_of(options)
    if file is None:
        if options.neurons is None:
            return None
        raise OptionError(f"{options.neurons} was passed to a study in Python; pass it again, or use --neurons RUN/{RANKING}")
    if file.suffix == ".csv":
        return Ranking.load(file, sites)
    return Ranking.of(NeuronSet.load(file).fit(sites, identity, options.force), sites, file.name)


def note_force(session: Session) -> None:
    """Says whose neurons were taken all the same; in every session, so that a study that was resumed says so too."""
    file = file_of(session.options)
    if session.options.force and file is not None and file.suffix != ".csv" and file.is_file():
        identity = NeuronSet.load(file).identity
        if session.identity.differs_from(identity):
            session.note(f"--force: the neurons were found in {identity}; this model is {session.identity}")


def trace(options: StudyOptions, before: Mapping[str, str], digest: Callable[[Path], str]) -> dict[str, str]:
    """The file of ``--neurons`` as it is now, or as it was where it is gone: a ranking is made anew where it has changed."""
    file = file_of(options)
    return {} if file is None else {"neurons": digest(file) or before.get("neurons", "")}
