"""Runs before any test imports jax: eight devices on the CPU, and jaxtyping's annotations checked at run time.

All workers share one cache of compiled programs and judges. $JAXGEN_TEST_CACHE keeps it from run to run; without it the
cache lives as long as the session, so that no test depends on an earlier run.
"""

import os
import shutil
import tempfile

os.environ.setdefault("JAX_PLATFORMS", "cpu")
MAIN = "PYTEST_XDIST_WORKER" not in os.environ  # workers inherit what is set here
if MAIN:
  kept = os.environ.get("JAXGEN_TEST_CACHE")
  os.environ["JAXGEN_CACHE"] = kept or tempfile.mkdtemp(prefix="jaxgen-tests-")

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("jaxgen", "beartype.beartype")

from jaxgen.core.environment import is_known  # noqa: E402

FLAGS = {
  "--xla_force_host_platform_device_count": "8",
  # Without LLVM's optimisations: compiling is most of what tests do, and it takes a third of the time so.
  "--xla_backend_optimization_level": "0",
  # The older emitter of fused loops (which jaxlib 0.11 has no more), and one module for LLVM, not 32: half of that.
  "--xla_cpu_use_fusion_emitters": "false",
  "--xla_cpu_parallel_codegen_split_count": "1",
  # Eight devices on two cores that others use, too: a collective may wait long for its last device.
  "--xla_cpu_collective_call_warn_stuck_timeout_seconds": "600",
  "--xla_cpu_collective_call_terminate_timeout_seconds": "1800",
  "--xla_cpu_collective_timeout_seconds": "1800",
}
given = os.environ.get("XLA_FLAGS", "").split()
theirs = {flag.partition("=")[0] for flag in given}
os.environ["XLA_FLAGS"] = " ".join(
  [*given, *(f"{name}={value}" for name, value in FLAGS.items() if name not in theirs and is_known(name))]
)

import contextlib  # noqa: E402
import gc  # noqa: E402
import multiprocessing.util  # noqa: E402
import pathlib  # noqa: E402
import re  # noqa: E402
import sys  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["JAXGEN_CACHE"], "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)  # to write or read one takes 0.01

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


STARTED = []  # the Python processes that the running test has started, each as its words


def _count(event, words):
  if event == "os.fork":
    STARTED.append("a fork")
  elif event == "subprocess.Popen" and os.path.basename(os.fsdecode(words[0])).startswith("python"):
    STARTED.append(words[1])


sys.addaudithook(_count)
_spawn = multiprocessing.util.spawnv_passfds


def _spawn_counted(path, words, passfds):
  if not any("resource_tracker" in os.fsdecode(word) for word in words):  # one for all that follow
    STARTED.append(words)
  return _spawn(path, words, passfds)


multiprocessing.util.spawnv_passfds = _spawn_counted  # of which no audit event tells


def may_start(item) -> int:
  """How many Python processes a test says that it starts; those of git, bash and mount are not counted."""
  mark = item.get_closest_marker("processes")
  return mark.args[0] if mark else 0


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup():
  STARTED.clear()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
  result = yield
  allowed = may_start(item)
  assert len(STARTED) <= allowed, f"it is marked as processes({allowed}) and has started {STARTED}"
  return result


def pytest_sessionfinish():
  if MAIN and "JAXGEN_TEST_CACHE" not in os.environ:
    shutil.rmtree(os.environ["JAXGEN_CACHE"], ignore_errors=True)


def xla_flags(devices: int) -> str:
  """XLA's flags for a process that a test starts: these here, with another number of devices."""
  return re.sub(r"(?<=device_count=)\d+", str(devices), os.environ["XLA_FLAGS"])


def patience() -> float:
  """How much longer than on a quiet machine a test should wait for a process: by the load for each core."""
  return 2.0 + 2.0 * os.getloadavg()[0] / len(os.sched_getaffinity(0))


def pytest_collection_modifyitems(items):
  """The tests of the whole project, in the files of this folder, start processes and train: they begin, so that no
  worker is alone with one of them at the end."""
  items.sort(key=lambda item: item.path.parent != REPOSITORY / "tests")


def pytest_collection_finish():
  """Python's collector of cycles leaves alone what imports have made, and comes rarely: a trace of a program makes
  millions of objects, for which it took a tenth of the suite's time."""
  gc.freeze()
  gc.set_threshold(50_000, 20, 20)


def group(nodeid: str) -> str:
  """The tests that one worker runs one after the other, so that they share fixtures and what was compiled: those of a
  file, and in test_every_method.py those of a method."""
  file, _, test = nodeid.partition("::")
  return file + test[test.find("[") :] if file.endswith("test_every_method.py") and "[" in test else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
  """With --dist loadgroup: groups are read off the names of tests, in the order of collection. xdist's own groups, by
  marks, are none with pytest 9.2: it renames tests in a field that pytest no longer reads."""
  if config.getoption("dist") != "loadgroup":
    return None
  from xdist.scheduler import LoadScopeScheduling

  class Groups(LoadScopeScheduling):
    _split_scope = staticmethod(group)

  config.option.loadscopereorder = False  # by the number of tests: what takes longest would come last
  return Groups(config, log)


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
  """What one file's tests have compiled is dropped after them; kept until the end it would take gigabytes."""
  yield
  jax.clear_caches()


@pytest.fixture
def x64():
  """Float64 for one test."""
  with enable_x64():
    yield


@contextlib.contextmanager
def enable_x64():
  before = jax.config.jax_enable_x64
  jax.config.update("jax_enable_x64", True)
  try:
    yield
  finally:
    jax.config.update("jax_enable_x64", before)
