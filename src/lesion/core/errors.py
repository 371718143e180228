"""Mistakes that a user can mend. The command line prints their message as one line and exits with code 2."""

from __future__ import annotations


class LesionError(Exception):
    """Base of all of them. A message says what was found, what was expected or available, and what to do."""


class ModelError(LesionError):
    """The model cannot be loaded, or has nothing that lesion can mask."""


class DataError(LesionError):
    """No usable images."""


class OptionError(LesionError, ValueError):
    """An option has a value that makes no sense, by itself or for this model."""


class NeuronSetError(LesionError, ValueError):
    """A set of neurons does not fit the model, or its file cannot be read."""


class RunError(LesionError):
    """The run directory belongs to another study, is in use, or is damaged."""
