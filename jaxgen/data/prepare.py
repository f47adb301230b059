"""Prepares a data set with tensorflow-datasets itself, in the format that is read without TensorFlow afterwards."""

import importlib.util
import tempfile
from pathlib import Path

from jaxgen.core.errors import UserError


def prepare(name: str, data_dir: str | Path | None = None, manual_dir: str | Path | None = None) -> dict[str, int]:
  """Downloads a data set and writes it to DATA_DIR/NAME/[CONFIG/]VERSION in ArrayRecord format.

  Args:
    name: NAME, NAME/CONFIG or NAME:VERSION of tensorflow-datasets, with or without the "tfds:" of a config.
    data_dir: where to write it, ~/tensorflow_datasets by default; configs take the same folder as `data_dir`.
    manual_dir: a folder with files already downloaded, under the names that they have at their source. They are not
      downloaded again.

  Returns:
    The number of examples by split. A data set that is already prepared is left as it is.

  Raises:
    UserError: TensorFlow is missing, or there is no such data set, or it cannot be downloaded or written.
  """
  name = name.removeprefix("tfds:")
  if importlib.util.find_spec("tensorflow") is None:
    raise UserError(f"preparing {name} needs TensorFlow (reading it will not): pip install 'jaxgen[tfds]'")
  import tensorflow_datasets as tfds

  data_dir = Path(data_dir or tfds.core.constants.DATA_DIR).expanduser()
  if manual_dir is not None:
    manual_dir = Path(manual_dir).expanduser()
    if not manual_dir.is_dir():
      raise UserError(f"there is no folder {manual_dir.absolute()}, which --manual-dir names")
  try:
    data_dir.mkdir(parents=True, exist_ok=True)
    builder = tfds.builder(name, data_dir=data_dir, file_format="array_record")
    # tensorflow-datasets names what it extracts by the archive's file name alone and takes what it finds of that name:
    # in one folder for all, the second of mnist and fashion_mnist would get the first one's images.
    with tempfile.TemporaryDirectory(prefix="extracted-", dir=data_dir) as extract_dir:
      config = tfds.download.DownloadConfig(extract_dir=extract_dir, manual_dir=manual_dir)
      builder.download_and_prepare(download_config=config)
  except tfds.core.DatasetNotFoundError as error:
    raise UserError(
      f"tensorflow-datasets has no data set {name!r}: its names are at https://www.tensorflow.org/datasets/catalog"
    ) from error
  except Exception as error:  # of the network, the disk, the data set's own code and its optional packages
    reason = " ".join(str(error).split()) or type(error).__name__
    raise UserError(
      f"{name} could not be prepared in {data_dir} ({reason[:300]}): what cannot be downloaded from here can be put "
      "into a folder by hand and given as --manual-dir"
    ) from error
  return {split: info.num_examples for split, info in builder.info.splits.items()}
