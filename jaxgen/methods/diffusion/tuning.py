"""Fine-tuning of a part of a trained network, while the rest is frozen.

    adapter=LoRA(4)                                low-rank changes of its kernels               `nn.lora`
    adapter=Control()                              a ControlNet beside its U-Net
    adapter=Token(1_000, like=17)                  textual inversion: one new word
    adapter=Part("unet")                           a part of it, as the U-Net without its text tower

Each is an argument of `gaussian_diffusion`, together with `base`, the source of the network's values. The rest is the
frozen entry "network" of `params`, and the trained part is another entry, with the adapter's name. Prior preservation,
DreamBooth's, is another argument, `prior`: it goes with an adapter or without one.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple, Protocol, runtime_checkable

import flax
import jax.numpy as jnp
from jaxtyping import Array

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen, Params
from jaxgen.nn.unets import controlnet

COPY = "copy"  # a source that trained parameters start from, which is not kept
EMBEDDING = "text/embedding/table"


@runtime_checkable
class Adapter(Protocol):
  """The trained part of a network, and how the network's parameters follow from it.

  Attributes:
    name: its entry of `params`.
    copied: of a base's parameters, those that the trained ones start from; None: they start as `split` makes them.
  """

  name: str
  copied: Callable[[Params], Params] | None

  def split(self, key: Array, params: Params) -> tuple[Params, Params]:
    """(the frozen part of a network's parameters, the trained part), from its initial parameters."""

  def merged(self, params: Params, trained: Params) -> Params:
    """The network's parameters, from the frozen and the trained part."""


class Part(NamedTuple):
  """A part of the network, which starts from the base's; the rest stays.

  Attributes:
    name: the part's, and its entry of `params`: "unet" of a `TextUNet`.
  """

  name: str

  def split(self, key: Array, params: Params) -> tuple[Params, Params]:
    """See `Adapter`. Raises a UserError if there is no such part, it is the whole network, or it has its name."""
    if self.name == "network":
      raise UserError("what stays is called 'network' here, and a part that is trained cannot be: name it otherwise")
    if self.name not in params or len(params) == 1:
      raise UserError(f"the network's parts are {', '.join(params)}, and {self.name!r} is to be trained: change it")
    return {name: value for name, value in params.items() if name != self.name}, params[self.name]

  def merged(self, params: Params, trained: Params) -> Params:
    return {**{name: value for name, value in params.items() if name != self.name}, self.name: trained}

  def copied(self, base: Params) -> Params:
    return base[self.name]


class Control(NamedTuple):
  """A ControlNet, the part "control", which starts as a copy of the U-Net: Zhang et al. 2023, section 3.1.

  https://arxiv.org/abs/2302.05543. The convolutions around it start at zero, and so the network's output is the base's.

  Attributes:
    unet: the U-Net's name among the network's parts, "unet" of a `TextUNet`, "network" of a `Controlled`.
  """

  unet: str = "unet"
  name = "control"

  def split(self, key: Array, params: Params) -> tuple[Params, Params]:
    """See `Adapter`. Raises a UserError where the network has no ControlNet."""
    kept, control = Part(self.name).split(key, params)
    return kept, controlnet.started(control, params[self.unet])

  def merged(self, params: Params, trained: Params) -> Params:
    return {**params, self.name: trained}

  def copied(self, base: Params) -> Params:
    return controlnet.shared(base[self.unet])


class Token(NamedTuple):
  """Textual inversion: Gal et al. 2022, https://arxiv.org/abs/2208.01618, eq. 2: one new word's embedding is trained.

  Trained is its distance v - v_0 from the embedding v_0 of a word that is alike, from which it starts. No other row of
  the table changes.

  Attributes:
    token: the new word.
    like: the word that it starts from; None: the new word's row.
    table: the path of the table of embeddings.
  """

  token: int
  like: int | None = None
  table: str = EMBEDDING
  name = "token"
  copied = None

  def split(self, key: Array, params: Params) -> tuple[Params, Params]:
    """See `Adapter`. Raises a UserError if there is no such table or row."""
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    if self.table not in flat:
      raise UserError(f"the network has no table of embeddings {self.table!r}: name the path of one")
    table = flat[self.table]
    for token in (self.token, self.token if self.like is None else self.like):
      if not 0 <= token < len(table):
        raise UserError(f"the table of embeddings has tokens 0 to {len(table) - 1}, not {token}: raise its vocabulary")
    return params, {"away": jnp.zeros(table.shape[1:], table.dtype)}

  def merged(self, params: Params, trained: Params) -> Params:
    flat = flax.traverse_util.flatten_dict(params, sep="/")
    table = flat[self.table]
    row = table[self.token if self.like is None else self.like] + trained["away"]
    return flax.traverse_util.unflatten_dict({**flat, self.table: table.at[self.token].set(row)}, sep="/")


def sources(adapter: Adapter, base: Frozen | None) -> dict[str, Frozen]:
  """The `frozen` of a method: where what stays comes from, and what trained parameters start from.

  Args:
    adapter: what is trained.
    base: where the parameters of the whole network are; None: all stays as it is initialised.
  """
  if base is None:
    return {}
  load = functools.cache(base.load)
  stays = lambda: {name: value for name, value in load().items() if name != adapter.name}
  found = {"network": Frozen(base.source, stays)}
  if adapter.copied is not None:
    found[COPY] = Frozen(base.source, lambda: {"params": adapter.copied(load())}, starts=(adapter.name,))
  return found
