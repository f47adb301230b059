"""What the docs give to launchers: a script for SLURM, and a manifest for Kubernetes against the JobSet's schema."""

import copy
import json
import re
import subprocess

import conftest
import pytest
import yaml

from jaxgen.cli.options import cluster_options

DOCS = conftest.REPOSITORY / "docs"
SCHEMA = json.loads((conftest.REPOSITORY / "tests" / "fixtures" / "jobset_schema.json").read_text())
TYPES = {"object": dict, "array": list, "string": str, "integer": int, "boolean": bool}


def faults(value, schema, path=""):
  """Where a value is not what a schema says: types, required fields, fields that there are, enumerations."""
  if not schema or schema.get("x-kubernetes-preserve-unknown-fields") or schema.get("x-kubernetes-int-or-string"):
    return []
  if not isinstance(value, TYPES[schema["type"]]) or (isinstance(value, bool) and schema["type"] == "integer"):
    return [f"{path} is no {schema['type']}"]
  found = [f"{path} is {value}"] if value not in schema.get("enum", [value]) else []
  if isinstance(value, dict):
    found += [f"{path}.{name} is missing" for name in schema.get("required", []) if name not in value]
    fields = schema.get("properties")
    for name, item in value.items():
      if fields is not None and name not in fields:
        found.append(f"{path}.{name} is unknown")
      else:
        found += faults(item, (fields or {}).get(name, schema.get("additionalProperties", {})), f"{path}.{name}")
  if isinstance(value, list):
    found += [fault for i, item in enumerate(value) for fault in faults(item, schema["items"], f"{path}[{i}]")]
  return found


@pytest.fixture
def manifest():
  return yaml.safe_load((DOCS / "jobset.yaml").read_text())


def test_the_jobset_is_one_of_its_schema(manifest):
  assert manifest["apiVersion"] == f"jobset.x-k8s.io/{SCHEMA['version']}"
  assert manifest["kind"] == "JobSet"
  assert faults(manifest, SCHEMA["schema"]) == []
  (job,) = manifest["spec"]["replicatedJobs"]
  spec = job["template"]["spec"]
  (container,) = spec["template"]["spec"]["containers"]
  flags = dict(arg.removeprefix("--").split("=") for arg in container["args"])
  assert int(flags["processes"]) == spec["parallelism"] == spec["completions"]
  # Kubernetes' names of pods, and JobSet's of its headless service: SET-JOB-REPLICA-INDEX.SET
  name = manifest["metadata"]["name"]
  assert flags["coordinator"].split(":")[0] == f"{name}-{job['name']}-0-0.{name}"
  assert {flag.replace("-", "_") for flag in flags} <= cluster_options().keys()


def test_a_wrong_jobset_is_found_out(manifest):
  """So that the test above can fail."""
  wrong = copy.deepcopy(manifest)
  job = wrong["spec"]["replicatedJobs"][0]
  pod = job["template"]["spec"]["template"]["spec"]
  del job["name"], pod["containers"][0]["name"]
  job["template"]["spec"]["paralelism"] = job["template"]["spec"].pop("parallelism")
  job["template"]["spec"]["completions"] = "4"
  at = ".spec.replicatedJobs[0]"
  assert sorted(faults(wrong, SCHEMA["schema"])) == sorted(
    [
      f"{at}.name is missing",
      f"{at}.template.spec.completions is no integer",
      f"{at}.template.spec.paralelism is unknown",
      f"{at}.template.spec.template.spec.containers[0].name is missing",
    ]
  )


@pytest.mark.parametrize(("status", "requeued"), [(0, False), (143, True), (1, False)])
def test_the_slurm_script_queues_a_job_again_that_was_stopped_by_a_signal(tmp_path, status, requeued):
  """With commands of SLURM's names that write down how they are called."""
  for name, code in {"srun": status, "scontrol": 0}.items():
    (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $@"\nexit {code}\n')
    (tmp_path / name).chmod(0o755)
  env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "SLURM_JOB_ID": "17"}
  script = subprocess.run(
    ["bash", DOCS / "train.sbatch", "my config", "--runs", "r"], env=env, capture_output=True, text=True
  )
  assert script.returncode == status
  first, *rest = script.stdout.splitlines()
  assert first == "srun --kill-on-bad-exit=0 jaxgen train my config --runs r"
  assert rest == (["scontrol requeue 17"] if requeued else [])
  assert re.findall(r"^#SBATCH --(requeue|open-mode=append)$", (DOCS / "train.sbatch").read_text(), re.MULTILINE)
