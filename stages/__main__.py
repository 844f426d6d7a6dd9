"""`python -m stages NAME ARGUMENTS...`: one stage, whose missing packages are named in one line."""

import importlib
import sys
from collections.abc import Sequence


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the stage that the first argument names, with the others."""
    name, *rest = sys.argv[1:] if arguments is None else arguments
    try:
        stage = importlib.import_module(f"stages.{name}")
    except (ImportError, OSError) as error:  # OSError: a library in C that cannot be loaded
        got = " ".join(str(error).split())
        rule = "the packages of requirements.lock, and the libraries they load"
        raise SystemExit(
            f"{name}: got {got}, expected {rule}; `rm -f .venv/.ready && make setup` installs them again"
        ) from None
    stage.main(rest)


if __name__ == "__main__":
    main()
