"""The compose file, the job for Kubernetes and the workflows: true to the services that `make up` starts."""

import json
import re
import stat
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tests.support.containers import (
    COMPOSE,
    PASSWORDS,
    WORDS,
    filled,
    instructions,
    own_services,
    required,
    services,
)
from videomar.services import definitions, preparation
from videomar.services.settings import Settings, read_settings

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))
SECRET = re.compile("PASSWORD|SECRET|_KEY$|AUTH_STRING|DATABASE_CONNECTION|STORE_URI")
NOT_SECRET = {"PREFECT_SERVER_CSRF_PROTECTION_ENABLED"}


def servers() -> dict[str, definitions.Service]:
    """What `make up` starts where others can connect, with PostgreSQL."""
    secrets = (
        "PREFECT_SERVER_API_AUTH_STRING",
        "MLFLOW_AUTH_ADMIN_PASSWORD",
        "MLFLOW_FLASK_SERVER_SECRET_KEY",
    )
    settings = read_settings(
        {
            **dict.fromkeys(secrets, "x" * 24),
            "VIDEOMAR_HOST": "0.0.0.0",
            "MLFLOW_BACKEND_STORE_URI": "postgresql://u@h/d",
        }
    )
    return {service.name: service for service in definitions.services(settings)}


def options(command: list[str] | tuple[str, ...]) -> set[str]:
    return {word for word in command if word.startswith("--")}


def test_servers_are_started_as_make_up_starts_them() -> None:
    """Same options; same environment but for addresses and paths, which are the containers' own."""
    for name, service in servers().items():
        here = own_services()[name]
        environment = {key: filled(str(value), PASSWORDS) for key, value in here["environment"].items()}
        command = " ".join(here["command"])
        module = service.command[service.command.index("-m") + 1]
        assert module in command
        assert options(service.command) == options(here["command"]), name
        missing = set(service.environment) - set(environment)
        assert missing == set(), name
        plain = {key: value for key, value in service.environment.items() if not re.search("[/:]", value)}
        assert {key: environment[key] for key in plain} == plain, name
        if service.health is not None:
            assert urlsplit(environment["VIDEOMAR_HEALTH"]).path == urlsplit(service.health).path
        elif service.ready is not None:
            assert environment["VIDEOMAR_HEALTH"] == service.command[-1] == str(service.ready)
            assert command.rstrip().endswith(" ".join(service.command[1:]))


def test_ports_are_those_of_the_settings_and_only_for_this_machine() -> None:
    default: Settings = read_settings({})
    published = {name: each["ports"] for name, each in services().items() if "ports" in each}
    assert {name: [filled(port, {}) for port in ports] for name, ports in published.items()} == {
        "mlflow": [f"127.0.0.1:{default.mlflow_port}:{default.mlflow_port}"],
        "prefect": [f"127.0.0.1:{default.prefect_port}:{default.prefect_port}"],
    }
    for name, here in own_services().items():
        if name in published:
            port = published[name][0].rpartition(":")[2]
            assert here["command"][here["command"].index("--port") + 1] == port
            assert urlsplit(here["environment"]["VIDEOMAR_HEALTH"]).port == int(port)
    # The variables that choose other ports are those of `make up`.
    chosen = set(re.findall(r"\$\{(VIDEOMAR_\w+_PORT)", COMPOSE.read_text()))
    assert read_settings(dict.fromkeys(chosen, "6543")) == read_settings(
        {"VIDEOMAR_MLFLOW_PORT": "6543", "VIDEOMAR_PREFECT_PORT": "6543"}
    )


def test_sign_in_is_that_of_make_up() -> None:
    """But for its database, which is PostgreSQL here."""
    theirs = Path(str(preparation.__file__)).read_text()
    content = WORDS["configs"]["sign-in"]["content"]
    ours = [line for line in content.splitlines() if not line.startswith("database_uri = postgresql")]
    assert len(ours) == len(content.splitlines()) - 1 > 3
    assert [line for line in ours if line not in theirs] == []
    target = next(each for each in services()["mlflow"]["configs"] if each["source"] == "sign-in")
    assert target["target"] == services()["mlflow"]["environment"]["MLFLOW_AUTH_CONFIG_PATH"]
    assert (target["uid"], target["mode"]) == ("1000", 0o400)


def test_every_address_is_a_service_that_is_waited_for_and_every_database_is_made() -> None:
    text = filled(COMPOSE.read_text(), PASSWORDS)
    made = set(re.findall(r"CREATE DATABASE (\w+);", text)) | {
        services()["postgres"]["environment"]["POSTGRES_DB"]
    }
    assert {urlsplit(uri).path.strip("/") for uri in re.findall(r"postgresql[+:][^\s\"]*", text)} == made
    for name, service in own_services().items():
        named = " ".join(filled(str(value), PASSWORDS) for value in service["environment"].values())
        hosts = set(re.findall(r"(?:@|//)([a-z]+):\d+", named)) - {"localhost"}
        assert hosts <= set(services()), name
        waited, found = set(), [name]
        while found:
            needed = services()[found.pop()].get("depends_on", {})
            assert {each["condition"] for each in needed.values()} <= {"service_healthy"}
            found += [each for each in needed if each not in waited]
            waited |= set(needed)
        assert hosts <= waited, name
    bucket = next(word for word in services()["store"]["command"] if word.startswith("-bucket="))
    destination = services()["mlflow"]["command"][
        services()["mlflow"]["command"].index("--artifacts-destination") + 1
    ]
    assert urlsplit(destination).netloc == bucket.partition("=")[2]


def test_all_are_locked_down_pinned_and_checked() -> None:
    for name, service in services().items():
        assert "privileged" not in service
        assert service["restart"] == "unless-stopped"
        if name in own_services():
            assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
            assert service["init"] is True
            assert "user" not in service  # the image's
            assert service["environment"]["VIDEOMAR_HEALTH"]
        else:
            assert re.search(r":[\w.-]+@sha256:[0-9a-f]{64}$", service["image"]), service["image"]
            assert service["healthcheck"]["test"][0] == "CMD"


def test_no_secret_is_written_down_and_all_are_drawn(tmp_path: Path) -> None:
    for service in services().values():
        for name, value in service["environment"].items():
            if SECRET.search(name) and name not in NOT_SECRET:
                assert "${" in str(value), name
    head = COMPOSE.read_text().partition("name: videomar")[0]
    lines = [line.removeprefix("#").strip() for line in head.splitlines()]
    start = next(n for n, line in enumerate(lines) if line.startswith("(umask"))
    command = "\n".join(lines[start : start + 2])
    assert command.endswith("compose.env)")
    assert subprocess.run(["bash", "-ec", command], cwd=tmp_path, check=False).returncode == 0
    file = tmp_path / ".local/compose.env"
    drawn = dict(line.split("=") for line in file.read_text().splitlines())
    assert set(drawn) == required()
    assert len(set(drawn.values())) == len(drawn)
    # They stand in addresses and in an ini file, where other characters would need quotes.
    assert all(re.fullmatch("[0-9a-f]{48}", value) for value in drawn.values())
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    # Once more it keeps them: the database knows the first ones only.
    again = subprocess.run(["bash", "-ec", command], cwd=tmp_path, capture_output=True, check=False)
    assert again.returncode != 0
    assert dict(line.split("=") for line in file.read_text().splitlines()) == drawn
    ignored = subprocess.run(["git", "check-ignore", ".local/compose.env"], cwd=ROOT, check=False)
    assert ignored.returncode == 0


def sources(package: str) -> str:
    spec = find_spec(package)
    assert spec is not None
    assert spec.origin is not None
    return "\n".join(path.read_text(errors="replace") for path in Path(spec.origin).parent.rglob("*.py"))


def test_programs_read_the_variables_they_are_given() -> None:
    import prefect.settings

    given = {name for service in own_services().values() for name in service["environment"]}
    known = {name for service in servers().values() for name in service.environment}
    theirs = {name for name in given - known if name.startswith("PREFECT_")}
    assert {name for name in theirs if not hasattr(prefect.settings, name)} == set()
    assert not hasattr(prefect.settings, "PREFECT_NO_SUCH_SETTING")
    mlflow = sources("mlflow")
    assert {name for name in given if name.startswith("MLFLOW_") and name not in mlflow} == set()
    ours = {name for name in given if name.startswith("VIDEOMAR_")}
    (check,) = (text for name, text in instructions() if name == "HEALTHCHECK")
    assert {name for name in ours if name not in check} == set()


def test_job_for_kubernetes_runs_the_image_as_nobody_in_particular() -> None:
    text = (ROOT / "deploy/rayjob.yaml").read_text()
    cluster = yaml.safe_load(text)["spec"]["rayClusterSpec"]
    pods = [group["template"]["spec"] for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"])]
    (user,) = (text for name, text in instructions() if name == "USER")
    for pod in pods:
        about = pod["securityContext"]
        assert about["runAsNonRoot"] is True
        assert f"{about['runAsUser']}:{about['runAsGroup']}" == user
        assert about["fsGroup"] == about["runAsGroup"]  # else the shared volume could not be written
        for container in [*pod["containers"], *pod.get("initContainers", [])]:
            assert f"docker build --tag {container['image']} ." in text
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            for variable in container.get("env", []):
                assert "value" not in variable or not SECRET.search(variable["name"])
    keys = {
        each["valueFrom"]["secretKeyRef"]["key"]
        for each in pods[0]["containers"][0]["env"]
        if "valueFrom" in each
    }
    assert keys == set(re.findall(r"--from-literal=([\w-]+)=", text))
    # KubeRay's own checks and ours need this program in the image.
    assert any("wget" in words and name == "RUN" for name, words in instructions())


@pytest.mark.parametrize("path", WORKFLOWS, ids=[path.name for path in WORKFLOWS])
def test_workflow_has_few_rights_and_its_commands_exist(path: Path) -> None:
    text = path.read_text()
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    for job in workflow["jobs"].values():
        assert set(job.get("permissions", {}).items()) <= {("contents", "read"), ("pull-requests", "write")}
        assert "timeout-minutes" in job
        for step in job["steps"]:
            assert re.fullmatch(r"[\w-]+/[\w-]+@v\d+", step.get("uses", "a/b@v1"))
            # What a stranger can name must not become a part of a script.
            assert "${{" not in step.get("run", "")
            script = subprocess.run(["bash", "-n"], input=step.get("run", ""), text=True, check=False)
            assert script.returncode == 0
    for named in re.findall(
        r"(?:python |--file |^ *- (?!\.dockerignore)|paths: )((?:\.github|deploy)/[\w./]+\w)", text
    ):
        assert (ROOT / named).exists(), named


def test_workflow_draws_the_passwords_that_the_compose_file_needs() -> None:
    text = (ROOT / ".github/workflows/containers.yml").read_text()
    (names,) = re.findall(r"for name in ([A-Z_ ]+);", text)
    assert set(names.split()) == required()


@pytest.fixture
def pipeline(tmp_path: Path) -> Path:
    """A small pipeline in git: a figure with its interval, another one, a curve, a parameter."""
    files = {
        "dvc.yaml": """
stages:
  train:
    cmd: "true"
    params: [train.steps]
    metrics: [{metrics/train.json: {cache: false}}]
    plots: [{plots/train.csv: {cache: false, x: step, y: loss, title: Loss}}]
""",
        "params.yaml": "train: {steps: 5}\n",
        "metrics/train.json": json.dumps(
            {"real_psnr_gain_db": 1.0, "real_psnr_gain_db_low": 0.5, "real_psnr_gain_db_high": 1.5, "odd": 3}
        ),
        "plots/train.csv": "run,step,loss\na,0,4\na,10,2\nb,0,1\nb,10,1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    who = ["-c", "user.name=me", "-c", "user.email=me@localhost"]
    for words in (["git", "init", "--quiet"], [sys.executable, "-m", "dvc", "init", "--quiet"]):
        subprocess.run(words, cwd=tmp_path, check=True)
    for words in (["add", "--all"], [*who, "commit", "--quiet", "--message", "start"]):
        subprocess.run(["git", *words], cwd=tmp_path, check=True)
    return tmp_path


def report(folder: Path, base: str = "HEAD") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / ".github/metrics_report.py", base]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def test_report_says_what_a_change_does_to_figures_parameters_and_curves(pipeline: Path) -> None:
    assert "No figure differs." in report(pipeline).stdout
    figures = json.loads((pipeline / "metrics/train.json").read_text())
    (pipeline / "metrics/train.json").write_text(json.dumps({**figures, "real_psnr_gain_db": 1.25, "odd": 5}))
    (pipeline / "params.yaml").write_text("train: {steps: 6}\n")
    (pipeline / "plots/train.csv").write_text("run,step,loss\na,0,4\na,10,1\nb,0,1\nb,10,1\n")
    done = report(pipeline)
    assert done.returncode == 0, done.stderr
    text = done.stdout
    # The interval stands beside its figure, though it did not change; nothing that is the same has a row.
    assert "| `train` real_psnr_gain_db | 1 (0.5 to 1.5) | 1.25 (0.5 to 1.5) | +0.25 |" in text
    assert (
        text.index("real_psnr_gain_db")
        < text.index("1 other figures")
        < text.index("| `train` odd | `3` | `5` | +2 |")
    )
    assert "_low |" not in text
    assert "| `train.steps` | `5` | `6` |" in text
    assert text.count("```mermaid") == 1  # run b is the same
    assert 'title "Loss a"' in text
    assert "    line [4, 2]\n    line [4, 1]\n" in text


def test_report_says_what_it_could_not_read_and_refuses_an_unknown_base(pipeline: Path) -> None:
    (pipeline / "metrics/train.json").write_text("{")
    assert "failed to load some metrics" in report(pipeline).stdout
    refused = report(pipeline, "nowhere")
    assert refused.returncode == 1
    assert "Traceback" not in refused.stderr
    assert "nowhere" in refused.stderr
