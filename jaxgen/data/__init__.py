"""Data: sources with random access, transforms on the device, batches that are a function of the step."""

from jaxgen.data.dataset import Dataset, binarized, digits, images

__all__ = ["Dataset", "binarized", "digits", "images"]
