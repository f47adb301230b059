"""PixelCNN and gated PixelCNN: van den Oord et al. 2016, https://arxiv.org/abs/1601.06759 and
https://arxiv.org/abs/1606.05328.

A pixel's colours are drawn one after the other: red depends on the pixels before, green also on red, and blue on both.
The channels of every layer are divided among the colours. A colour's channels see the channels of the colours before it
("mask A", in the first layer) and also their own ("mask B", in the others).
"""

from typing import Any

import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, Int

from jaxgen.core.errors import check_sizes
from jaxgen.nn.blocks.causal import At, Map, Window, colors_mask, stepper, whole
from jaxgen.nn.blocks.embeddings import check_label
from jaxgen.nn.blocks.layers import Dense, Dtype

Labels = Int[Array, "batch"] | None
Parameters = Float[Array, "batch height width colors outputs"]


def _mask(size: int, own: bool, inputs: int, outputs: int, colors: int) -> Float[np.ndarray, "rows size i o"]:
  """The mask of a window of rows above and the own row: all positions before the centre, and colours at the centre."""
  mask = np.ones((size // 2 + 1, size, inputs, outputs), np.float32)
  mask[-1, size // 2 + 1 :] = 0
  mask[-1, size // 2] = colors_mask(own, inputs, outputs, colors)
  return mask


class PixelCNN(nn.Module):
  """Masked convolutions; van den Oord et al. 2016a, section 3.3 to 3.5 and Table 1.

  It has a blind spot: a pixel does not see pixels above and to the right by more than one column for each row (beyond
  the first window). `GatedPixelCNN` has none.

  Attributes:
    outputs: number of parameters of a colour: 256 logits, or 1 for binary images.
    features: h; the residual blocks have 2 h channels. In the paper 128 for CIFAR-10.
    layers: number of residual blocks; in the paper 15 for CIFAR-10.
    head: width of the two layers before the last; in the paper 1024 for natural images, 32 for MNIST.
    first, kernel: sides of the first window and of the blocks' windows.
  """

  outputs: int
  features: int = 32
  layers: int = 7
  head: int = 32
  first: int = 7
  kernel: int = 3
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def __call__(self, x: Map, index: Labels = None) -> Float[Array, "batch k {self.outputs}"]:
    """Raises a UserError for sizes of 0."""
    sizes = dict(outputs=self.outputs, features=self.features, head=self.head, first=self.first, kernel=self.kernel)
    check_sizes("PixelCNN", **sizes)
    return whole(self, x, None, index)

  def vertical(self, x: Map, label: Labels = None, index: Labels = None, at: At | None = None) -> list:
    return []

  @nn.compact
  def horizontal(
    self, x: Map, maps: list, label: Labels = None, index: Labels = None, at: At | None = None
  ) -> Parameters:
    colors = x.shape[-1]

    def masked(name: str, h: Map, features: int, size: int = 1, own: bool = True, image: bool = False) -> Map:
      far = size // 2
      mask = _mask(size, own, h.shape[-1], features, colors)
      window = Window(features, (-far, 0), (-far, far), mask=mask, image=image, name=name, **self._dtypes())
      return window(h, at)

    h = masked("first", x, 2 * self.features, self.first, own=False, image=True)
    for i in range(self.layers):
      y = masked(f"in_{i}", nn.relu(h), self.features)
      y = masked(f"conv_{i}", nn.relu(y), self.features, self.kernel)
      h = h + masked(f"out_{i}", nn.relu(y), 2 * self.features)
    h = masked("head_1", nn.relu(h), self.head)
    h = masked("head_2", nn.relu(h), self.head)
    h = masked("parameters", nn.relu(h), colors * self.outputs)
    return h.reshape(*h.shape[:3], colors, self.outputs)

  def _dtypes(self) -> dict[str, Any]:
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)

  def stepper(self, params: Any, x: Map):
    return stepper(self, params, x, x.shape[-1])


def _gate(h: Map) -> Map:
  a, b = jnp.split(h, 2, axis=-1)
  return jnp.tanh(a) * nn.sigmoid(b)


class _Stack(nn.Module):
  """Settings that the two stacks share: see `GatedPixelCNN`."""

  features: int
  layers: int
  first: int
  kernel: int
  classes: int | None
  dtype: Dtype
  param_dtype: Dtype

  def dtypes(self) -> dict[str, Any]:
    return dict(dtype=self.dtype, param_dtype=self.param_dtype)

  def far(self, layer: int) -> int:
    return (self.kernel if layer else self.first) // 2

  def of_class(self, layer: int, label: Labels, h: Map) -> Map:
    """Adds the class's bias to h."""
    if label is None:
      return h
    one_hot = nn.one_hot(label, self.classes, dtype=h.dtype)
    return h + Dense(h.shape[-1], use_bias=False, name=f"label_{layer}", **self.dtypes())(one_hot)[:, None, None]


class _Vertical(_Stack):
  @nn.compact
  def __call__(self, x: Map, label: Labels, at: At | None) -> list[Map]:
    """The maps of the rows above that each layer of the horizontal stack receives."""
    h, maps = x, []
    for i in range(self.layers):
      far, last = self.far(i), 0 if i else -1  # the first window sees the rows above x's; its output is of those
      window = Window(2 * self.features, (-far, last), (-far, far), image=i == 0, name=f"conv_{i}", **self.dtypes())
      h = window(h, at)
      maps.append(Dense(2 * self.features, name=f"across_{i}", **self.dtypes())(h))
      h = _gate(self.of_class(i, label, h))
    return maps


class _Horizontal(_Stack):
  outputs: int
  head: int

  @nn.compact
  def __call__(self, x: Map, maps: list[Map], label: Labels, at: At | None) -> Parameters:
    colors, h = x.shape[-1], x

    def masked(name: str, h: Map, features: int) -> Map:
      mask = colors_mask(True, h.shape[-1], features, colors)
      return Window(features, (0, 0), (0, 0), mask=mask, name=name, **self.dtypes())(h, at)

    for i in range(self.layers):
      far = self.far(i)
      mask = np.ones((1, far + 1, h.shape[-1], 2 * self.features), np.float32)
      mask[0, -1] = colors_mask(i > 0, *mask.shape[2:], colors, gates=2)
      window = Window(2 * self.features, (0, 0), (-far, 0), mask=mask, image=i == 0, name=f"conv_{i}", **self.dtypes())
      y = masked(f"out_{i}", _gate(self.of_class(i, label, window(h, at) + maps[i])), self.features)
      h = h + y if i else y
    h = masked("head", nn.relu(h), self.head)
    h = masked("parameters", nn.relu(h), colors * self.outputs)
    return h.reshape(*h.shape[:3], colors, self.outputs)


class GatedPixelCNN(nn.Module):
  """Two stacks without a blind spot, and gates; van den Oord et al. 2016b, section 2 and Figure 2.

  The vertical stack sees all rows above. The horizontal stack sees its own row up to the pixel, and the vertical
  stack's maps. Here the first window of the vertical stack includes the paper's shift down, so that a position of that
  stack never sees its own row of the image.

  Attributes:
    outputs: number of parameters of a colour.
    features: channels of each stack.
    layers: number of gated layers.
    head: width of the layer before the last.
    first, kernel: sides of the first window and of the others.
    classes: number of classes of a class-conditional network. Each layer has a bias for each class (eq. 4).
  """

  outputs: int
  features: int = 128
  layers: int = 15
  head: int = 1024
  first: int = 7
  kernel: int = 3
  classes: int | None = None
  dtype: Dtype = jnp.float32
  param_dtype: Dtype = jnp.float32

  def setup(self):
    shared = (self.features, self.layers, self.first, self.kernel, self.classes, self.dtype, self.param_dtype)
    self.above = _Vertical(*shared)
    self.beside = _Horizontal(*shared, self.outputs, self.head)

  def __call__(self, x: Map, label: Labels = None, index: Labels = None) -> Float[Array, "batch k {self.outputs}"]:
    """Parameters of all colours of all pixels, in the order in which they are drawn.

    Raises:
      UserError: a size is 0, or a label is given without `classes`, or the reverse.
    """
    sizes = dict(outputs=self.outputs, features=self.features, layers=self.layers, head=self.head)
    check_sizes("a gated PixelCNN", **sizes, first=self.first, kernel=self.kernel)
    check_label(label, self.classes)
    return whole(self, x, label, index)

  def vertical(self, x: Map, label: Labels = None, index: Labels = None, at: At | None = None) -> list[Map]:
    return self.above(x, label, at)

  def horizontal(
    self, x: Map, maps: list[Map], label: Labels = None, index: Labels = None, at: At | None = None
  ) -> Parameters:
    return self.beside(x, maps, label, at)

  def stepper(self, params: Any, x: Map, label: Labels = None):
    return stepper(self, params, x, x.shape[-1], label)
