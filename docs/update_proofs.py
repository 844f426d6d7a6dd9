"""Run the proofs of the model and write their measured errors to docs/evidence/proofs.md: `make proofs`."""

import ast
import subprocess
import sys
import tempfile
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
TESTS = [
    "tests/model",
    "tests/training/test_overfit.py",
    "tests/encoders",
    "tests/checkpoint/test_released.py",
]
HEAD = """# Proofs of the model

Each line is one comparison that a test makes, with the error measured when this file was written (`make
proofs`) and the bound that the test requires. Where the bound is 0, bits are equal, on one kind of processor
and number of threads. That a clip does not depend on the clips beside it was also measured with MKL's kernels
for AMD and for Intel with AVX-512, on 1 to 8 threads ([log](../LOG.md)). To find a test, search `tests/`
for the words of its line.

| law | measured | bound |
|---|---|---|
"""


def main() -> None:
    """Run pytest on the proofs and rewrite the table; repeated lines keep their largest error."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", *TESTS, f"--junitxml={report}"]
        subprocess.run(command, cwd=ROOT, check=True)
        found = [node.get("value", "") for node in ElementTree.parse(report).iter("property")]
    worst: dict[str, tuple[float, float]] = {}
    for what, error, bound in map(ast.literal_eval, found):
        worst[what] = (max(error, worst.get(what, (error, bound))[0]), bound)
    lines = [f"| {what} | {error:.2g} | {bound:.2g} |\n" for what, (error, bound) in worst.items()]
    (ROOT / "docs/evidence/proofs.md").write_text(HEAD + "".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
