"""unCLIP, DALL-E 2: pictures of texts by way of CLIP's embeddings.

Ramesh et al. 2022, https://arxiv.org/abs/2204.06125. The prior makes a picture's embedding z_i of a text (section 2.2),
the decoder a picture of z_i (section 2.1), and super-resolution models enlarge it. Each is a `gaussian_diffusion`:

    prior      of `embeddings(d)`, predicts x_0, is told `texts(..)`; `better_of` draws two
    decoder    of small pictures, is told `pictures(..)`
    then       `methods.diffusion.cascade`, as in Imagen

DDIM makes noise x_T of a picture. Of x_T and z_i the decoder makes that picture again, and pictures like it where there
is noise on the way, or another z_i (section 3): `variations`, `interpolations`, `text_diffs`.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Key

from jaxgen.core.arrays import per_example, wide
from jaxgen.core.condition import Condition, entries, together
from jaxgen.core.errors import UserError
from jaxgen.core.keys import fold_in
from jaxgen.core.method import Method, State
from jaxgen.core.spec import Spec
from jaxgen.diffusion import Schedule, ddim, editing, sampling
from jaxgen.diffusion.sampling import Denoise
from jaxgen.nn.joint.dual import unit

EMBEDDING, TEXT_EMBEDDING = "embedding", "text_embedding"
DRAW_STREAM = 0xC0000004  # fold_in data of the keys of further draws
Embeddings = Float[Array, "n d"]
Pictures = Float[Array, "n ..."]
Times = Float[np.ndarray | Array, " times"]
DenoiseOf = Callable[[Embeddings], Denoise]  # a decoder, told an embedding


def embeddings(features: int) -> Spec:
  """The spec of the prior's data: CLIP's embeddings of so many entries, times the root of their number."""
  return Spec((features,), feature=EMBEDDING)


def texts(words: int, width: int, features: int, dropout: float = 0.1) -> Condition:
  """The prior's condition: the words' features [T, c], which are there [T], and CLIP's embedding of the text [d].

  All are zero where they are dropped.

  Args:
    words: T.
    width: c.
    features: d.
    dropout: the share of training examples whose text is dropped.
  """
  nothing = {"text": np.zeros((words, width), np.float32), "mask": np.zeros(words, bool)}
  return entries({**nothing, TEXT_EMBEDDING: np.zeros(features, np.float32)}, dropout)


def pictures(words: int, width: int, features: int, dropout: float = 0.1, text_dropout: float = 0.5) -> Condition:
  """The decoder's condition: the words' features, and CLIP's embedding of the picture, dropped independently.

  Args:
    words, width, features: as in `texts`.
    dropout: the share of examples whose embedding is not told in training; section 2.1 has a tenth.
    text_dropout: the share of those whose text is not; section 2.1 has half of them.
  """
  text = {"text": np.zeros((words, width), np.float32), "mask": np.zeros(words, bool)}
  embedding = {EMBEDDING: np.zeros(features, np.float32)}
  return together({"embedding": entries(embedding, dropout), "text": entries(text, text_dropout)})


def better_of(method: Method, draws: int = 2) -> Method:
  """A prior that draws several embeddings and gives the one of the largest dot product with the text's: section 2.2.

  The first draw is that of the method itself.

  Args:
    method: a method of embeddings with the condition "text_embedding".
    draws: the number of draws; the paper has two.

  Raises:
    UserError: there is no draw.
  """
  if draws < 1:
    raise UserError(f"the better of {draws} samples is none: draw 1 or more")

  def sample(state: State, keys: Key[Array, " n"], **asked: Any) -> Embeddings:
    of_draws = jnp.stack([keys, *(fold_in(keys, DRAW_STREAM + number) for number in range(draws - 1))])
    drawn = jax.lax.map(lambda some: method.sample(state, some, **asked), of_draws)  # [draws, N, d]
    likeness = jnp.sum(drawn * jnp.asarray(asked[TEXT_EMBEDDING]), axis=-1)
    return jnp.take_along_axis(drawn, jnp.argmax(likeness, axis=0)[None, :, None], axis=0)[0]

  calls = None if method.network_calls is None else draws * method.network_calls
  facts = {**method.facts, "Draws": f"the better of {draws}, by its dot product with the text's embedding"}
  return method._replace(sample=sample, network_calls=calls, facts=facts)


def slerp(a: Pictures, b: Pictures, share: float | Float[Array, " n"]) -> Pictures:
  """Spherical interpolation, sin((1 - s) w) / sin w a + sin(s w) / sin w b, with w the angle between a and b.

  Each example is one vector, of all its entries. Where a and b have lengths of their own, the result's goes from one's
  to the other's. Where they point the same way or opposite ways, whose plane is not known, it is linear.
  """
  flat = lambda x: wide(x).reshape(len(x), -1)
  cosine = jnp.clip(jnp.sum(unit(flat(a)) * unit(flat(b)), axis=-1), -1, 1)
  angle, share = jnp.arccos(cosine), jnp.asarray(share, cosine.dtype)
  sine = jnp.sin(angle)
  curved = sine > 1e-6
  safe = jnp.where(curved, sine, 1)
  first = jnp.where(curved, jnp.sin((1 - share) * angle) / safe, 1 - share)
  second = jnp.where(curved, jnp.sin(share * angle) / safe, share)
  return (per_example(first, a) * a + per_example(second, b) * b).astype(a.dtype)


def variations(
  schedule: Schedule,
  decoder: DenoiseOf,
  times: Times,
  picture: Pictures,
  embedding: Embeddings,
  keys: Key[Array, " n"],
  eta: float = 1.0,
) -> Pictures:
  """Pictures that share the embedding and, the less eta is, the rest of a picture: section 3.1.

  The picture is inverted to x_T, and decoded again with DDIM(eta). With eta = 0 it comes back, up to the error of the
  steps.

  Args:
    schedule: the decoder's.
    decoder: embeddings [N, d] -> the denoiser conditioned on them.
    times: the time grid, from noise to data.
    picture: pictures [N, ...], as the decoder models them.
    embedding: CLIP's embeddings of them, as the decoder is told.
    keys: one for each.
    eta: of DDIM, 0 to 1.
  """
  denoise = decoder(embedding)
  return sampling.sample(
    ddim(schedule, eta=eta), denoise, times, editing.inverted(schedule, denoise, times, picture), keys
  )


def interpolations(
  schedule: Schedule,
  decoder: DenoiseOf,
  times: Times,
  ends: tuple[Pictures, Pictures],
  embeddings: tuple[Embeddings, Embeddings],
  shares: Float[np.ndarray, " shares"],
  keys: Key[Array, " n"],
) -> Float[Array, "shares n ..."]:
  """Pictures between two: section 3.2. Both the embeddings and the x_T of both ends are interpolated by `slerp`.

  Args:
    ends: pictures [N, ...] at shares 0 and 1.
    embeddings: CLIP's of both.
    shares: where between them, 0 to 1.
    schedule, decoder, times, keys: as in `variations`.
  """
  noise = [editing.inverted(schedule, decoder(z), times, x) for x, z in zip(ends, embeddings, strict=True)]

  def between(share: float) -> Pictures:
    denoise = decoder(slerp(*embeddings, share))
    return sampling.sample(ddim(schedule), denoise, times, slerp(*noise, share), keys)

  return jnp.stack([between(float(share)) for share in shares])


def text_diffs(
  schedule: Schedule,
  decoder: DenoiseOf,
  times: Times,
  picture: Pictures,
  embedding: Embeddings,
  text: Embeddings,
  before: Embeddings,
  shares: Float[np.ndarray, " shares"],
  keys: Key[Array, " n"],
) -> Float[Array, "shares n ..."]:
  """Pictures changed by a text: section 3.3. x_T is the picture's, and its embedding turns towards z_d by `slerp`.

  z_d is the difference of CLIP's embeddings of the text and of one that describes the picture, of the picture's length.

  Args:
    picture: pictures [N, ...].
    embedding: CLIP's embeddings of them.
    text: CLIP's embeddings of what they become.
    before: of what they are: a caption, or the empty text.
    shares: how far to turn; the paper's go to 0.25 .. 0.5.
    schedule, decoder, times, keys: as in `variations`.
  """
  noise = editing.inverted(schedule, decoder(embedding), times, picture)
  length = jnp.sqrt(jnp.sum(wide(embedding) ** 2, axis=-1, keepdims=True))
  difference = (unit(unit(text) - unit(before)) * length).astype(embedding.dtype)

  def turned(share: float) -> Pictures:
    denoise = decoder(slerp(embedding, difference, share))
    return sampling.sample(ddim(schedule), denoise, times, noise, keys)

  return jnp.stack([turned(float(share)) for share in shares])
