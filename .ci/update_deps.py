"""Write the code that each stage depends on into dvc.yaml: `make deps`. `--check` only says what differs.

The files are those of the import closures in videomar/provenance/code_hash.py; a stage's other inputs stay.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))  # the stages are no part of the installed package

from videomar.config.edit import round_trip  # noqa: E402
from videomar.files import atomic_write  # noqa: E402
from videomar.provenance.code_hash import STAGES, closure  # noqa: E402

PIPELINE = ROOT / "dvc.yaml"


def code_of(stage: str) -> list[str]:
    """Sources that a stage depends on, relative to the repository."""
    return sorted(path.resolve().relative_to(ROOT).as_posix() for path in closure(STAGES[stage]).values())


def main() -> None:
    """Bring dvc.yaml in line; exit code 1 where `--check` finds a difference."""
    yaml = round_trip()
    content = yaml.load(PIPELINE.read_text("utf-8"))
    changed = []
    for stage, entry in content["stages"].items():
        wanted = [*code_of(stage), *(path for path in entry["deps"] if not path.endswith(".py"))]
        if list(entry["deps"]) != wanted:
            changed.append(stage)
            entry["deps"] = wanted
    if changed and "--check" in sys.argv[1:]:
        sys.exit(
            f"dvc.yaml: got other deps of {', '.join(changed)}, expected those of the code; run `make deps`"
        )
    if changed:
        with atomic_write(PIPELINE) as draft, draft.open("w", encoding="utf-8") as file:
            yaml.dump(content, file)
        print(f"dvc.yaml: deps of {', '.join(changed)} written")


if __name__ == "__main__":
    main()
