"""Environment variables that must be set before jax starts.

`import jaxgen` sets the flags of XLA, so that the command line and the library give equal bits.

XLA ends the process if it does not know a flag, and flags differ between releases of jaxlib. Therefore this module
searches jaxlib's binary, which contains the name of every flag as a C string, followed by a zero byte. (A flag's name
within a description is not followed by one.)
"""

import functools
import importlib.util
import mmap
import os
import pathlib
import pkgutil
import sys
from typing import NamedTuple

from jaxgen.core.cache import cache_folder

# Flag -> why it is set; `benchmarks/README.md` has the numbers.
CPU_FLAGS = {"--xla_cpu_experimental_ynn_fusion_type=": "faster on a CPU"}
GPU_FLAGS = {
  "--xla_gpu_exclude_nondeterministic_ops=true": "equal bits in every process on a GPU, at 6 to 14 % of its speed"
}

LINUX_HUGE_PAGES = pathlib.Path("/sys/kernel/mm/transparent_hugepage/enabled")  # "always [madvise] never"
TUNABLE = "glibc.malloc.hugetlb=1"
STARTED_ANEW = (
  "JAXGEN_STARTED_ANEW"  # set in a process that `use_huge_pages` started anew, until it has printed its notice
)
DEVICES = pathlib.Path("/dev")
# As the drivers of NVIDIA's, AMD's and Google's devices name them. (A plugin for a GPU may be installed where none is.)
ACCELERATORS = ("nvidiactl", "nvidia[0-9]*", "kfd", "accel[0-9]*", "vfio/[0-9]*")


class XlaFlags(NamedTuple):
  """The flags that were added in this process, and those that came too late."""

  added: tuple[str, ...]
  too_late: tuple[str, ...]


def has_gpu_plugin() -> bool:
  """Whether one of jax's plugins for CUDA or ROCm is installed. Nothing is imported or started."""
  spec = importlib.util.find_spec("jax_plugins")  # a namespace that each plugin puts a module into: xla_cuda12
  places = (spec and spec.submodule_search_locations) or ()
  return any(module.name.startswith(("xla_cuda", "xla_rocm")) for module in pkgutil.iter_modules(places))


def is_known(flag: str) -> bool:
  """Whether the installed jaxlib knows a flag, "--name=value". Takes milliseconds if it does, 0.4 s if it does not."""
  spec = importlib.util.find_spec("jaxlib")
  if spec is None or spec.origin is None:
    return False
  name = flag.removeprefix("--").split("=")[0].encode() + b"\0"
  for path in sorted(pathlib.Path(spec.origin).parent.glob("*jax_common*")):
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as library:
      if library.find(name) >= 0:
        return True
  return False


def _backend_has_started() -> bool:
  bridge = sys.modules.get("jax._src.xla_bridge")  # jax has no public function for this
  return bridge is not None and bridge.backends_are_initialized()


@functools.cache
def set_xla_flags() -> XlaFlags:
  """Adds CPU_FLAGS, and GPU_FLAGS if a plugin for a GPU is installed, to $XLA_FLAGS; once in each process.

  Flags that the user has set, or that jaxlib does not know, are left out. XLA reads the variable when jax's backend
  starts. If it has started already, nothing is set, and run.json says so.
  """
  flags = os.environ.get("XLA_FLAGS", "")
  given = {flag.split("=")[0] for flag in flags.split()}
  ours = [*CPU_FLAGS, *(GPU_FLAGS if has_gpu_plugin() else ())]
  wanted = tuple(flag for flag in ours if flag.split("=")[0] not in given and is_known(flag))
  if _backend_has_started():
    return XlaFlags((), wanted)
  if wanted:
    os.environ["XLA_FLAGS"] = " ".join([*flags.split(), *wanted])
  return XlaFlags(wanted, ())


def _has_accelerator() -> bool:
  """Whether Linux has a device of a GPU or TPU. Nothing is opened."""
  return any(next(DEVICES.glob(name), None) is not None for name in ACCELERATORS)


def _is_traced() -> bool:
  """Whether a debugger or a tracer follows this process, which would lose a new one."""
  monitoring = getattr(sys, "monitoring", None)  # by which debuggers follow a process from Python 3.12 on
  return bool(sys.gettrace() or (monitoring and monitoring.get_tool(monitoring.DEBUGGER_ID)))


def use_huge_pages() -> None:
  """Starts this process anew, once, so that malloc asks Linux for pages of 2 MiB, if that makes XLA faster on a CPU.

  At every call XLA allocates a program's temporary memory by malloc, and frees it afterwards. With pages of 4 KiB this
  takes a sixth of the time of a ResNet-50's update. glibc reads GLIBC_TUNABLES only when a process starts. Nothing is
  done if the user has set this tunable (`glibc.malloc.hugetlb=0` switches it off), if Linux uses huge pages always or
  never, if glibc is older than 2.35, if there is a GPU or TPU, or under a debugger. `say_changes` prints a notice.
  """
  libc = os.confstr("CS_GNU_LIBC_VERSION") if "CS_GNU_LIBC_VERSION" in getattr(os, "confstr_names", ()) else None
  name, _, version = (libc or "").partition(" ")
  tunables = os.environ.get("GLIBC_TUNABLES", "")
  if (
    name != "glibc"
    or tuple(map(int, version.split("."))) < (2, 35)
    or "glibc.malloc.hugetlb" in tunables
    or not LINUX_HUGE_PAGES.exists()
    or "[madvise]" not in LINUX_HUGE_PAGES.read_text()
    or not sys.executable
    or _has_accelerator()
    or _is_traced()
  ):
    return
  # The new process adds the flags itself, and prints the notice.
  flags = [flag for flag in os.environ.get("XLA_FLAGS", "").split() if flag not in set_xla_flags().added]
  changed = {"XLA_FLAGS": " ".join(flags), "GLIBC_TUNABLES": ":".join(filter(None, [tunables, TUNABLE]))}
  os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], {**os.environ, **changed, STARTED_ANEW: "1"})


@functools.cache
def say_changes() -> None:
  """Prints one line, once, with what this process or its first start changed in the environment, and why.

  It is called when training or a measurement starts, so that an error is not preceded by it.
  """
  reasons: dict[str, list[str]] = {}
  if os.environ.pop(STARTED_ANEW, None):
    reasons["faster on a CPU"] = [f"GLIBC_TUNABLES now has {TUNABLE}"]
  for flag in set_xla_flags().added:
    reasons.setdefault((CPU_FLAGS | GPU_FLAGS)[flag], []).append(f"XLA_FLAGS now has {flag}")
  if reasons:
    said = "; ".join(f"{', '.join(changes)}: {why}" for why, changes in reasons.items())
    print(f"jaxgen: {said}", file=sys.stderr, flush=True)


def set_up_jax() -> None:
  """For commands and benchmarks: turns on the cache of compiled programs."""
  os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")  # XLA's warnings, such as that a cached program was found
  import jax

  if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
    jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.3)
