from collections.abc import Iterator

import pytest

from tests.support.checkout import Checkout

QUIET_S = 1


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Checkout]:
    """A checkout whose services are up, and which looks for new files in `clips` every moment."""
    made = Checkout(tmp_path_factory.mktemp("checkout"))
    (made.folder / "clips").mkdir()
    (made.folder / "params.yaml").write_text("samples: {source: clips}\n")
    served = made.folder / "prefect.yaml"
    served.write_text(served.read_text().replace("quiet_s: 60", f"quiet_s: {QUIET_S}"))
    try:
        started = made.services("up")
        assert started.returncode == 0, started.stderr
        assert f"prefect: http://127.0.0.1:{made.ports[1]}" in started.stdout
        yield made
    finally:
        made.services("down")
