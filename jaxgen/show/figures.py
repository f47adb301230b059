"""Figures: functions of a run that return files by name: pictures, sounds or texts that show the trained model.

    Experiment(..., figures=(attention(network),))

They are drawn at the end of training into the run's folder `figures/`, and shown in its report.
"""

import io
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from jaxgen.core import pictures
from jaxgen.core.keys import root
from jaxgen.data.dataset import Dataset
from jaxgen.engine.experiment import AnyRun, Figure
from jaxgen.evaluation.long_run import LongRun

Render = Callable[[Any, Mapping[str, Any]], dict[str, bytes]]


def png_of(draw: Callable[[Any], None], *, size: tuple[float, float] = (6.0, 4.0)) -> bytes:
  """A matplotlib figure as a PNG file.

  Args:
    draw: fills the figure that it is given.
    size: width and height in inches, of 150 px.
  """
  from matplotlib.backends.backend_agg import FigureCanvasAgg
  from matplotlib.figure import Figure as Canvas

  figure = Canvas(figsize=size, dpi=150, layout="constrained")
  FigureCanvasAgg(figure)
  draw(figure)
  file = io.BytesIO()
  figure.savefig(file, format="png")
  return file.getvalue()


def attention(
  network: Any, words: Callable[[Int[np.ndarray, "t"]], Sequence[str]], *, start: int, end: int, examples: int = 4
) -> Figure:
  """Where a recurrent decoder looks while it writes, as in Bahdanau et al. 2014, Figure 3: {"attention.png"}.

  Each picture has one of the test split's first sources from left to right, and the run's output for it from top to
  bottom.

  Args:
    network: `nn.sequence.seq2seq.Seq2Seq`, the run's "network".
    words: tokens -> the labels of the axes.
    start, end: tokens that start and end a sequence.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax.numpy as jnp

    source = run.data.source("test").gather(np.arange(examples))["source"]
    target = run.sample(examples, source=source)
    read = jnp.pad(jnp.asarray(target)[:, :-1], ((0, 0), (1, 0)), constant_values=start)
    params = run.state.averaged()
    seen = source != 0
    _, weights = network.apply({"params": params}, source, read, seen, method="attend")

    def panels(figure: Any) -> None:
      rows = (examples + 1) // 2
      for i, axes in enumerate(figure.subplots(rows, 2, squeeze=False).flat):
        if i == examples:
          axes.axis("off")
          continue
        width = int(seen[i].sum())
        ends = np.flatnonzero(target[i] == end)
        height = int(ends[0]) + 1 if len(ends) else target.shape[1]
        axes.imshow(np.asarray(weights[i, :height, :width]), cmap="gray", vmin=0, vmax=1)
        axes.set_xticks(range(width), words(source[i, :width]), rotation=90, fontsize=7)
        axes.set_yticks(range(height), words(target[i, :height]), fontsize=7)

    return {"attention.png": png_of(panels, size=(9.0, 4.5 * ((examples + 1) // 2)))}

  return draw


def letters(tokens: Int[np.ndarray, "t"]) -> list[str]:
  """Tokens of the data set `reversed:26`: letters from 3 on, and an end."""
  return [chr(ord("a") + token - 3) if token > 2 else "." for token in tokens.tolist()]


def pieces(data: Dataset) -> Callable[[Int[np.ndarray, "t"]], list[str]]:
  """Tokens of a data set of sentences in pairs, as the pieces of words that they are."""

  def words(tokens: np.ndarray) -> list[str]:
    from jaxgen.data import text

    piece = lambda token: text.decode(data.name, np.array([[token]]))[0]
    return ["." if token == text.END else piece(token) for token in tokens.tolist()]

  return words


def translations(data: Dataset) -> Render:
  """Renders samples of a translator with the sentences that they translate: {".txt"}."""

  def render(samples: Int[np.ndarray, "n t"], conditions: Mapping[str, Any]) -> dict[str, bytes]:
    from jaxgen.data import text

    both = zip(text.decode(data.name, conditions["source"]), text.decode(data.name, samples), strict=True)
    return {".txt": "\n\n".join(f"{source}\n{target}" for source, target in both).encode()}

  return render


def sources(data: Dataset, split: str = "test") -> Callable[[Int[np.ndarray, "n"]], dict[str, np.ndarray]]:
  """The conditions of sample i: the i-th source of a split, from the first again after the last."""

  def conditions(index: np.ndarray) -> dict[str, np.ndarray]:
    found = data.source(split)
    return {"source": found.gather(index % len(found))["source"]}

  return conditions


def examples_of(data: Dataset, count: int, split: str = "test") -> Float[np.ndarray, "n h w c"]:
  """Images of a split, as a method sees them, spread evenly over it: some splits are sorted by class."""
  from jaxgen.data import real

  total = len(data.source(split))
  chosen = np.unique(np.linspace(0, total - 1, min(count, total)).round().astype(int))
  return np.concatenate(list(real.images(data, split, chosen)))


def reconstructions(reconstruct: Callable[[Any, Any], Any], count: int = 36, columns: int = 12) -> Figure:
  """Test images, and below each its reconstruction by an autoencoder: {"reconstructions.png"}.

  Args:
    reconstruct: (state, images [n, H, W, C]) -> images.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    images = examples_of(run.data, count)
    found = np.asarray(jax.jit(reconstruct)(run.state, images))
    blank = np.zeros((-len(images) % columns, *images.shape[1:]), images.dtype)
    rows = [np.concatenate([x, blank]).reshape(-1, columns, *images.shape[1:]) for x in (images, found)]
    both = np.stack(rows, axis=1).reshape(-1, *images.shape[1:])
    return {"reconstructions.png": pictures.png(pictures.grid(both, columns))}

  return draw


def traversals(
  encode: Callable[[Any, Any], Any],
  decode: Callable[[Any, Any], Any],
  dimensions: int = 10,
  steps: int = 11,
  span: float = 3.0,
) -> Figure:
  """The effect of single latent dimensions on an image: {"traversals.png"}.

  In each row one dimension of the first test image's z goes from -span to span. The rows are the dimensions that vary
  most over a thousand test images, the first above: those that are in use.

  Args:
    encode: (state, images [n, H, W, C]) -> z [n, d].
    decode: (state, z [n, d]) -> images.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    z = np.asarray(jax.jit(encode)(run.state, examples_of(run.data, 1_000)))
    used = np.argsort(-z.var(axis=0), kind="stable")[:dimensions]
    moved = np.tile(z[0], (len(used), steps, 1))
    for row, dimension in enumerate(used):
      moved[row, :, dimension] = np.linspace(-span, span, steps)
    images = np.asarray(jax.jit(decode)(run.state, moved.reshape(-1, z.shape[1])))
    return {"traversals.png": pictures.png(pictures.grid(images, steps))}

  return draw


def manifold(decode: Callable[[Any, Any], Any], side: int = 20) -> Figure:
  """The images of a two-dimensional latent space: Kingma and Welling 2013, Figure 4; {"manifold.png"}.

  Coordinates evenly spaced in the unit square go through the inverse of the Gaussian's distribution function, so that
  each tile stands for the same share of the prior. z_1 grows to the right and z_2 upward.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax
    from scipy.special import ndtri

    line = ndtri((np.arange(side) + 0.5) / side).astype(np.float32)
    z = np.stack(np.meshgrid(line, line[::-1]), axis=-1).reshape(-1, 2)
    images = np.asarray(jax.jit(decode)(run.state, z))
    return {"manifold.png": pictures.png(pictures.grid(images, side))}

  return draw


def interpolations(
  encode: Callable[[Any, Any], Any], decode: Callable[[Any, Any], Any], rows: int = 8, steps: int = 10
) -> Figure:
  """Between pairs of test images, along a straight line of their latents: {"interpolations.png"}.

  The ends of each row are the images themselves, decoded.

  Args:
    encode: (state, images [n, H, W, C]) -> latents [n, ...].
    decode: (state, latents) -> images.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    z = np.asarray(jax.jit(encode)(run.state, examples_of(run.data, 2 * rows)))
    first, last = z[0::2, None], z[1::2, None]
    way = np.linspace(0, 1, steps, dtype=z.dtype).reshape(1, steps, *[1] * (z.ndim - 1))
    between = ((1 - way) * first + way * last).reshape(-1, *z.shape[1:])
    return {"interpolations.png": pictures.png(pictures.grid(np.asarray(jax.jit(decode)(run.state, between)), steps))}

  return draw


def latent_interpolations(
  generate: Callable[[Any, Any, Any], Any], latent: int, rows: int = 8, steps: int = 10, classes: int | None = None
) -> Figure:
  """Between pairs of latents, on the great circle through them: {"latent_interpolations.png"}; White 2016.

  https://arxiv.org/abs/1609.04468: on a straight line between two normal latents lie shorter ones, which are never
  drawn. Row i has the class i % classes.

  Args:
    generate: (state, z [n, latent], labels [n] or None) -> images.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    first, last = np.random.default_rng(0).normal(size=(2, rows, latent))
    norms = [np.linalg.norm(v, axis=1) for v in (first, last)]
    angle = np.arccos(np.clip((first * last).sum(1) / (norms[0] * norms[1]), -1, 1))[:, None, None]
    way = np.linspace(0, 1, steps)[:, None]
    z = (np.sin((1 - way) * angle) * first[:, None] + np.sin(way * angle) * last[:, None]) / np.sin(angle)
    label = None if classes is None else np.repeat(np.arange(rows) % classes, steps)
    images = jax.jit(generate)(run.state, z.reshape(-1, latent).astype(np.float32), label)
    return {"latent_interpolations.png": pictures.png(pictures.grid(np.asarray(images), steps))}

  return draw


def density(log_density: Callable[[Any, Any], Any], low: float, high: float, side: int = 200) -> Figure:
  """A density of points in the square from low to high, brighter where it is larger: {"density.png"}.

  Args:
    log_density: (state, x [n, 2]) -> [n] nats.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    line = np.linspace(low, high, side, dtype=np.float32)
    x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    p = np.exp(np.asarray(jax.jit(log_density)(run.state, x))).reshape(side, side)

    def panel(figure: Any) -> None:
      axes = figure.subplots()
      # Of the root, so that faint bridges between the modes are seen.
      axes.imshow(np.sqrt(p), origin="lower", extent=(low, high, low, high), cmap="magma")

    return {"density.png": png_of(panel, size=(5.0, 5.0))}

  return draw


def scatter(low: float, high: float) -> Render:
  """Renders samples that are points in the plane, those in the square from low to high: {".png"}."""

  def render(samples: Float[np.ndarray, "n 2"], conditions: Mapping[str, Any]) -> dict[str, bytes]:
    def panel(figure: Any) -> None:
      axes = figure.subplots()
      axes.scatter(*samples.T, s=2)
      axes.set(xlim=(low, high), ylim=(low, high), aspect="equal")

    return {".png": png_of(panel, size=(5.0, 5.0))}

  return render


def landscape(
  energy: Callable[[Any, Any], Any], low: float, high: float, span: float = 10.0, side: int = 200
) -> Figure:
  """An energy of points in the square from low to high, darker where it is lower: {"landscape.png"}.

  Energies more than `span` nats above the lowest have the brightest colour.

  Args:
    energy: (state, x [n, 2]) -> [n] nats.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    line = np.linspace(low, high, side, dtype=np.float32)
    x = np.stack(np.meshgrid(line, line), axis=-1).reshape(-1, 2)
    U = np.asarray(jax.jit(energy)(run.state, x)).reshape(side, side)

    def panel(figure: Any) -> None:
      axes = figure.subplots()
      shown = axes.contourf(line, line, np.minimum(U - U.min(), span), levels=np.linspace(0, span, 21), cmap="magma")
      axes.set(aspect="equal")
      figure.colorbar(shown, label="nats above the lowest")

    return {"landscape.png": png_of(panel, size=(6.0, 5.0))}

  return draw


def long_run(runs: Callable[[AnyRun], LongRun], times: int = 12) -> Figure:
  """Where long chains go, from data and from noise: {"long_run_energy.png"}, and of images {"long_run_chains.png"}.

  The first has the energies over steps, median and 10 to 90 %. In the second every row is a chain, from left to right
  at steps 0, 1 and so on in even ratios up to the last; above those that began with data, below those from noise.

  Args:
    runs: from `jaxgen.evaluation.long_run.long_runs`.
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    found = runs(run)

    def panel(figure: Any) -> None:
      axes = figure.subplots()
      for start, energy in found.energy.items():
        low, middle, high = np.quantile(energy, [0.1, 0.5, 0.9], axis=1)
        steps = np.arange(len(energy))
        axes.plot(steps, middle, label=f"from {start}")
        axes.fill_between(steps, low, high, alpha=0.3)
      axes.set(xlabel="steps", ylabel="energy, nats", xscale="symlog")
      axes.legend()

    files = {"long_run_energy.png": png_of(panel)}
    some = found.x["data"]
    if some.ndim == 5:
      steps = len(some) - 1
      chosen = np.unique(np.concatenate([[0], np.geomspace(1, steps, times - 1)]).round().astype(int))
      rows = [found.x[start][chosen].swapaxes(0, 1).reshape(-1, *some.shape[2:]) for start in found.x]
      files["long_run_chains.png"] = pictures.png(pictures.grid(np.concatenate(rows), len(chosen)))
    return files

  return draw


def filters(weights: Callable[[Any], Any], count: int = 100) -> Figure:
  """The weights of the first hidden units, each on its own scale, positive ones bright: {"filters.png"}.

  Args:
    weights: state -> [hidden, H, W, C].
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    w = np.asarray(weights(run.state), np.float32)[:count]
    largest = np.abs(w).max(axis=(1, 2, 3), keepdims=True)
    return {"filters.png": pictures.png(pictures.grid(w / np.where(largest > 0, largest, 1)))}

  return draw


def chains(walk: Callable[[Any, Any, Any], Any], count: int = 12, seed: int = 0) -> Figure:
  """Where Markov chains go that start from test images, each from left to right, the image first: {"chains.png"}.

  Args:
    walk: (state, images [n, H, W, C], keys [n]) -> images [frames, n, H, W, C].
  """

  def draw(run: AnyRun) -> dict[str, bytes]:
    import jax

    images = examples_of(run.data, count)
    frames = np.asarray(jax.jit(walk)(run.state, images, jax.random.split(root(seed, "chains"), len(images))))
    both = np.concatenate([images[None], frames])
    return {"chains.png": pictures.png(pictures.grid(both.swapaxes(0, 1).reshape(-1, *images.shape[1:]), len(both)))}

  return draw
