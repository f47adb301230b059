import jax
import jax.numpy as jnp
import numpy as np

from jaxgen import data
from jaxgen.core.spec import Spec
from jaxgen.data.augment import crop
from jaxgen.data.transforms import dequantize, flip


def test_data_sets_are_those_that_the_ledger_names():
  """The titles under which docs/ledger.md compares likelihoods."""
  assert data.binarized_mnist().title == "tfds:binarized_mnist"
  assert data.binarized_mnist(drawn="anew").title == "tfds:mnist, binarized anew at every use"
  for once in (data.binarized_mnist("here"), data.binarized_mnist("here", drawn="anew")):
    assert once.spec == Spec((28, 28, 1), 2, None, "image", jnp.float32)
    assert set(once.features) == {"image"}
    assert once.data_dir == "here"
  assert data.mnist(train="train[:50000]").train == "train[:50000]"
  assert data.mnist().spec == Spec((28, 28, 1), 256, 10, "image", jnp.float32)
  assert data.cifar10(classes=False, transforms=(dequantize(),)).spec == Spec(
    (32, 32, 3), 256, None, "image", jnp.float32
  )


def test_imagenet_is_scaled_augmented_and_standardized():
  pictures = data.imagenet(size=8, augment=(crop(2), flip()))
  assert (pictures.name, pictures.train, pictures.test) == ("tfds:imagenet2012", "train", "validation")
  assert pictures.spec == Spec((8, 8, 3), 256, 1000, "image", jnp.float32)
  raw = {"image": np.full((2, 8, 8, 3), 255, np.uint8), "label": np.arange(2), "index": np.arange(2)}
  see = lambda dataset: dataset.transform(jax.random.key(0), raw, False)["image"][0, 0, 0]
  # White, by the means and standard deviations that torchvision's weights were trained with.
  np.testing.assert_allclose(see(pictures), [(1 - 0.485) / 0.229, (1 - 0.456) / 0.224, (1 - 0.406) / 0.225], rtol=1e-5)
  np.testing.assert_array_equal(see(data.imagenet(size=8, standardized=False)), 1)
  mixed = data.imagenet(size=8, augment=data.deit_augment())
  assert mixed.batch_spec(2)["label"].shape == (2, 1000)
  assert mixed.batch_spec(2, train=False)["label"].shape == (2,)
