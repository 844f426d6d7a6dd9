"""What makes a dataclass a section of params.yaml: the rules of its keys, and what they decide.

Both are declared on the line of the key:

    steps: Annotated[int, at_least(1)]           a rule that every value must meet
    num_workers: Resource[Annotated[int, ...]]   a resource, which stands below `resources` in params.yaml

From these declarations follow the messages for wrong values, the place of a key in params.yaml and so what
DVC compares, the identity of a training run, and what MLflow records as a tag.
"""

from collections.abc import Callable, Iterator
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
    NAME = "name"
    """It names contents that are compared in its place: another name of the same contents changes nothing."""


_Value = TypeVar("_Value")
Resource = Annotated[_Value, Mark.RESOURCE]
"""Type of a key that stands below `resources`: `num_workers: Resource[int]`."""
Selection = Annotated[_Value, Mark.SELECTION]
"""Type of a key that chooses among runs."""
Name = Annotated[_Value, Mark.NAME]
"""Type of a key that names contents: `start_from: Name[str]`."""


@dataclass(frozen=True, slots=True)
class Rule:
    """A condition on the value of one key; null meets every rule, because the key's type decides about it.

    pydantic applies it when it reads params.yaml, and so reports all wrong values at once. `section` applies
    it to sections that are made otherwise, as from a checkpoint on a machine without pydantic. That machine
    is also why the rules are not those of the package annotated-types, which it lacks.
    """

    text: str
    holds: Callable[[Any], bool]

    def check(self, value: Any) -> Any:
        """Return the value.

        Raises:
            ParamsError: it breaks the rule.
        """
        if value is not None and not self.holds(value):
            raise ParamsError(f"got {value}, expected {self.text}")
        return value

    def __get_pydantic_core_schema__(self, source: Any, handler: Callable[[Any], Any]) -> Any:
        """Tell pydantic to call `check` after the type was checked."""
        from pydantic_core.core_schema import no_info_after_validator_function

        return no_info_after_validator_function(self.check, handler(source))


def at_least(low: float) -> Rule:
    """Rule: `low` or more."""
    return Rule(f"at least {low}" if low else "0 or more", lambda value: value >= low)


def one_of(*options: str) -> Rule:
    """Rule: one of these words."""
    return Rule(" or ".join(options), options.__contains__)


ABOVE_0 = Rule("above 0", lambda value: value > 0)
ABOVE_0_OR_NULL = Rule("above 0, or null", ABOVE_0.holds)
SHARE = Rule("0 to 1", lambda value: 0 <= value <= 1)
BELOW_1 = Rule("0 to below 1", lambda value: 0 <= value < 1)

DEVICES = ("auto", "cpu", "cuda")
"""Values of every key `device`."""
Device = Resource[Annotated[str, one_of(*DEVICES)]]
"""Type of the key that says what a stage computes with: `cuda` is a GPU, `auto` a GPU where there is one."""

_Class = TypeVar("_Class")


@dataclass_transform(frozen_default=True, kw_only_default=True)
def section(name: str) -> Callable[[type[_Class]], type[_Class]]:
    """Make a class a section: a frozen dataclass that checks its rules and refuses keys it does not declare.

    Sections have no defaults: a missing key is reported when the file is read, and not hours later by the
    stage that needs it. A rule across several keys stands in the class's `__post_init__`.

    Args:
        name: Key of the section in params.yaml, for messages.
    """

    def decorate(cls: type[_Class]) -> type[_Class]:
        check_across_keys = getattr(cls, "__post_init__", lambda _: None)

        def check(self: Any) -> None:
            for key, rule in _rules(type(self)):
                try:
                    rule.check(getattr(self, key))
                except ParamsError as error:
                    raise ParamsError(f"{place_of(type(self), key)}: {error}") from None
            check_across_keys(self)

        cls.__post_init__ = check  # type: ignore[attr-defined]
        cls.section_name = name  # type: ignore[attr-defined]
        made = dataclass(frozen=True, kw_only=True, slots=True)(cls)
        made.__pydantic_config__ = {"extra": "forbid"}  # type: ignore[attr-defined]
        return made

    return decorate


def _rules(cls: "type[DataclassInstance]") -> Iterator[tuple[str, Rule]]:
    for field in fields(cls):
        for item in getattr(field.type, "__metadata__", ()):
            if isinstance(item, Rule):
                yield field.name, item


@cache
def keys_marked(cls: "type[DataclassInstance]", *marks: Mark) -> tuple[str, ...]:
    """Keys of a section that are declared with one of these marks."""
    return tuple(
        field.name for field in fields(cls) if set(marks) & {*getattr(field.type, "__metadata__", ())}
    )


def fixed_keys(section: "DataclassInstance", *free: Mark) -> dict[str, Any]:
    """Keys of a section that results depend on: those without these marks (none given: without any mark)."""
    names = keys_marked(type(section), *(free or Mark))
    return {key: value for key, value in asdict(section).items() if key not in names}


def free_keys(section: "DataclassInstance", *free: Mark) -> dict[str, Any]:
    """The keys of a section that `fixed_keys` leaves out."""
    names = keys_marked(type(section), *(free or Mark))
    return {key: value for key, value in asdict(section).items() if key in names}


def place_of(cls: "type[DataclassInstance]", key: str) -> str:
    """Where a key of a section stands in params.yaml."""
    below = f"{RESOURCES}." if key in keys_marked(cls, Mark.RESOURCE) else ""
    return f"{below}{cls.section_name}.{key}"  # type: ignore[attr-defined]


def require(condition: bool, where: str, got: object, rule: str) -> None:
    """Refuse a value of params.yaml.

    Raises:
        ParamsError: the condition does not hold.
    """
    if not condition:
        raise ParamsError(f"{where}: got {got}, expected {rule}")
