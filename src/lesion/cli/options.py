"""Options of commands, made from a study's: their names, types, defaults and descriptions stand in its fields alone."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import typer
from pydantic.fields import FieldInfo

from lesion.study.options import StudyOptions

ARGUMENT = "model"
"""The field that is an argument; every other one is an option."""
LOADING = ("dtype", "device", "device_map", "quantization", "trust_remote_code")
"""The fields that loading a model takes."""
PLANNED = "the plan's"
"""What the help shows as the default of an option that ``lesion paper`` leaves to its plan."""

Command = TypeVar("Command", bound=Callable[..., None])


def fields_of(*names: str, planned: Sequence[str] = (), **defaults: Any) -> list[inspect.Parameter]:
    """A parameter of a command for each field of a study's options.

    Args:
        *names: Of the fields; none for all of them.
        planned: Names of fields that are None where the user does not give them, since their default is decided elsewhere.
        **defaults: Those that are not the fields' own.

    Raises:
        KeyError: There is no such field.
    """
    fields = StudyOptions.model_fields
    listed = (*names, *planned) or tuple(fields)
    own = {name: fields[name].default for name in listed} | dict.fromkeys(planned) | defaults
    return [_parameter(name, fields[name], default, name in planned) for name, default in own.items()]


def takes(*parameters: inspect.Parameter) -> Callable[[Command], Command]:
    """Gives a command these parameters, in place of its ``**options``."""

    def decorate(command: Command) -> Command:
        signature = inspect.signature(command, eval_str=True)
        own = [
            parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            for parameter in signature.parameters.values()
            if parameter.kind != inspect.Parameter.VAR_KEYWORD
        ]
        # What typer reads a command's arguments and options from.
        command.__signature__ = signature.replace(parameters=[*parameters, *own])  # pyright: ignore[reportFunctionMemberAccess]
        return command

    return decorate


def check_options(**options: Any) -> None:
    """Checks options of a command that asks no study.

    Raises:
        OptionError: A value that makes no sense.
    """
    from lesion.models.loading import check_placing

    asked = StudyOptions.parse(**options)
    check_placing(asked.dtype, asked.device, asked.device_map, asked.quantization)


def _parameter(name: str, field: FieldInfo, default: Any, planned: bool) -> inspect.Parameter:
    kind, choices = _type_of(field.annotation)
    metavar = f"[{'|'.join(choices)}]" if choices else None
    if name == ARGUMENT:
        about = typer.Argument(help=field.description, metavar=name.upper())
    else:
        shown = PLANNED if planned and field.default is not None else True
        about = typer.Option(f"--{name.replace('_', '-')}", help=field.description, metavar=metavar, show_default=shown)
    annotation = Annotated[kind | None if default is None else kind, about]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _type_of(annotation: Any) -> tuple[type, Sequence[str]]:
    """The type that the command line reads, and the words that it may be; what they mean is for the model to check."""
    if get_origin(annotation) in (Union, types.UnionType):
        return next(_type_of(part) for part in get_args(annotation) if part is not type(None))
    if get_origin(annotation) is Literal:
        return str, get_args(annotation)
    return annotation, ()
