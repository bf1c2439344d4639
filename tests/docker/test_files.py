"""The files in docker/ as their own tools and schemas see them: no engine is needed for that."""

import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft7Validator, Draft202012Validator
from referencing import Registry, Resource
from referencing.jsonschema import DRAFT202012

from capfilt.pipeline.planning.load import parse

ROOT = Path(__file__).parents[2]
DOCKER = ROOT / "docker"
SCHEMAS = {
    path.name: json.loads(path.read_text()) for path in (Path(__file__).parent / "schemas").glob("*.json")
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCKED = dict(line.split("==") for line in (ROOT / "constraints.txt").read_text().split())
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES = COMPOSE["services"]
MANIFESTS = [
    document
    for path in sorted((DOCKER / "kubernetes").glob("*.yaml"))
    for document in yaml.safe_load_all(path.read_text())
]


@pytest.mark.parametrize(
    "command",
    [["hadolint", DOCKER / "Dockerfile"], ["shellcheck", DOCKER / "entrypoint.sh"]],
    ids=lambda c: c[0],
)
def test_the_linters_find_nothing(command: list[Any]):
    tool = Path(sys.executable).with_name(command[0])
    done = subprocess.run([tool, *command[1:]], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr


# The Dockerfile


def stages() -> dict[str, list[list[str]]]:
    """The instructions of each build stage, by its name; heredocs left out."""
    text = re.sub(r'<<"END" (\S+)\n.*?\nEND\n', r"\1\n", DOCKERFILE, flags=re.DOTALL)
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    found: dict[str, list[list[str]]] = {}
    for line in filter(None, text.splitlines()):
        words = line.split()
        if words[0] == "FROM":
            found[words[3]] = []
        found[[*found][-1]].append(words)
    return found


def test_both_targets_end_as_an_ordinary_user_with_the_packages_of_their_own():
    found = stages()
    for target, extra in (("cpu", "cpu"), ("cuda", "gpu")):
        assert found[target][-1] == ["USER", "1000:1000"]
        assert ["COPY", f"--from={target}-packages", "/opt/capfilt", "/opt/capfilt"] in found[target]
        assert f'requirements.py "{extra},$EXTRAS"' in " ".join(found[f"{target}-packages"][-1])


def test_every_installation_is_held_to_the_constraints():
    runs = [" ".join(words) for stage in stages().values() for words in stage if words[0] == "RUN"]
    calls = [call for run in runs for call in run.split("&&") if " install " in call and "pip" in call]
    assert len(calls) == 5
    for call in calls:
        assert "--constraint constraints.txt" in call or "--no-index /dist/*.whl" in call


def test_what_only_images_install_has_exact_versions_and_none_that_the_project_has():
    lines = (DOCKER / "constraints-image.txt").read_text().splitlines()[1:]
    pins = dict(line.split("==") for line in lines)
    assert "setuptools" in pins
    assert not {name.lower() for name in LOCKED} & pins.keys()


@pytest.mark.parametrize(
    ("extra", "has", "lacks"), [("cpu", "faiss-cpu", "faiss-gpu"), ("gpu", "faiss-gpu", "faiss-cpu")]
)
def test_the_requirements_of_an_image_are_those_of_its_extras(
    extra: str, has: str, lacks: str, tmp_path: Path
):
    script = re.search(r'<<"END" requirements.py\n(.*?)\nEND\n', DOCKERFILE, re.DOTALL)
    assert script
    done = subprocess.run(
        [sys.executable, "-c", script[1], f"{extra},lora"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    names = [re.split("[<>=]", line)[0] for line in done.stdout.split()]
    assert has in names
    assert "peft" in names
    assert lacks not in names
    assert len(names) == len(PROJECT["dependencies"]) + 3


def ignored(path: str) -> bool:
    """Whether .dockerignore keeps a path, or a folder it lies in, from the build: the last fitting pattern counts."""
    parts = Path(path).parts
    heads = ["/".join(parts[: i + 1]) for i in range(len(parts))]
    answer = False
    for pattern in (ROOT / ".dockerignore").read_text().split("\n"):
        if pattern and not pattern.startswith("#"):
            wanted = pattern.removeprefix("!")
            if any(fnmatch(head, wanted) for head in heads) or (
                wanted.startswith("**/") and parts[-1] == wanted[3:]
            ):
                answer = not pattern.startswith("!")
    return answer


def copied() -> set[str]:
    return {
        source
        for stage in stages().values()
        for words in stage
        if words[0] == "COPY" and not words[1].startswith("--from") and len(words) > 2
        for source in words[1:-1]
    }


@pytest.mark.parametrize("source", sorted(copied()))
def test_what_is_copied_exists_and_reaches_the_build(source: str):
    assert (ROOT / source).exists()
    assert not ignored(source)


def test_every_package_of_the_wheel_reaches_the_build_and_nothing_private_does():
    config = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert set(config["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]) <= copied()
    for secret in (".git", ".venv", "docker/.env", "docker/secrets", "models/__pycache__", "runs", "demo"):
        assert ignored(secret), secret


def test_the_label_and_the_python_are_those_of_the_project():
    assert f'org.opencontainers.image.version="{PROJECT["version"]}"' in DOCKERFILE
    bases = {
        words[1] for stage in stages().values() for words in stage if words[0] == "FROM"
    } - stages().keys()
    assert len(bases) == 1
    assert re.fullmatch(r"python:3\.11\.\d+-slim-[a-z]+", bases.pop())


# Compose


def test_the_compose_file_follows_the_specification():
    errors = [error.message for error in Draft7Validator(SCHEMAS["compose.json"]).iter_errors(COMPOSE)]
    assert not errors
    assert [*Draft7Validator(SCHEMAS["compose.json"]).iter_errors({"services": {"a": {"imag": "b"}}})]


def test_images_are_pinned_and_ours_has_the_projects_version():
    for service in SERVICES.values():
        assert re.search(r":v?\d+\.\d+\.\d+", service["image"]), service["image"]
    ours = {service["image"] for service in SERVICES.values() if service["image"].startswith("capfilt:")}
    assert ours == {f"capfilt:{PROJECT['version']}-cpu"}


def test_every_port_is_open_to_this_machine_alone():
    ports = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(ports) == 4
    assert all(port.startswith("127.0.0.1:") for port in ports)


def test_nodes_have_the_token_and_wait_for_what_they_need():
    for name in ("head", "worker"):
        node = SERVICES[name]
        assert node["secrets"] == ["ray_token"]
        assert node["environment"]["RAY_AUTH_TOKEN_PATH"] == "/run/secrets/ray_token"
        assert node["healthcheck"]["test"] == ["CMD", "entrypoint.sh", "health"]
    assert SERVICES["worker"]["deploy"]["replicas"] == 2
    assert SERVICES["worker"]["depends_on"] == {"head": {"condition": "service_healthy"}}
    assert SERVICES["worker"]["environment"]["CAPFILT_HEAD"] == "head:6379"
    assert SERVICES["head"]["depends_on"] == {"bucket": {"condition": "service_completed_successfully"}}
    for service in SERVICES.values():
        for other, demand in service.get("depends_on", {}).items():
            if demand["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_settings_of_nodes_are_those_that_the_entrypoint_reads():
    known = set(re.findall(r"CAPFILT_[A-Z_]+", (DOCKER / "entrypoint.sh").read_text()))
    given = {
        name for service in SERVICES.values() for name in service.get("environment", {}) if "CAPFILT" in name
    }
    assert given
    assert given <= known


def test_mounted_files_and_volumes_exist():
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = volume.rsplit(":", 2 if volume.endswith(":ro") else 1)[0]
            if source.startswith("./"):
                assert (DOCKER / source).exists(), source
            elif not source.startswith("$"):
                assert source in COMPOSE["volumes"]


def test_grafana_finds_its_dashboard_and_prometheus():
    (provider,) = yaml.safe_load((DOCKER / "grafana/provisioning/dashboards/capfilt.yaml").read_text())[
        "providers"
    ]
    (mounted,) = (v for v in SERVICES["grafana"]["volumes"] if "capfilt.json" in v)
    assert mounted.split(":")[1] == f"{provider['options']['path']}/capfilt.json"
    (source,) = yaml.safe_load((DOCKER / "grafana/provisioning/datasources/prometheus.yaml").read_text())[
        "datasources"
    ]
    assert source["url"] == "http://prometheus:9090"


# Kubernetes


def violations(document: dict[str, Any]) -> list[str]:
    kind = document["kind"]
    ref = (
        f"kuberay.json#/$defs/{kind}"
        if kind.startswith("Ray")
        else f"kubernetes.json#/$defs/io.k8s.api.core.v1.{kind}"
    )
    resources = (
        (name, Resource.from_contents(SCHEMAS[name], DRAFT202012))
        for name in ("kuberay.json", "kubernetes.json")
    )
    validator = Draft202012Validator({"$ref": ref}, registry=Registry().with_resources(resources))
    return [f"{error.json_path}: {error.message}" for error in validator.iter_errors(document)]


@pytest.mark.parametrize("document", MANIFESTS, ids=lambda document: document["kind"])
def test_the_manifests_follow_their_schemas(document: dict[str, Any]):
    assert violations(document) == []


def test_the_schemas_refuse_what_the_operator_would_drop():
    job = json.loads(json.dumps(MANIFESTS[-1]))
    assert job["kind"] == "RayJob"
    job["spec"]["shutdownAfterJobFinish"] = True
    job["spec"]["rayClusterSpec"]["headGroupSpec"]["template"]["spec"]["containers"][0]["imagePullPolice"] = (
        "Always"
    )
    assert len(violations(job)) == 2


def clusters() -> Iterator[dict[str, Any]]:
    for document in MANIFESTS:
        if document["kind"].startswith("Ray"):
            yield document["spec"].get("rayClusterSpec", document["spec"])


def pods(cluster: dict[str, Any]) -> list[dict[str, Any]]:
    groups = [cluster["headGroupSpec"], *cluster["workerGroupSpecs"]]
    return [group["template"]["spec"] for group in groups]


def test_both_manifests_describe_the_same_cluster():
    one, other = [json.loads(json.dumps(cluster)) for cluster in clusters()]
    for cluster in (one, other):
        (container,) = cluster["headGroupSpec"]["template"]["spec"]["containers"]
        for mounts in (container["volumeMounts"], cluster["headGroupSpec"]["template"]["spec"]["volumes"]):
            mounts[:] = [mount for mount in mounts if mount["name"] != "recipe"]
    assert one == other


@pytest.mark.parametrize("cluster", [*clusters()], ids=["RayCluster", "RayJob"])
def test_a_cluster_has_the_projects_versions_a_token_and_no_rights(cluster: dict[str, Any]):
    assert cluster["rayVersion"] == LOCKED["ray"]
    assert cluster["authOptions"] == {"mode": "token", "secretName": "capfilt-token"}
    assert [group["groupName"] for group in cluster["workerGroupSpecs"]] == ["cpu", "gpu"]
    images = []
    for pod in pods(cluster):
        (container,) = pod["containers"]
        images.append(container["image"])
        assert pod["securityContext"]["runAsNonRoot"] is True
        assert pod["securityContext"]["runAsUser"] == 1000
        assert pod["automountServiceAccountToken"] is False
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["resources"]["requests"] == container["resources"]["limits"]
        assert container["readinessProbe"]["exec"]["command"] == ["entrypoint.sh", "health"]
        assert {"secretRef": {"name": "capfilt-storage"}} in container["envFrom"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {
            volume["name"] for volume in pod["volumes"]
        }
    assert images == [f"capfilt:{PROJECT['version']}-{target}" for target in ("cpu", "cpu", "cuda")]
    assert pods(cluster)[2]["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "1"


def test_the_job_runs_the_recipe_of_its_config_map():
    config, job = (next(d for d in MANIFESTS if d["kind"] == kind) for kind in ("ConfigMap", "RayJob"))
    recipe = parse(yaml.safe_load(config["data"]["recipe.yaml"]))
    assert recipe.run.startswith("s3://")
    assert shlex.split(job["spec"]["entrypoint"]) == ["capfilt", "run", "/etc/capfilt/recipe.yaml"]
    head = pods(job["spec"]["rayClusterSpec"])[0]
    assert {"name": "recipe", "mountPath": "/etc/capfilt", "readOnly": True} in head["containers"][0][
        "volumeMounts"
    ]
    assert {"name": "recipe", "configMap": {"name": config["metadata"]["name"]}} in head["volumes"]
    assert job["spec"]["shutdownAfterJobFinishes"] is True


# docs/docker.md

GUIDE = (ROOT / "docs/docker.md").read_text()


def test_the_guide_names_files_targets_and_secrets_that_exist():
    for path in set(re.findall(r"(?<![\w/.])docker/[\w./-]+", GUIDE)) - {
        "docker/.env",
        "docker/secrets/ray_token",
    }:
        assert (ROOT / path).exists() or path == "docker/secrets", path
    assert set(re.findall(r"--target (\w+)", GUIDE)) == {"cpu", "cuda"}
    assert set(re.findall(r"-t capfilt:(\S+)-c", GUIDE)) == {PROJECT["version"]}
    assert set(re.findall(r"secret generic (\S+)", GUIDE)) == {"capfilt-token", "capfilt-storage"}
    assert COMPOSE["secrets"]["ray_token"]["file"] == "secrets/ray_token"
    asked = set(re.findall(r"\$\{(\w+):\?", (DOCKER / "compose.yaml").read_text()))
    assert asked == set(re.findall(r'"(\w+)=\$', GUIDE))


def test_the_guides_recipe_is_a_recipe():
    (recipe,) = re.findall(r"```yaml\n(.*?)```", GUIDE, re.DOTALL)
    assert parse(yaml.safe_load(recipe)).run == "s3://capfilt/runs/my-crawl"
