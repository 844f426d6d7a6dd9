"""Release what the pipeline made. `python -m flows.release` runs the flow without a server.

Whether there is anything to release is decided before Prefect is imported, which takes seconds.
"""

import sys

from videomar.config.layout import Layout
from videomar.errors import DataError, VideomarError
from videomar.files import explain_full_disk
from videomar.processes import one_line
from videomar.provenance.run_times import RELEASE, noted
from videomar.registry.release import describe_champion, report, report_is_about, summarise
from videomar.registry.versions import Version, find_released, version_of


def main() -> None:
    """Release what the pipeline made.

    After a release: what came out and what to try. The last two lines are the report's path and the champion.
    """
    try:
        with explain_full_disk(), noted(RELEASE):
            version, is_new = _release_if_new()
            if is_new:
                print("", *summarise(version), sep="\n")
            print(f"report: {Layout().report}")
            print(f"champion: {describe_champion(version)}")
    except VideomarError as error:
        sys.exit(f"release: {one_line(error)}")
    except OSError as error:
        what = f"{error.filename}: {error.strerror}" if error.filename else str(error)
        sys.exit(f"release: {what}; fix the disk or the path and run again, nothing is half-released")


def _release_if_new() -> tuple[Version, bool]:
    """Return the version of the present dvc.lock, released if it was not before, and whether it was not."""
    lock = Layout().lock
    if not lock.is_file():
        raise DataError(f"{lock}: no such file, expected the pipeline's record; run `dvc repro`")
    released = find_released(lock)
    if released is None:
        from flows.release_flow import release

        return version_of(release()), True
    if not report_is_about(released):
        report(released.number)
    return released, False


if __name__ == "__main__":
    main()
