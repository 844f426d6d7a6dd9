"""The page "The real thing" and the heads of presets beside the formulas; the files for clusters."""

import dataclasses
import re
import subprocess

import pytest
import yaml

from docs import update_plans
from docs.update_plans import BY_HAND, HEADER, PAGE, ROOT, ByHand, planned, read, stages_of, train_of
from videomar.ops.planning.gpus import GPUS, parse_fleet
from videomar.ops.planning.plan_counts import PlannedStrides, Videos, assumed_clips
from videomar.ops.planning.plan_formulas import plan_for

# Those with a network of their own.
PRESETS = sorted(
    path.stem for path in (ROOT / "presets").glob("*.yaml") if "model:" in path.read_text().split()
)
# Fields of KubeRay's types RayJobSpec, RayClusterSpec, HeadGroupSpec and WorkerGroupSpec that are used.
JOB = {
    *("entrypoint", "submissionMode", "shutdownAfterJobFinishes", "ttlSecondsAfterFinished", "backoffLimit"),
    *("rayClusterSpec", "runtimeEnvYAML", "activeDeadlineSeconds", "submitterPodTemplate", "suspend"),
}
CLUSTER = {"rayVersion", "authOptions", "headGroupSpec", "workerGroupSpecs", "enableInTreeAutoscaling"}
HEAD = {"rayStartParams", "template", "serviceType"}
WORKER = {"groupName", "replicas", "minReplicas", "maxReplicas", "numOfHosts", "rayStartParams", "template"}


def test_page_has_what_the_formulas_say() -> None:
    """`make plans` writes it again."""
    page = PAGE.read_text(encoding="utf-8")
    assert update_plans.filled(page) == page
    for name in update_plans.ROWS:
        assert f"| {name} | `" in page


@pytest.mark.parametrize("name", PRESETS)
def test_head_of_a_preset_is_true_by_formula(name: str) -> None:
    """It fits into the GPU that it names; `make plans` writes the numbers again."""
    text = (ROOT / f"presets/{name}.yaml").read_text(encoding="utf-8")
    fleet, need, has, hours = HEADER.search(text).groups()
    plan = planned(name, fleet)
    peak = max(cost.peak_memory_gb for cost in stages_of(plan))
    assert float(need) == pytest.approx(peak, abs=0.05)
    assert float(hours) == pytest.approx(train_of(plan).hours, rel=0.05)
    assert float(has) == GPUS[parse_fleet(fleet).kind].memory_gb
    assert float(need) <= float(has)
    assert plan.advice == []
    first = text.partition("\n")[0]
    for stated in re.findall(r"(\d+) GB", first):
        assert float(stated) == float(has), first


@pytest.mark.parametrize("fleet", ["h100:4", "l40s:8"])
def test_paper_fits_on_less_as_its_head_says(fleet: str) -> None:
    assert "it fits with train.activation_checkpointing: true" in "\n".join(planned("paper", fleet).advice)
    params = read("paper")
    params = dataclasses.replace(
        params, train=dataclasses.replace(params.train, activation_checkpointing=True)
    )
    clips = assumed_clips(1000, params)
    plan = plan_for(params, clips, Videos(0, 0.0, []), PlannedStrides(16, 8, 16), parse_fleet(fleet))
    assert plan.advice == []


@pytest.mark.parametrize("name", BY_HAND)
@pytest.mark.parametrize("recompute", [False, True])
def test_calculation_by_hand_is_the_plan(name: str, recompute: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory and seconds of the last stage, with literal bytes and without the plan's functions."""
    params = read(name)
    train = dataclasses.replace(params.train, activation_checkpointing=recompute)
    monkeypatch.setattr(update_plans, "read", lambda _: dataclasses.replace(params, train=train))
    hand = ByHand(name, parse_fleet(BY_HAND[name]))
    cost = stages_of(planned(name, BY_HAND[name]))[-1]
    assert hand.gb() == pytest.approx(cost.peak_memory_gb, rel=1e-3)
    assert hand.seconds().total == pytest.approx(cost.step_s, rel=1e-3)
    assert hand.lines()[4].endswith(f"**{hand.gb():.1f} GB**.")


def test_job_for_kubernetes_has_the_fields_that_kuberay_knows() -> None:
    job = yaml.safe_load((ROOT / "deploy/rayjob.yaml").read_text(encoding="utf-8"))
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    spec, cluster = job["spec"], job["spec"]["rayClusterSpec"]
    assert set(spec) <= JOB
    assert set(cluster) <= CLUSTER
    assert cluster["authOptions"] == {"mode": "token"}
    pinned = re.search(r"^ray(?:\[\w+\])?==([\d.]+)", (ROOT / "requirements.lock").read_text(), re.MULTILINE)
    assert str(cluster["rayVersion"]) == pinned[1]
    groups = [(HEAD, cluster["headGroupSpec"]), *((WORKER, group) for group in cluster["workerGroupSpecs"])]
    for known, group in groups:
        assert set(group) <= known
        assert all(isinstance(value, str) for value in group["rayStartParams"].values())
        pod = group["template"]["spec"]
        volumes = {volume["name"] for volume in pod["volumes"]}
        for container in pod["containers"]:
            mounted = {mount["name"]: mount["mountPath"] for mount in container["volumeMounts"]}
            assert set(mounted) <= volumes
            assert spec["entrypoint"].partition("cd ")[2].startswith(mounted["shared"])
            assert container["resources"]["requests"] == container["resources"]["limits"]
    gpus = cluster["workerGroupSpecs"][0]["template"]["spec"]["containers"][0]["resources"]["limits"]
    assert gpus["nvidia.com/gpu"] == "8"


def test_script_for_slurm_is_bash_and_asks_for_a_token() -> None:
    path = ROOT / "deploy/train.slurm"
    subprocess.run(["bash", "-n", path], check=True)
    script = path.read_text(encoding="utf-8")
    assert script.startswith("#!/bin/bash\n")
    # SLURM reads its options up to the first command.
    assert script.rindex("#SBATCH") < script.index("set -euo")
    assert script.index("RAY_AUTH_MODE=token") < script.index("ray start")
    commands = [line for line in script.splitlines() if not line.lstrip().startswith("#")]
    assert not any("ray stop" in line for line in commands)
    # Outside of a job it refuses instead of starting anything.
    done = subprocess.run(
        ["bash", path], capture_output=True, text=True, env={"PATH": "/usr/bin:/bin"}, check=False
    )
    assert done.returncode != 0
    assert "submit this file with sbatch" in done.stderr
