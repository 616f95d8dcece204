"""The models as a table of options: what a path in a file leads to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from kmp_smsd.config.locate import KeyPath


def model_at(root: type[BaseModel], path: KeyPath, kind: object = None) -> type[BaseModel] | None:
    """The model of the table at `path`, or None where there is none, or nothing known.

    Of a table that has models of several kinds, that of `kind`, or the first.
    """
    models = models_at(root, path)
    return next((model for model in models if kind in _kinds(model)), next(iter(models), None))


def models_at(root: type[BaseModel], path: KeyPath) -> list[type[BaseModel]]:
    """The models of the table at `path`: of each kind, where it may be of several."""
    models = [root]
    for annotation in _annotations(root, path):
        models = list(models_in(annotation))
    return models


def kinds_at(root: type[BaseModel], path: KeyPath) -> list[Any]:
    """The kinds of which the table at `path` may be."""
    return [kind for model in models_at(root, path) for kind in _kinds(model)]


def _kinds(model: type[BaseModel]) -> tuple[Any, ...]:
    field = model.model_fields.get("kind")
    return get_args(field.annotation) if field is not None else ()


def field_at(root: type[BaseModel], path: KeyPath) -> FieldInfo | None:
    """The option at `path`, an entry of a list or a table standing for the option it is in."""
    field: FieldInfo | None = None
    model: type[BaseModel] | None = root
    for part in path:
        if model is not None and isinstance(part, str) and part in model.model_fields:
            field = model.model_fields[part]
            model = next(models_in(field.annotation), None)
    return field


def table_depth(root: type[BaseModel], path: KeyPath) -> int:
    """How many parts of `path` name the section: 2 for ``[smsc.NAME]``, 0 for an option outside of sections."""
    if not path:
        return 0
    field = root.model_fields.get(str(path[0]))
    if field is None:
        return 0
    if get_origin(field.annotation) is dict:
        return 2
    return 1 if next(models_in(field.annotation), None) and get_origin(field.annotation) is not tuple else 0


def models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    """The models that `annotation` names, in its lists, tables, and alternatives too."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for argument in get_args(annotation):
            yield from models_in(argument)


def _annotations(root: type[BaseModel], path: KeyPath) -> Iterator[Any]:
    """What each part of `path` leads to; None from the first unknown part on."""
    annotation: Any = root
    for part in path:
        while get_origin(annotation) is Annotated:
            annotation = get_args(annotation)[0]
        origin = get_origin(annotation)
        if origin is tuple and isinstance(part, int):
            annotation = get_args(annotation)[0]
        elif origin is dict:
            annotation = get_args(annotation)[1]
        else:
            fields = [
                model.model_fields[str(part)] for model in models_in(annotation) if str(part) in model.model_fields
            ]
            annotation = fields[0].annotation if fields else None
        yield annotation
