"""Whether a task that failed is tried again."""

from collections.abc import Callable
from typing import Any

from prefect import State


def unless(*errors: type[Exception]) -> Callable[[object, object, State[Any]], bool]:
    """A condition of Prefect's: another try, but not after these errors, against which it cannot help."""

    def may_retry(_task: object, _run: object, state: State[Any]) -> bool:
        return not isinstance(state.result(raise_on_failure=False), errors)

    return may_retry
