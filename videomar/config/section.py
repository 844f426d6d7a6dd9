"""What makes a dataclass a section of params.yaml, and which of its keys results depend on.

A key that only says how a run goes is declared so on its line, as `num_workers: Resource[int]`. All else
follows from these declarations: where the key stands in params.yaml, and so what DVC compares; what a
training run is known by; what MLflow records as a tag.
"""

from dataclasses import asdict, dataclass, fields
from enum import Enum
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, TypeVar, dataclass_transform

from videomar.errors import ParamsError

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

RESOURCES = "resources"
"""Section of params.yaml that holds the resources of all others; no stage of DVC depends on it."""


class Mark(Enum):
    """Why no single run depends on a key."""

    RESOURCE = "resource"
    """It says where, how fast and how safely a run goes."""
    SELECTION = "selection"
    """It says which runs there are, and which is chosen: the stage depends on it, but no run by itself."""


_Value = TypeVar("_Value")
Resource = Annotated[_Value, Mark.RESOURCE]
"""Type of a key that stands below `resources`: `num_workers: Resource[int]`."""
Selection = Annotated[_Value, Mark.SELECTION]
"""Type of a key that chooses among runs."""
_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(cls: type[_Class]) -> type[_Class]:
    """A frozen dataclass that refuses keys it does not declare when pydantic fills it.

    Sections have no defaults: a missing key is found when the file is read, and not hours later by the stage
    that needs it.
    """
    made = dataclass(frozen=True, kw_only=True, slots=True)(cls)
    made.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
    return made


@cache
def keys_marked(cls: "type[DataclassInstance]", *marks: Mark) -> tuple[str, ...]:
    """Keys of a section that are declared as one of these."""
    return tuple(
        field.name for field in fields(cls) if set(marks) & {*getattr(field.type, "__metadata__", ())}
    )


def fixed_keys(section: "DataclassInstance", *free: Mark) -> dict[str, Any]:
    """What results depend on: a section without the keys of these marks; none named = of any."""
    names = keys_marked(type(section), *(free or Mark))
    return {key: value for key, value in asdict(section).items() if key not in names}


def free_keys(section: "DataclassInstance", *free: Mark) -> dict[str, Any]:
    """The rest."""
    names = keys_marked(type(section), *(free or Mark))
    return {key: value for key, value in asdict(section).items() if key in names}


def place_of(section: str, cls: "type[DataclassInstance]", key: str) -> str:
    """Where a key of a section stands in params.yaml."""
    below = f"{RESOURCES}." if key in keys_marked(cls, Mark.RESOURCE) else ""
    return f"{below}{section}.{key}"


def require(condition: bool, where: str, got: object, rule: str) -> None:
    """Refuse a value of params.yaml.

    Raises:
        ParamsError: the condition does not hold.
    """
    if not condition:
        raise ParamsError(f"{where}: got {got}, expected {rule}")


def require_one_of(value: str, where: str, options: tuple[str, ...]) -> None:
    """Refuse a word of params.yaml that is not among `options`.

    Raises:
        ParamsError: it is not.
    """
    require(value in options, where, value, " or ".join(options))
