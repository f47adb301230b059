"""XLA's flags: jaxlib's own answer whether it knows one, and what `import jaxgen` sets."""

import os
import subprocess
import sys

import conftest
import pytest

from jaxgen.core.environment import CPU_FLAGS, GPU_FLAGS, has_gpu_plugin, is_known


def python(code, **env):
  environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"} | env
  return subprocess.run(
    [sys.executable, "-c", code], capture_output=True, text=True, cwd=conftest.REPOSITORY, env=environment
  )


@pytest.mark.parametrize("flag", [*CPU_FLAGS, *GPU_FLAGS, "--xla_cpu_no_such_flag=1"])
def test_is_known_says_what_xla_does_with_the_flag(flag):
  started = python("import jax; jax.devices()", XLA_FLAGS=flag)
  assert is_known(flag) == (started.returncode == 0), started.stderr


def test_the_library_sets_flags_before_jax_starts_and_says_where_it_is_too_late():
  first = python("import os, jaxgen; print(os.environ['XLA_FLAGS'])")
  assert first.stdout.split() == [
    flag for flag in [*CPU_FLAGS, *(GPU_FLAGS if has_gpu_plugin() else ())] if is_known(flag)
  ]
  code = "import jax; jax.devices(); from jaxgen.engine import provenance as p; print(p.where()"
  late = python(code + "['xla_flags_too_late'], p.where()['xla_flags'] == '')")
  assert late.stdout.strip() == f"{first.stdout.split()} True", late.stderr


def test_a_plugin_for_a_gpu_brings_its_flags_unless_the_user_has_set_them(tmp_path):
  plugin = tmp_path / "jax_plugins" / "xla_cuda99"
  plugin.mkdir(parents=True)
  (plugin / "__init__.py").write_text("raise RuntimeError('flags are set without importing the plugin')")
  path = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
  code = "import os, jaxgen; print(os.environ['XLA_FLAGS'])"
  found = python(code, PYTHONPATH=path)
  assert "--xla_gpu_exclude_nondeterministic_ops=true" in found.stdout.split(), found.stderr
  own = "--xla_gpu_exclude_nondeterministic_ops=false"
  kept = [flag for flag in python(code, PYTHONPATH=path, XLA_FLAGS=own).stdout.split() if "nondeterministic" in flag]
  assert kept == [own]
