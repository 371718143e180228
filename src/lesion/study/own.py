"""Neurons of one's own: what a study masks instead of a scorer's ranking (``--neurons FILE``, ``Study(ranking=...)``)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lesion.core.errors import OptionError
from lesion.core.identity import Identity
from lesion.core.neurons import NeuronSet
from lesion.core.ranking import Ranking
from lesion.core.sites import Sites
from lesion.study.options import StudyOptions
from lesion.study.rundir import RANKING
from lesion.study.session import Session

IN_PYTHON = "ranking:"
"""What the option ``neurons`` begins with where a ranking was passed as an object."""


def file_of(options: StudyOptions) -> Path | None:
    """The file of ``--neurons``; None without one."""
    file = options.neurons
    return None if file is None or file.startswith(IN_PYTHON) else Path(file)


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
