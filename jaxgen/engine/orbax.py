"""Orbax, set up for checkpoints: it writes arrays in the background, and calls us before it declares them complete.

In a file system a checkpoint is written under a temporary name and renamed. On an object store, which renames nothing,
it is complete when it has the file DONE, which is written last and deleted first.
"""

import functools
import logging
import os
import sys
from typing import Any

import jax

from jaxgen.core import files

TEMPORARY = ".orbax-checkpoint-tmp"  # Orbax appends it to the name of a folder that it is still writing
DELETING = ".deleting"  # appended before a folder is deleted, so that half of a checkpoint never bears a step's name
READING = 256e6  # bytes that a restore reads at once: it holds them twice until they are on the devices
DONE = "commit_success.txt"


def is_whole(path: files.Place) -> bool:
  """Whether what bears a step's name is a checkpoint that was written to the end."""
  return (path / DONE).is_file() if files.is_remote(path) else path.is_dir()


def is_leftover(path: files.Place) -> bool:
  """Whether it is part of a checkpoint that was being written or deleted; by nobody any more, if nobody is now."""
  unfinished = files.is_remote(path) and path.name.isdigit() and not is_whole(path)
  return unfinished or TEMPORARY in path.name or path.name.endswith(DELETING)


def delete(path: files.Place) -> None:
  """Deletes a checkpoint."""
  if files.is_remote(path):
    (path / DONE).unlink()
  else:
    path = path.rename(path.with_name(path.name + DELETING))
  files.remove_folder(path)


def set_aside(path: files.Place) -> None:
  """Renames a file, somebody's, that has the name of a checkpoint; on an object store both may have it."""
  if not files.is_remote(path) and path.is_file():
    path.rename(path.with_suffix(".aside"))


def async_writer(folder: files.Place):
  """Orbax's writer of checkpoints in the background, for those in a folder."""
  ocp, Handler, _, _ = orbax_parts()
  way = {"temporary_path_class": ocp.path.atomicity.CommitFileTemporaryPath} if files.is_remote(folder) else {}
  # Directories are made before save returns, so that a folder that cannot be written is an error there and then.
  return ocp.AsyncCheckpointer(
    Handler(), async_options=ocp.options.AsyncOptions(create_directories_asynchronously=False), **way
  )


@functools.cache
def orbax_parts():
  """(orbax.checkpoint, our handler's class, its arguments to save, to restore), imported when first needed."""
  import orbax.checkpoint as ocp

  # Orbax logs errors that it also raises, and its threads' tracebacks do not help a user. (After the import, because
  # absl installs its own logger class.)
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

    def __init__(self, largest: int = 0):
      """Reads arrays one after the other, if each of them exists twice while it is read.

      Args:
        largest: bytes of the largest array.
      """
      # A replica is written whole by one device: cutting arrays between replicas compiles a slice for every shape.
      arrays = ocp.type_handlers.ArrayHandler(use_replica_parallel=False, enable_write_sharding_file=False)
      registry = ocp.type_handlers.create_type_handler_registry((jax.Array, arrays))
      most = max(READING, 2 * largest) / 1e9
      super().__init__(type_handler_registry=registry, use_compression=False, restore_concurrent_gb=most)
      self.describe = None  # (folder) -> None writes the manifest; set before each save

    def finalize(self, directory) -> None:
      super().finalize(directory)
      self.describe(files.place(str(directory)))

  _teach_s3()
  # Orbax finds the handler by the class of the arguments, so ours has classes of its own.
  Save, Restore = (type(c.__name__, (c,), {}) for c in (ocp.args.PyTreeSave, ocp.args.PyTreeRestore))
  ocp.args.register_with_handler(Handler, for_save=True)(Save)
  ocp.args.register_with_handler(Handler, for_restore=True)(Restore)
  return ocp, Handler, Save, Restore


def _teach_s3() -> None:
  """Lets Orbax 0.12, which supports only gs://, store arrays at s3:// by TensorStore's driver for it.

  Credentials, region and endpoint are those of the environment, as fsspec takes them: AWS_ACCESS_KEY_ID or a profile,
  AWS_REGION, AWS_ENDPOINT_URL.
  """
  from orbax.checkpoint._src.serialization import tensorstore_utils

  build = tensorstore_utils.build_kvstore_tspec

  def build_for_any(directory: str, *arguments: Any, **options: Any) -> dict[str, Any]:
    directory = str(directory)
    if not directory.startswith("s3://"):
      return build(directory, *arguments, **options)
    return _on_s3(build(f"gs://{directory.removeprefix('s3://')}", *arguments, **options))

  tensorstore_utils.build_kvstore_tspec = build_for_any


def _on_s3(spec: Any) -> Any:
  """Translates TensorStore's description of a place on gs:// into one on s3://."""
  if not isinstance(spec, dict):
    return spec
  spec = {name: _on_s3(value) for name, value in spec.items()}
  if spec.get("driver") != "gcs":
    return spec
  env = os.environ
  region = env.get("AWS_REGION") or env.get("AWS_DEFAULT_REGION")
  endpoint = env.get("AWS_ENDPOINT_URL_S3") or env.get("AWS_ENDPOINT_URL")
  kept = {"aws_region": region or (endpoint and "us-east-1"), "endpoint": endpoint}
  keys = {"aws_credentials": {"type": "environment"}} if "AWS_ACCESS_KEY_ID" in env else {}
  return spec | {"driver": "s3"} | {name: value for name, value in kept.items() if value} | keys
