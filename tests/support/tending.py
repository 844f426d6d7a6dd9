"""What the supervisor does with a keeper."""

import time
from collections.abc import Callable

from videomar.services.keeper import Keeper


def tend_until(keeper: Keeper, fact: Callable[[], object], limit_s: float = 20.0) -> None:
    """Tend a service until something is true."""
    end = time.monotonic() + limit_s
    while not fact():
        assert time.monotonic() < end
        keeper.tend()
        time.sleep(0.02)
