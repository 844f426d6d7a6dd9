"""What prefect.yaml must not say is refused when the deployments are made, in one line."""

from pathlib import Path

import pytest

from flows.serve import deployments, quiet_times
from videomar.errors import VideomarError

RETRAIN = "name: a, entrypoint: flows.retrain.retrain"
SWEEP = "name: a, entrypoint: flows.sweep.sweep"
NIGHTLY = "cron: 17 3 * * *"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("deployments: [{name: a, entrypoint: flows.nothing.here}]", "flows.nothing"),
        ("deployments: [{name: a, entrypoint: flows.refresh.nothing}]", "nothing"),
        ("deployments: [{name: a}]", "entrypoint"),
        ("deployments: [{name: a, entrypoint: flows.refresh.refresh, schedules: [{corn: 1}]}]", "corn"),
        ("deployments: [{name: a, entrypoint: flows.refresh.refresh, schedules: [{cron: x}]}]", "cron"),
        (f"deployments: [{{{RETRAIN}, schedules: [{{{NIGHTLY}, timezone: Mars/X}}]}}]", "Mars/X"),
        (f"deployments: [{{{RETRAIN}, schedules: [{{}}]}}]", "schedule without a time"),
        (f"deployments: [{{{RETRAIN}}}, {{{RETRAIN}}}]", "two deployments"),
        ("name: a", "deployments"),
        ("a: [", "flow node"),
        ("", "NoneType"),
    ],
)
def test_mistake_is_one_line(tmp_path: Path, text: str, word: str) -> None:
    assert word in refusal(tmp_path, text)


@pytest.mark.parametrize("key", ["concurrency_limit: 1", "work_pool: {name: x}", "pull: []", "pausd: true"])
def test_key_that_is_not_read_is_refused(tmp_path: Path, key: str) -> None:
    line = refusal(tmp_path, f"deployments: [{{{RETRAIN}, {key}}}]")
    assert f"got {key.partition(':')[0]} in deployment a, expected only name, entrypoint" in line
    line = refusal(tmp_path, f"{{{key}, deployments: []}}")
    assert f"got {key.partition(':')[0]} in the file, expected only name" in line


@pytest.mark.parametrize(
    ("deployment", "word"),
    [
        (f"{RETRAIN}, parameters: {{hours_per_stage: -1}}", "-1"),
        (f"{RETRAIN}, parameters: {{start_from: champ}}", "'champ' is not one of"),
        (
            f"{RETRAIN}, parameters: {{clip: a}}",
            "got clip in parameters of deployment a, expected only clips",
        ),
        (f"{RETRAIN}, schedules: [{{{NIGHTLY}, parameters: {{force: 3}}}}]", "'force': 3"),
        (f"{SWEEP}, parameters: {{num_samples: 0}}", "'num_samples': 0"),
        (f"{SWEEP}, schedules: [{{{NIGHTLY}}}]", "'runs' is a required property"),
    ],
)
def test_parameters_that_no_run_could_have_are_refused(tmp_path: Path, deployment: str, word: str) -> None:
    assert word in refusal(tmp_path, f"deployments: [{{{deployment}}}]")


def test_what_is_read_reaches_prefect(tmp_path: Path) -> None:
    file = tmp_path / "prefect.yaml"
    file.write_text(
        f"deployments: [{{{RETRAIN}, paused: true, tags: [night], new_files: {{active: true, quiet_s: 9}}}}]"
    )
    (made,) = deployments(file)
    assert (made.paused, made.tags) == (True, ["night"])
    assert quiet_times(file) == {}, "a deployment that is paused is not started by new files either"
    file.write_text(f"deployments: [{{{SWEEP}}}]")
    assert deployments(file)[0].parameters == {}, "the page asks for what is missing"


def refusal(folder: Path, text: str) -> str:
    (folder / "prefect.yaml").write_text(text)
    with pytest.raises(VideomarError, match="prefect.yaml: got .*; fix the file") as caught:
        deployments(folder / "prefect.yaml")
    assert "\n" not in str(caught.value)
    return str(caught.value)
