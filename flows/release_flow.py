"""Flow `release`: what the pipeline made goes before the gate."""

from prefect import flow

from flows.release_steps import release_steps
from flows.turn import turn


@flow(name="release")
def release() -> str:
    """Let the gate judge what the pipeline made, move the alias `champion` if it allows, write the report."""
    with turn("release"):
        return release_steps()
