"""A trace of some training steps, for TensorBoard's profiler and for Perfetto.

    jaxgen train ddpm_digits --profile 100:110

The trace has the devices' and the host's work of the updates after step 100, up to 110, in RUN/profile.
Operations have the names of the Flax modules that they come from. Dispatches end at multiples of the two steps'
greatest common divisor; without a profile nothing changes.
"""

import math
from pathlib import Path

import jax

from jaxgen.core import files
from jaxgen.core.errors import UserError
from jaxgen.engine.folder import Folder


class Profile:
  """A hook of the training loop, see `engine.loop.Hook`, that traces the steps first + 1 .. last.

  Attributes:
    every: the loop ends dispatches at its multiples, of which `first` and `last` are two.
  """

  what = ""

  def __init__(self, folder: Folder, first: int, last: int, steps: int):
    """Checks the steps.

    Args:
      folder: the run's folder.
      first, last: the steps between which is traced.
      steps: the run's last step.

    Raises:
      UserError: there are no such steps, or the folder is on an object store.
    """
    if not 0 <= first < last <= steps:
      raise UserError(f"--profile {first}:{last}: a trace goes from one step to a later one of 0 to {steps}")
    if files.is_remote(folder.path):
      raise UserError(f"--profile: a trace is written into a folder of a file system, and {folder.path} is none")
    self.folder, self.first, self.last = folder, first, last
    self.every = math.gcd(first, last)
    self._is_on = False

  def is_due(self, step: int, steps: int) -> bool:
    return step in (self.first, self.last)

  def is_done(self, step: int) -> bool:
    return step == self.last and not self._is_on  # training has begun after the first step

  def act(self, step: int) -> None:
    """Begins the trace at its first step and ends it at its last."""
    if jax.process_index() != 0:
      return
    if step == self.first:
      jax.profiler.start_trace(str(self.place), create_perfetto_trace=True)
      self._is_on = True
    else:
      jax.profiler.stop_trace()
      self._is_on = False

  @property
  def place(self) -> Path:
    """The folder of the trace."""
    return Path(str(self.folder / "profile"))


def parse(text: str) -> tuple[int, int]:
  """(first step, last step) out of "100:110".

  Raises:
    UserError: it is written otherwise.
  """
  first, colon, last = text.partition(":")
  if not (colon and first.isdigit() and last.isdigit() and text.isascii()):
    raise UserError(f"--profile {text}: write it as FIRST:LAST, two steps, such as 100:110")
  return int(first), int(last)
