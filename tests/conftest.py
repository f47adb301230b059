"""Runs before any test imports jax: eight devices on the CPU, and jaxtyping's annotations checked at run time."""

import os
import tempfile

# Without LLVM's optimisations: compiling is most of what tests do, and it takes a third of the time so.
FLAGS = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {FLAGS}".strip()
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Caches of compiled programs and judges live as long as the session, so that no test depends on an earlier run.
os.environ["JAXGEN_CACHE"] = tempfile.mkdtemp(prefix="jaxgen-tests-")

import jaxtyping  # noqa: E402

jaxtyping.install_import_hook("jaxgen", "beartype.beartype")

import contextlib  # noqa: E402
import pathlib  # noqa: E402
import shutil  # noqa: E402

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_compilation_cache_dir", os.path.join(os.environ["JAXGEN_CACHE"], "xla"))
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent


def pytest_sessionfinish():
  shutil.rmtree(os.environ["JAXGEN_CACHE"], ignore_errors=True)


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
