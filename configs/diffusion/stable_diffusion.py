"""Stable Diffusion 1, 2 and XL: published weights are read, sampled and fine-tuned; a network of inpainting too.

Paper: Rombach et al. 2022, https://arxiv.org/abs/2112.10752 (latent diffusion); Podell et al. 2023,
https://arxiv.org/abs/2307.01952 (SDXL). A U-Net models latents of a frozen KL autoencoder, conditioned on the features
of a frozen text encoder: sqrt(beta) on a line from 0.00085 to 0.012, T = 1000; noise (SD 2 at 768 x 768: v) is
predicted. Samples are guided away from no text, or from a negative one.

    jaxgen import stable-diffusion-v1-5 stable_diffusion --name sd15           a folder of diffusers
    jaxgen import v1-5-pruned.safetensors stable_diffusion --name sd15         a single file
    jaxgen sample runs/sd15 --prompt "a red cat" --negative "blurry" --weight 7.5 --n 4 --size 512x768
    jaxgen train stable_diffusion --pretrained runs/sd15 --learns lora --captions PICTURES --name lora
    jaxgen train stable_diffusion --preset tiny --learns all --captions PICTURES --tokenizer FOLDER

Nothing is downloaded: folder and files are yours. An imported run is sampled, and does not learn.

Expect: parameters: sd1 859,520,964 (U-Net), 83,653,863 (first stage), 123,060,480 (text encoder). Whole pipelines equal
diffusers', step by step, on small random models; published weights were not at hand, so no number of theirs is here
Cost: not measured
"""

from functools import partial
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
import optax

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.errors import UserError
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.data import captioned
from jaxgen.diffusion.grids import leading_by_one
from jaxgen.interop import pretrained as weights
from jaxgen.interop.stable_diffusion import NETWORK, PRESETS, STAGE, Description, built
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.text_to_image import Reader, filled, scaled, told_texts
from jaxgen.nn.lora import LoRA

ENDS = "ddim", "plms", "pndm"  # the solvers that they end at alpha_1, and not at clean data


SETTLED = "model", "parameters"


def settled(arguments: dict) -> dict:
  """A new run's arguments with those that are read of the weights, so that the run no longer needs them."""
  return weights.settled(arguments, PRESETS)


def sides(size: str | None, description: Description) -> tuple[int, int]:
  """Height and width of pictures."""
  parts = (size or f"{description.side}x{description.side}").split("x")
  if len(parts) != 2 or not all(part.isdecimal() and int(part) > 0 for part in parts):
    raise UserError(f"--size {size}: it is height x width in pixels, 512x768 for one")
  height, width = map(int, parts)
  if height % description.factor or width % description.factor:
    fit = "x".join(str(max(1, round(side / description.factor)) * description.factor) for side in (height, width))
    raise UserError(
      f"--size {size}: sides divide by {description.factor}, of which the first stage makes one: {fit} fits"
    )
  return height, width


def experiment(
  pretrained: str | None = None,
  preset: Literal[*PRESETS] = "sd1",
  model: str | None = None,
  tokenizer: str | None = None,
  learns: Literal["nothing", "lora", "all"] = "nothing",
  captions: str | None = None,
  size: str | None = None,
  steps: int = 1_000,
  batch_size: int = 8,
  learning_rate: float = 1e-4,
  rank: int = 4,
  text_dropout: float = 0.1,
  guidance: float = 7.5,
  rescale: float = 0.0,
  solver: diffusion.SolverName = "ddim",
  grid: Literal["published", *get_args(diffusion.GridName)] = "published",
  sampling_steps: int = 50,
  parameters: Literal["float32", "bfloat16", "float16", "float64"] = "float32",
  bfloat16: bool = False,
  remat: bool = False,
) -> Experiment:
  """A text-conditional U-Net on a first stage's latents, for training or for sampling from published weights.

  Args:
    pretrained: where networks come from: a folder of diffusers, a single .safetensors file, or a run of this config.
    preset: sizes and recipe, if no weights are given.
    model: the sizes that were read of weights, as JSON; `jaxgen import` writes it.
    tokenizer: the folder of a tokenizer, or CLIP's merges file; by default that of `pretrained`.
    learns: a low-rank change of the U-Net, the U-Net, or nothing.
    captions: pictures and captions to learn from: a list, a folder or shards, see docs/data.md.
    size: height x width of the pictures, 512x768 for one; by default that of the training.
    rank: of the low-rank change.
    text_dropout: the share of training examples whose text is dropped.
    guidance: the guidance weight of samples, unless --weight is given; 1 means no guidance.
    rescale: how much guided predictions are scaled back to the spread of unguided ones, 0 to 1.
    solver: how samples go from noise to latents.
    grid: the times that the solver visits; "published" is theirs.
    sampling_steps: steps of the solver.
    parameters: the dtype of all parameters; import takes the file's.
    bfloat16: U-Net and first stage compute in half precision.
  """
  d = weights.description(pretrained, model, PRESETS[preset])
  height, width = sides(size, d)
  dtype = jnp.dtype(parameters)
  networks = built(d, jnp.bfloat16 if bfloat16 or parameters == "float16" else dtype, dtype, remat)
  if learns != "nothing" and captions is None:
    raise UserError(f"--learns {learns} needs pictures and captions to learn from: --captions PATH")
  if learns != "nothing" and parameters == "float16":
    raise UserError(
      "gradients and Adam's squares underflow in float16, which these weights are in: --parameters float32"
    )
  length = d.texts[0].context
  tokens = str(tokenizer or weights.tokenizer_of(pretrained) or "none")
  images = captioned.captions(
    captions or "none", tokens, side=(height, width), length=length, vocabulary=d.texts[0].vocabulary
  )
  latent = (height // d.factor, width // d.factor, networks.vae.latent)
  empty = np.full(length, d.texts[0].end, np.int32)
  empty[0] = d.start
  numbers = (height, width, 0, 0, height, width) if d.unet.get("micro") is not None else None
  reader = Reader(networks.encoders, empty, d.zeros, numbers)
  schedule = diffusion.scaled_linear(*d.betas)
  grids = {"published": partial(leading_by_one, last=float(solver in ENDS)), **diffusion.GRIDS}
  frozen = weights.sources(pretrained, d, networks) if pretrained else {}
  base = frozen.pop(NETWORK, None)
  method = gaussian_diffusion(
    networks.unet,
    diffusion.zero_terminal_snr(schedule) if d.zero_snr else schedule,
    Spec(latent),
    optax.set_to_zero() if learns == "nothing" else optimizers.adam(learning_rate, steps, warmup=steps // 20, clip=1.0),
    objective=Objective(diffusion.PREDICTIONS[d.prediction]),
    condition=reader.condition(picture=d.inpaints),
    sampler=Sampler(diffusion.SOLVERS[solver], grids[grid], sampling_steps, False, reader.guidance(rescale)),
    adapter=LoRA(rank) if learns == "lora" else None,
    base=base if learns == "lora" else None,
  )
  if base and learns == "nothing":
    method = method._replace(frozen={NETWORK: base})
  if base and learns == "all":
    whole = lambda: {"params": base.load()}
    method = method._replace(frozen={"pretrained": base._replace(load=whole, starts=(NETWORK,))})
  init, encode, decode = scaled(networks.vae, d.scale, d.shift)
  wide = jnp.promote_types(dtype, jnp.float32)
  method = first_stage(method, init, encode, decode, frozen.pop(STAGE, None))
  if d.inpaints:
    method = filled(method, encode, latent, d.factor)
  method = told_texts(method, reader, text_dropout, frozen, wide)

  def conditions(index):
    told = {"tokens": np.broadcast_to(empty, (len(index), length))}
    return told if guidance == 1 else told | {"weight": np.full(len(index), guidance, np.float32)}

  def check(batch):
    if learns == "nothing":
      raise UserError("this run learns nothing: --learns lora, or all, for a new run with --pretrained this one")

  return Experiment(
    method=method._replace(check=check),
    data=images,
    steps=steps,
    batch_size=batch_size,
    conditions=conditions,
    samples=4,
    sample_chunk=1,
    sample_every=250,
    checkpoint_every=250,
    prompts=weights.prompts(d),
    keeps=weights.kept_tokenizers(tokenizer, pretrained),
  )
