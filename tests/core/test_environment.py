"""XLA's flags: jaxlib's own answer whether it knows one, and what `import jaxgen` sets."""

import os
import subprocess
import sys

import conftest
import pytest

from jaxgen.core import environment
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


@pytest.mark.parametrize(
  ("libc", "linux", "tunables", "expected"),
  [
    ("glibc 2.36", "always [madvise] never", "", "glibc.malloc.hugetlb=1"),
    (
      "glibc 2.36",
      "always [madvise] never",
      "glibc.malloc.arena_max=2",
      "glibc.malloc.arena_max=2:glibc.malloc.hugetlb=1",
    ),
    ("glibc 2.36", "always [madvise] never", "glibc.malloc.hugetlb=0", None),
    ("glibc 2.36", "[always] madvise never", "", None),
    ("glibc 2.31", "always [madvise] never", "", None),
    ("", "always [madvise] never", "", None),
    ("glibc 2.36", None, "", None),
  ],
)
def test_a_command_starts_anew_for_huge_pages_where_they_help(libc, linux, tunables, expected, monkeypatch, tmp_path):
  started = []
  if linux:
    (tmp_path / "enabled").write_text(linux + "\n")
  monkeypatch.setattr(environment, "LINUX_HUGE_PAGES", tmp_path / "enabled")
  monkeypatch.setattr(environment, "has_gpu_plugin", lambda: False)
  monkeypatch.setattr(os, "confstr", lambda name: libc or None)
  monkeypatch.setattr(os, "execve", lambda *call: started.append(call))
  monkeypatch.setenv("GLIBC_TUNABLES", tunables)
  environment.use_huge_pages()
  assert [call[2]["GLIBC_TUNABLES"] for call in started] == ([expected] if expected else [])
  if expected:
    assert started[0][:2] == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    monkeypatch.setenv("GLIBC_TUNABLES", expected)
    environment.use_huge_pages()
    assert len(started) == 1
