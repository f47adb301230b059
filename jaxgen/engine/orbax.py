"""Orbax, set up for checkpoints: it writes arrays in the background, and calls us before it declares them complete."""

import functools
import logging
import os
import sys
from pathlib import Path

import jax

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax appends it to the name of a folder that it is still writing


@functools.cache
def orbax_parts():
  """(orbax.checkpoint, our handler's class, its arguments to save, to restore), imported when first needed."""
  import orbax.checkpoint as ocp

  # What Orbax logs of an error is raised as well; its threads' tracebacks say nothing to a user. (After the import,
  # because absl brings a logger that knows who called.)
  logging.getLogger("absl").addFilter(lambda record: f"{os.sep}orbax{os.sep}" not in record.pathname)
  logging.getLogger("asyncio").addFilter(lambda record: TEMPORARY not in record.getMessage())
  # And TensorStore's threads, after one of several writes has failed, report the others to an event loop that is gone.
  before = sys.unraisablehook

  def report(unraisable) -> None:
    if unraisable.object is not None or str(unraisable.exc_value) != "Event loop is closed":
      before(unraisable)

  sys.unraisablehook = report

  class Handler(ocp.PyTreeCheckpointHandler):
    """Arrays as Orbax stores them, and a manifest that is written when they are on the disk, before the renaming."""

    def __init__(self):
      # A replica is written whole by one device: cutting arrays between replicas compiles a slice for every shape.
      arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
      registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
      super().__init__(type_handler_registry=registry, use_compression=False)
      self.describe = None  # (folder) -> None writes the manifest; set before each save

    def finalize(self, directory) -> None:
      super().finalize(directory)
      self.describe(Path(directory))

  # Orbax finds the handler by the class of the arguments, so ours has classes of its own.
  Save, Restore = (type(c.__name__, (c,), {}) for c in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore))
  ocp.args.register_with_handler(Handler, for_save=True)(Save)
  ocp.args.register_with_handler(Handler, for_restore=True)(Restore)
  return ocp, Handler, Save, Restore
