"""What makes a dataclass a section of params.yaml."""

from dataclasses import dataclass
from typing import TypeVar, dataclass_transform

from videomar.errors import ParamsError

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
