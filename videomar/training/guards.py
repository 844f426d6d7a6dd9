"""Steps whose update would harm: a loss or gradient that is not finite, a loss far above those before it."""

import math
import statistics
from collections.abc import Sequence

# Losses that the median is taken of, and how many there must be before a spike can be told from noise.
MEDIAN_STEPS = 50
_MIN_STEPS = 20


def what_is_wrong(loss: float, grad_norm: float, latest: Sequence[float], spike_factor: float) -> str | None:
    """What is wrong with a step, as `got ..., expected ...`; None if nothing is.

    A spike is a loss above `spike_factor` times the median of the `latest` losses of the same stage, as soon
    as there are 20 of them; a factor of 0 finds none.
    """
    if not (math.isfinite(loss) and math.isfinite(grad_norm)):
        return f"got loss {loss:.6g} and gradient norm {grad_norm:.6g}, expected finite numbers"
    if spike_factor and len(latest) >= _MIN_STEPS:
        highest = spike_factor * statistics.median(latest)
        if loss > highest:
            rule = f"at most {spike_factor:g} times the median of the last {len(latest)}"
            return f"got loss {loss:.6g}, expected {rule}, {highest:.6g}"
    return None
