"""Release what the pipeline made. `python -m flows.release` runs the flow without a server.

That there is nothing to release is found out before Prefect is imported, which takes seconds.
"""

import sys

from videomar.errors import DataError, VideomarError
from videomar.files import explain_full_disk
from videomar.registry.promotion import describe_champion
from videomar.registry.release import LOCK, REPORT, report, report_is_about
from videomar.registry.versions import Version, find_released, version_of


def main() -> None:
    """Release what the pipeline made; the last two lines printed are the report's path and the champion."""
    try:
        with explain_full_disk():
            released = _released()
            print(f"report: {REPORT}")
            print(f"champion: {describe_champion(released)}")
    except VideomarError as error:
        sys.exit(f"release: {' '.join(str(error).split())}")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(f"release: {what}; mend the disk or the path and run again, nothing is half-released")


def _released() -> Version:
    """The version of the pipeline's present state, which is released if it was not."""
    if not LOCK.is_file():
        raise DataError(f"{LOCK}: no such file, expected the pipeline's record; run `dvc repro`")
    released = find_released(LOCK)
    if released is None:
        from flows.release_flow import release

        return version_of(release())
    if not report_is_about(released):
        report(released.number)
    return released


if __name__ == "__main__":
    main()
