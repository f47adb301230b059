"""First stages of large pictures, tile by tile: memory is that of one tile, as in diffusers' `enable_tiling`.

Tiles overlap by a quarter, where they are blended linearly. Each tile is normalised and
attended to by itself, so the result is not that of the whole picture, but near.

    latents(Tiled(KLAutoencoder(), 512), kl())        wherever a first stage's network is taken: `core.wrappers`
"""

from collections import defaultdict
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from jaxgen.core.errors import UserError

OVERLAP = 0.25


class Tiled(NamedTuple):
  """A first stage's network, whose `encode` and `decode` go tile by tile where a picture is larger than a tile.

  Attributes:
    network: a `KLAutoencoder` or `VQAutoencoder`, or one that is called like them.
    tile: a tile's side in pixels.
  """

  network: Any
  tile: int

  @property
  def factor(self) -> int:
    """Pixels of a latent's side."""
    return 2 ** (len(self.network.multipliers) - 1)

  def init(self, *args: Any, **options: Any) -> PyTree:
    return self.network.init(*args, **options)

  def apply(self, variables: PyTree, x: Array, method: str | None = None) -> PyTree:
    """As the network's; without a method a picture, of the mean of its latents.

    Raises:
      UserError: a tile that the network does not divide, or whose overlap it does not.
    """
    of = lambda x, method: self.network.apply(variables, x, method=method)
    if self.tile < 1 or self.tile % (4 * self.factor):
      raise UserError(
        f"tiles of {self.tile} pixels do not divide by {4 * self.factor}, four latents: take a multiple of that"
      )
    if method == "encode":
      return tiled(lambda x: of(x, "encode"), x, self.tile, self.tile // self.factor)
    if method == "decode":
      return tiled(lambda z: of(z, "decode"), x, self.tile // self.factor, self.tile)
    if method is not None:
      return of(x, method)
    z = self.apply(variables, x, "encode")
    return self.apply(variables, z[0] if isinstance(z, tuple) else z, "decode")


def tiled(
  of: Callable[[Array], PyTree], x: Float[Array, "batch height width channels"], tile: int, made: int
) -> PyTree[Float[Array, "batch h w c"]]:
  """of(x), tile by tile; tiles at the lower and right ends may be smaller. Tiles of one size are one compiled loop.

  Args:
    of: of tiles [B, h, w, C] -> a tree of arrays [B, made / tile h, made / tile w, ..].
    x: the whole.
    tile, made: a tile's side before and after.
  """
  height, width = x.shape[1:3]
  if height <= tile and width <= tile:
    return of(x)
  step = tile - int(tile * OVERLAP)
  rows, columns = range(0, height, step), range(0, width, step)
  sizes = defaultdict(list)
  for i in rows:
    for j in columns:
      sizes[min(tile, height - i), min(tile, width - j)].append((i, j))
  found, zero = {}, jnp.asarray(0)
  for (h, w), places in sizes.items():
    cut = lambda at, h=h, w=w: of(jax.lax.dynamic_slice(x, (zero, at[0], at[1], zero), (len(x), h, w, x.shape[3])))
    several = jax.lax.map(cut, jnp.asarray(places))
    found |= {place: jax.tree.map(lambda y, n=n: y[n], several) for n, place in enumerate(places)}
  blend, kept = int(made * OVERLAP), made - int(made * OVERLAP)

  def joined(place: Callable[[int, int], Array]) -> Array:
    above, lines = {}, []
    for i in rows:
      line, left = [], None
      for j in columns:
        y = place(i, j)
        y = y if i == 0 else over(above[j], y, blend, 1)
        y = y if left is None else over(left, y, blend, 2)
        above[j] = left = y
        line.append(y[:, :kept, :kept])
      lines.append(jnp.concatenate(line, axis=2))
    return jnp.concatenate(lines, axis=1)

  leaves = {place: jax.tree.leaves(y) for place, y in found.items()}
  tree = jax.tree.structure(found[0, 0])
  return tree.unflatten(joined(lambda i, j, n=n: leaves[i, j][n]) for n in range(tree.num_leaves))


def over(a: Array, b: Array, extent: int, axis: int) -> Array:
  """b, whose first entries along the axis are blended with a's last ones, from a to b in equal steps."""
  extent = min(a.shape[axis], b.shape[axis], extent)
  share = (jnp.arange(extent, dtype=b.dtype) / extent).reshape(-1, *[1] * (b.ndim - 1 - axis))
  end = jax.lax.slice_in_dim(a, a.shape[axis] - extent, a.shape[axis], axis=axis)
  start = jax.lax.slice_in_dim(b, 0, extent, axis=axis)
  rest = jax.lax.slice_in_dim(b, extent, b.shape[axis], axis=axis)
  return jnp.concatenate([end * (1 - share) + start * share, rest], axis=axis)
