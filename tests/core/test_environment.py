"""XLA's flags that `import jaxgen` sets, each time as a process finds it in which jax has not started.

What a real one sets, and what XLA does with a flag that it does not know, is in test_processes.py.
"""

import os
import sys

import jax
import pytest

from jaxgen.core import environment
from jaxgen.core.environment import CPU_FLAGS, GPU_FLAGS, XlaFlags, is_known
from jaxgen.engine import progress, provenance

KNOWN = [flag for flag in CPU_FLAGS if is_known(flag)]
set_xla_flags = environment.set_xla_flags.__wrapped__  # anew at every call


@pytest.fixture
def fresh(monkeypatch):
  """As in a process in which jax has not started. No flags are set before, nor after the test."""
  monkeypatch.setenv("XLA_FLAGS", "")
  monkeypatch.setattr(environment, "_backend_has_started", lambda: False)
  monkeypatch.setattr(environment, "set_xla_flags", set_xla_flags)
  monkeypatch.setattr(environment, "say_changes", environment.say_changes.__wrapped__)
  return monkeypatch


@pytest.fixture
def plugin(tmp_path, monkeypatch):
  """A plugin for a GPU, which fails where it is imported."""
  folder = tmp_path / "jax_plugins" / "xla_cuda99"
  folder.mkdir(parents=True)
  (folder / "__init__.py").write_text("raise RuntimeError('flags are set without importing the plugin')")
  monkeypatch.syspath_prepend(tmp_path)


def flags():
  return os.environ["XLA_FLAGS"].split()


def test_flags_are_added_to_the_users_own_but_not_in_their_place(fresh):
  assert set_xla_flags() == XlaFlags(tuple(KNOWN), ())
  assert flags() == KNOWN
  fresh.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  set_xla_flags()
  assert flags() == ["--xla_cpu_enable_fast_math=false", *KNOWN]
  own = [f"{flag.partition('=')[0]}=LIBRARY_FUSION_TYPE_DOT" for flag in KNOWN]
  fresh.setenv("XLA_FLAGS", " ".join(own))
  assert set_xla_flags() == XlaFlags((), ())
  assert flags() == own


def test_flags_that_come_too_late_are_not_set_and_runs_say_so(monkeypatch):
  monkeypatch.setenv("XLA_FLAGS", "")
  jax.devices()
  found = set_xla_flags()
  assert found == XlaFlags((), tuple(KNOWN))
  monkeypatch.setattr(provenance, "set_xla_flags", lambda: found)
  where = provenance.where()
  assert (where["xla_flags"], where["xla_flags_too_late"]) == ("", KNOWN)


def test_a_plugin_for_a_gpu_brings_its_flags_unless_the_user_has_set_them(fresh, plugin):
  assert environment.has_gpu_plugin()
  set_xla_flags()
  assert flags() == [*KNOWN, *(flag for flag in GPU_FLAGS if is_known(flag))]
  assert "--xla_gpu_exclude_nondeterministic_ops=true" in flags()
  own = "--xla_gpu_exclude_nondeterministic_ops=false"
  fresh.setenv("XLA_FLAGS", own)
  set_xla_flags()
  assert [flag for flag in flags() if "nondeterministic" in flag] == [own]
  assert "jax_plugins.xla_cuda99" not in sys.modules


def test_flags_that_pay_are_said_unless_the_user_has_set_them(fresh, capsys):
  environment.set_up_jax()
  assert capsys.readouterr().err == ""  # a command may still be refused; training and measurements say it
  progress.Progress(quiet=True).start(0, 1)
  assert capsys.readouterr().err == ""
  progress.Progress().start(0, 1)
  assert "XLA_FLAGS now has --xla_cpu_experimental_ynn" in capsys.readouterr().err
  environment.say_changes()  # they are there now
  assert capsys.readouterr().err == ""


@pytest.fixture
def madvise(fresh, tmp_path):
  """Where huge pages help: (starts, folder of devices); what would start this process anew, each as execve's words."""
  starts, devices = [], tmp_path / "dev"
  devices.mkdir()
  (tmp_path / "enabled").write_text("always [madvise] never\n")
  fresh.setattr(environment, "LINUX_HUGE_PAGES", tmp_path / "enabled")
  fresh.setattr(environment, "DEVICES", devices)
  fresh.setattr(os, "confstr", lambda name: "glibc 2.36")
  fresh.setattr(os, "execve", lambda *call: starts.append(call))
  fresh.setattr(sys, "gettrace", lambda: None)  # of whatever measures the tests' coverage
  fresh.setenv("GLIBC_TUNABLES", "")
  return starts, devices


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
def test_a_command_starts_anew_for_huge_pages_where_they_help(libc, linux, tunables, expected, madvise, fresh):
  started, _ = madvise
  environment.LINUX_HUGE_PAGES.write_text(linux + "\n") if linux else environment.LINUX_HUGE_PAGES.unlink()
  fresh.setattr(os, "confstr", lambda name: libc or None)
  fresh.setenv("GLIBC_TUNABLES", tunables)
  environment.use_huge_pages()
  assert [call[2]["GLIBC_TUNABLES"] for call in started] == ([expected] if expected else [])
  if expected:
    assert started[0][:2] == (sys.executable, [sys.executable, *sys.orig_argv[1:]])
    fresh.setenv("GLIBC_TUNABLES", expected)
    environment.use_huge_pages()
    assert len(started) == 1


@pytest.mark.parametrize(
  ("device", "count"),
  [
    (None, 1), ("full", 1), ("vfio/vfio", 1),  # of any Linux
    ("nvidia0", 0), ("nvidiactl", 0), ("kfd", 0), ("accel0", 0), ("vfio/3", 0),
  ],
)  # fmt: skip
def test_devices_decide_on_huge_pages_and_not_what_is_installed(device, count, madvise, plugin):
  started, devices = madvise
  if device:
    (devices / device).parent.mkdir(exist_ok=True)
    (devices / device).touch()
  environment.use_huge_pages()
  assert len(started) == count


def test_no_command_starts_anew_under_a_debugger(madvise, fresh):
  started, _ = madvise
  fresh.setattr(sys, "gettrace", lambda: print)
  environment.use_huge_pages()
  assert not started


@pytest.mark.skipif(not hasattr(sys, "monitoring"), reason="from Python 3.12 on")
def test_no_command_starts_anew_under_a_debugger_that_monitors(madvise):
  started, _ = madvise
  sys.monitoring.use_tool_id(sys.monitoring.DEBUGGER_ID, "a debugger")
  try:
    environment.use_huge_pages()
  finally:
    sys.monitoring.free_tool_id(sys.monitoring.DEBUGGER_ID)
  assert not started


def test_what_both_starts_have_changed_is_one_line(madvise, fresh, plugin, capsys):
  started, _ = madvise
  fresh.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_math=false")
  environment.use_huge_pages()
  assert capsys.readouterr().err == ""
  for name, value in started[0][2].items():
    fresh.setenv(name, value)
  assert flags() == ["--xla_cpu_enable_fast_math=false"]
  environment.say_changes()
  (line,) = capsys.readouterr().err.splitlines()
  assert line.startswith("jaxgen: GLIBC_TUNABLES now has glibc.malloc.hugetlb=1, XLA_FLAGS now has --xla_cpu_")
  assert all(f"XLA_FLAGS now has {flag}" in line for flag in [*KNOWN, *filter(is_known, GPU_FLAGS)])
  assert environment.STARTED_ANEW not in os.environ  # what this process starts has nothing to say of it
