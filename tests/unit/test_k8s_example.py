"""The Kubernetes example: manifests agree with the commands, with their exit statuses and with each other.

Each container's script is run by bash as in the cluster, with stand-ins for `medgen` and `torchrun` that record how
they were called; what they were called with is then parsed by the real commands.
"""

from __future__ import annotations

import os
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer.main
import yaml

from medgen import errors
from medgen.cli.app import app, run

ROOT = Path(__file__).resolve().parents[2] / "examples" / "k8s"
FINAL = (
    errors.UsageError, errors.DataError, errors.InputMissingError, errors.UnavailableError, errors.MedgenError,
    errors.OutputError, errors.ConfigError,
)  # fmt: skip
DOCUMENTS = {path.name: list(yaml.safe_load_all(path.read_text(encoding="utf-8"))) for path in ROOT.glob("*.yaml")}
SETTINGS = {document["kind"]: document for document in DOCUMENTS["00-settings.yaml"]}
JOBS = {name: document for name, (document, *_) in sorted(DOCUMENTS.items()) if document["kind"] == "Job"}
INDEXED = [name for name, job in JOBS.items() if job["spec"].get("completionMode") == "Indexed"]
TRAININGS = [name for name in JOBS if "train-" in name]

STAGES = ("images", "latents", "samples", "thin", "normal", "maps")

every_job = pytest.mark.parametrize("name", JOBS)


def container(name: str) -> dict[str, Any]:
    (only,) = JOBS[name]["spec"]["template"]["spec"]["containers"]
    return only


def stand_in(folder: Path, name: str, script: str) -> None:
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/usr/bin/env bash\nset -euo pipefail\n{script}\n")
    (folder / name).chmod(0o755)


def start(name: str, folder: Path, index: int = 0, *, afterwards: str = "") -> list[str]:
    """Run the container's script, and `afterwards` in the same shell; return how medgen was called ([]: it was not)."""
    called = folder / "called"
    called.unlink(missing_ok=True)
    for program in ("medgen", "torchrun"):
        stand_in(folder / "bin", program, f'printf "%s\\0" {program} "$@" > "{called}"')
    (folder / "run" / "shards").mkdir(parents=True, exist_ok=True)
    for stage in STAGES:
        (folder / "run" / "shards" / f"{stage}-0.h5").touch()
        (folder / "run" / "shards" / f"{stage}-1.h5").touch()
    environment = {
        **SETTINGS["ConfigMap"]["data"],
        "RUN": str(folder / "run"),
        "PATH": f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "JOB_COMPLETION_INDEX": str(index),
    }
    (script,) = container(name)["args"]
    command = [*container(name)["command"], f"{script}\n{afterwards}"]
    subprocess.run(command, env=environment, check=True, timeout=60)
    return called.read_text().split("\0")[:-1] if called.exists() else []


def medgen_arguments(call: list[str]) -> list[str]:
    """What follows the (last) word medgen of a recorded call."""
    return call[len(call) - call[::-1].index("medgen") :]


@every_job
def test_a_job_is_indexed_exactly_if_its_command_works_in_shards(name: str) -> None:
    (script,) = container(name)["args"]
    assert (name in INDEXED) == ("--shard" in script)


@every_job
def test_a_job_ends_on_what_would_fail_again_and_survives_disruption(name: str) -> None:
    spec = JOBS[name]["spec"]
    assert spec["template"]["spec"]["restartPolicy"] == "Never"  # what a podFailurePolicy requires
    disruption, failure = spec["podFailurePolicy"]["rules"]
    assert disruption["action"] == "Ignore"
    assert disruption["onPodConditions"] == [{"type": "DisruptionTarget", "status": "True"}]
    assert failure["action"] == "FailJob"
    assert failure["onExitCodes"]["operator"] == "In"
    assert failure["onExitCodes"]["values"] == sorted(kind.exit_code for kind in FINAL)
    assert errors.Terminated.exit_code not in failure["onExitCodes"]["values"]


@every_job
def test_volume_and_settings_are_the_ones_that_exist(name: str) -> None:
    pod = JOBS[name]["spec"]["template"]["spec"]
    claims = {volume["name"]: volume.get("persistentVolumeClaim") for volume in pod["volumes"]}
    assert claims["data"] == {"claimName": SETTINGS["PersistentVolumeClaim"]["metadata"]["name"]}
    assert {"name": "data", "mountPath": "/data"} in container(name)["volumeMounts"]
    assert container(name)["envFrom"] == [{"configMapRef": {"name": SETTINGS["ConfigMap"]["metadata"]["name"]}}]
    assert all(SETTINGS["ConfigMap"]["data"][key].startswith("/data/") for key in ("SOURCE", "LABELS", "RUN"))


@every_job
def test_every_command_is_one_that_medgen_takes(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    call = start(name, tmp_path, index=2)
    stage, *options = medgen_arguments(call)
    command = typer.main.get_command(app).get_command(None, stage)  # type: ignore[attr-defined]
    context = command.make_context(stage, list(options))  # raises on an option that does not exist
    assert str(context.params["output"]).startswith(str(tmp_path / "run"))
    if "print_config" in context.params:
        assert run([stage, *options, "--print-config"]) == 0, capsys.readouterr().err
        assert stage in tomllib.loads(capsys.readouterr().out)


@every_job
def test_sigterm_reaches_medgen_because_it_takes_the_place_of_the_shell(name: str, tmp_path: Path) -> None:
    assert start(name, tmp_path, index=2, afterwards="exit 99")  # a shell that were still there would end with 99


@every_job
def test_a_pod_whose_predecessor_had_finished_has_nothing_to_do(name: str, tmp_path: Path) -> None:
    call = start(name, tmp_path, index=2)
    arguments = medgen_arguments(call)
    Path(arguments[arguments.index("-o") + 1]).touch()
    assert start(name, tmp_path, index=2) == []


@pytest.mark.parametrize("name", INDEXED)
def test_each_index_makes_one_shard_and_merge_finds_them_all(name: str, tmp_path: Path) -> None:
    spec = JOBS[name]["spec"]
    assert spec["backoffLimitPerIndex"] >= 1
    assert spec["parallelism"] <= spec["completions"]
    outputs = []
    for index in (2, 3):
        arguments = medgen_arguments(start(name, tmp_path, index))
        assert arguments[arguments.index("--shard") + 1] == str(spec["completions"])
        if "--device" in arguments:  # shards of two precisions would not join
            assert arguments[arguments.index("--precision") + 1] == SETTINGS["ConfigMap"]["data"]["PRECISION"]
        outputs.append(Path(arguments[arguments.index("-o") + 1]))
    assert outputs[0] != outputs[1]
    for output in outputs:
        output.touch()
    stage = outputs[0].name.partition("-")[0]
    (merge,) = (job for job in JOBS if f"/shards/{stage}-*.h5" in container(job)["args"][0])
    merged = medgen_arguments(start(merge, tmp_path))
    assert {str(output) for output in outputs} < set(merged)
    assert len([word for word in merged if word.endswith(".h5")]) == 2 + 2 + 1  # here before, made here, the result


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_has_its_gpus_and_time_to_save(name: str, tmp_path: Path) -> None:
    pod = JOBS[name]["spec"]["template"]["spec"]
    call = start(name, tmp_path)
    processes = int(call[call.index("--nproc-per-node") + 1]) if "torchrun" in call else 1
    assert container(name)["resources"]["limits"]["nvidia.com/gpu"] == processes
    assert pod["terminationGracePeriodSeconds"] >= 300


NUMBERED = sorted(name for name in DOCUMENTS if name[0].isdigit())
NAMED = ["normalize.yaml", "merge-normal.yaml", "anomaly-map.yaml", "merge-maps.yaml"]


@pytest.mark.parametrize(
    ("named", "failing", "expected"),
    [
        ([], "", NUMBERED),
        ([], "train-vae", NUMBERED[: NUMBERED.index("20-train-vae.yaml") + 1]),
        (NAMED, "", ["00-settings.yaml", *NAMED]),
        (NAMED, "merge-normal", ["00-settings.yaml", *NAMED[:2]]),
    ],
)
def test_the_stages_follow_each_other_until_one_fails(
    named: list[str], failing: str, expected: list[str], tmp_path: Path
) -> None:
    answers = f"""
    case $1 in
        apply) echo "$3" >> "{tmp_path}/applied"; echo "job.batch/${{3%.yaml}}" ;;
        get) case $2 in
            *{failing or "none"}) echo FailureTarget Failed ;;
            *) echo SuccessCriteriaMet Complete ;;
        esac ;;
        logs) echo "the cause" ;;
    esac"""
    stand_in(tmp_path / "bin", "kubectl", answers)
    environment = {**os.environ, "PATH": f"{tmp_path / 'bin'}{os.pathsep}{os.environ['PATH']}", "POLL_SECONDS": "0"}
    call = [ROOT / "run.sh", *named]
    result = subprocess.run(call, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == bool(failing), result.stderr
    assert (tmp_path / "applied").read_text().split() == expected
    assert ("the cause" in result.stderr) == bool(failing)
