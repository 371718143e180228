"""The scripts in ``deploy/``: those that run on one machine are run, of the others the words are read as the commands read."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest
import typer
import yaml

from lesion.cli.app import app
from tests.execution.common import check_same, words
from tests.execution.deploying import DEPLOY, command, environment, run


def parsed(text: str) -> dict[str, object]:
    """The options of a ``lesion study``, as the command line reads them."""
    program, name, *rest = shlex.split(text)
    assert (program, name) == ("lesion", "study")
    group = typer.main.get_command(app)
    return group.commands["study"].make_context("study", rest).params  # pyright: ignore[reportAttributeAccessIssue]


@pytest.mark.slow
def test_a_laptop(tmp_path: Path, serial: Path):
    pytest.importorskip("ray")
    run("laptop.sh", tmp_path / "bin", *words(), "--out", str(tmp_path / "run"))
    check_same(tmp_path / "run", serial)


def test_a_slurm_array(tmp_path: Path, serial: Path):
    variables = {"SLURM_ARRAY_TASK_MAX": "1", "RUN": str(tmp_path / "run")}
    worker = subprocess.Popen(
        ["bash", str(DEPLOY / "slurm-array.sh")], env=environment(tmp_path, SLURM_ARRAY_TASK_ID="0", **variables)
    )
    try:
        run("slurm-array.sh", tmp_path, *words(), SLURM_ARRAY_TASK_ID="1", **variables)
        assert worker.wait(120) == 0, "it ends with the study"
    finally:
        worker.kill()
    check_same(tmp_path / "run", serial, without=["command", "options"])


def test_a_machine_with_gpus(tmp_path: Path):
    command(tmp_path / "bin", "lesion", 'echo lesion "$@"')
    command(tmp_path / "bin", "nvidia-smi", "seq 4")
    asked = parsed(run("gpus.sh", tmp_path / "bin", "--data", "photos", GPUS_PER_REPLICA="2"))
    assert asked["replicas"] == 2 and asked["gpus_per_replica"] == 2.0 and asked["device"] == "cpu"
    assert asked["executor"] == "ray" and asked["data"] == "photos"


def test_a_ray_job(tmp_path: Path):
    command(tmp_path / "bin", "ray", 'echo "$@"')
    before, _, entrypoint = run("ray-job.sh", tmp_path / "bin").partition(" -- ")
    assert before.startswith("job submit --address http://127.0.0.1:8265")
    asked = parsed(entrypoint)
    assert (asked["executor"], asked["address"], asked["replicas"]) == ("ray", "auto", 2)


def test_kubernetes():
    """What the schema of KubeRay cannot know: that the command is one of lesion's, and asks for what the pods have."""
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob")
    asked, spec = parsed(job["spec"]["entrypoint"]), job["spec"]["rayClusterSpec"]
    (group,) = spec["workerGroupSpecs"]
    assert asked["replicas"] == group["replicas"] == group["minReplicas"] == group["maxReplicas"]
    pods = [of["template"]["spec"] for of in (spec["headGroupSpec"], group)]
    (head,), (replica,) = (pod["containers"] for pod in pods)
    assert replica["resources"]["limits"]["nvidia.com/gpu"] == str(int(str(asked["gpus_per_replica"]).split(".")[0]))
    assert head["image"] == replica["image"] and pods[0]["volumes"] == pods[1]["volumes"]
    assert all(str(asked[name]).startswith("/shared/") for name in ("model", "data", "out"))


@pytest.mark.skipif("KUBERAY_CRD" not in os.environ, reason="KUBERAY_CRD=FILE names KubeRay's ray.io_rayjobs.yaml")
def test_kubernetes_by_its_schema():
    from jsonschema import Draft202012Validator

    def strict(schema: object) -> None:
        """The cluster drops what the schema does not name; here it is a mistake."""
        if isinstance(schema, dict):
            if schema.pop("x-kubernetes-int-or-string", False):
                schema["type"] = ["integer", "string"]
            if "properties" in schema and not schema.get("x-kubernetes-preserve-unknown-fields"):
                schema.setdefault("additionalProperties", False)
        for part in schema.values() if isinstance(schema, dict) else schema if isinstance(schema, list) else ():
            strict(part)

    crd = yaml.safe_load(Path(os.environ["KUBERAY_CRD"]).read_text())
    (version,) = (v for v in crd["spec"]["versions"] if v["name"] == "v1")
    schema = version["schema"]["openAPIV3Schema"]
    strict(schema)
    schema["properties"]["metadata"] = {"type": "object"}
    job = yaml.safe_load((DEPLOY / "kuberay.yaml").read_text())
    assert [error.message for error in Draft202012Validator(schema).iter_errors(job)] == []
    job["spec"]["rayClusterSpec"]["workers"] = 8
    assert list(Draft202012Validator(schema).iter_errors(job))
