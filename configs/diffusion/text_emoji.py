"""Text to emoji: a diffusion model of pictures that is conditioned on their names, and its fine-tuning.

Paper: Rombach et al. 2022, https://arxiv.org/abs/2112.10752, section 3.3 (attention to the text; pixels here, not
latents); Zhang et al. 2023, https://arxiv.org/abs/2302.05543 (ControlNet: conditioned on a picture's outline);
Hu et al. 2021, https://arxiv.org/abs/2106.09685 (LoRA: the style that the model never saw); Gal et al. 2022,
https://arxiv.org/abs/2208.01618 (textual inversion: one new word for that style, of five pictures); Ruiz et al. 2022,
https://arxiv.org/abs/2208.12242 (DreamBooth with prior preservation: the U-Net, of a user's own pictures)

    jaxgen train text_emoji --file emoji_32.npz
    jaxgen train controlnet_emoji --file emoji_32.npz --base runs/text_emoji
    jaxgen train lora_emoji --file emoji_32.npz --base runs/text_emoji
    jaxgen train inversion_emoji --file emoji_32.npz --base runs/text_emoji
    jaxgen train dreambooth_emoji --file subject.npz --base runs/text_emoji

Fine-tuning starts from --base, whose network does not change and is saved once with the new run. The first model
learns the styles noto and emojitwo; LoRA and the new word learn blob. Sample i is conditioned on the name of test
picture i, and with DreamBooth, whose file `data.captioned.with_prior` describes, on that of its picture i.

Expect: no numbers; the quality of samples is not measured
Cost: not measured
"""

from typing import Literal

import jax
import numpy as np

from jaxgen import Experiment, diffusion, optimizers
from jaxgen.core.condition import entries, together
from jaxgen.core.wrappers import averaged
from jaxgen.data import captioned
from jaxgen.data.transforms import outlined
from jaxgen.interop import cross_unet, lora, runs
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.objective import Objective
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.methods.diffusion.tuning import Control, Part, Token
from jaxgen.nn.joint.text import TextTower, clip
from jaxgen.nn.lora import ATTENTION, LoRA
from jaxgen.nn.unets.controlnet import ControlNet
from jaxgen.nn.unets.cross import CrossUNet
from jaxgen.nn.unets.text_unet import TextUNet

NAMES = {
  "controlnet_emoji": {"tune": "controlnet"},
  "lora_emoji": {"tune": "lora"},
  "inversion_emoji": {"tune": "inversion"},
  "dreambooth_emoji": {"tune": "dreambooth"},
}
WORDS, LENGTH = 1_000, 24  # tokens of the vocabulary, and of a name
NEW = WORDS  # the word that no name has: a row of the embeddings that the first model does not learn
STEPS = {"all": 5_000, "controlnet": 2_000, "lora": 1_000, "inversion": 500, "dreambooth": 500}
STYLE, FEW = "blob", {"lora": 100, "inversion": 5}


def experiment(
  file: str = "emoji_32.npz",
  tune: Literal["all", "controlnet", "lora", "inversion", "dreambooth"] = "all",
  base: str | None = None,
  pictures: int | None = None,
  steps: int | None = None,
  batch_size: int = 64,
  learning_rate: float | None = None,
  channels: int = 32,
  width: int = 64,
  side: int = 32,
  rank: int = 4,
  alpha: float | None = None,
  prior: float = 1.0,
  ema: float = 0.99,
  text_dropout: float | None = None,
  guidance: float = 3.0,
  control_scale: float = 1.0,
  solver: diffusion.SolverName = "ddim",
  grid: diffusion.GridName = "trailing",
  sampling_steps: int = 50,
) -> Experiment:
  """A U-Net with a text tower learns emoji, or is fine-tuned.

  Args:
    file: the .npz of emoji; for DreamBooth, one with a subject and samples of its class.
    tune: the part to train: all of a new model, or a ControlNet, a LoRA, one word or the U-Net of a trained one.
    base: the folder of a run of text_emoji; without one the network keeps its random initialisation.
    pictures: the number of training pictures of the new style; by default 100 for LoRA, 5 for the word.
    steps: training steps; by default as many as what is trained takes.
    learning_rate: of Adam; 1e-3 by default, 3e-4 for a ControlNet, 5e-3 for a word, 1e-4 for DreamBooth.
    channels: the U-Net's width.
    width: features of a token.
    side: height and width of the pictures.
    rank: of LoRA.
    alpha: of LoRA, whose factor is alpha / rank; a factor of 1 by default.
    prior: the weight of DreamBooth's prior preservation.
    text_dropout: the share of training examples whose name is dropped; 0.1, for a ControlNet 0.5 by default.
    guidance: the weight of the conditional prediction in samples; 1 is no guidance.
    control_scale: the factor of the ControlNet's outputs; 0 means only the base.
    solver: how samples go from noise to pictures.
    grid: the times that the solver visits.
    sampling_steps: steps of the solver.
  """
  steps = steps or STEPS[tune]
  rate = learning_rate or {"all": 1e-3, "controlnet": 3e-4, "lora": 1e-3, "inversion": 5e-3, "dreambooth": 1e-4}[tune]
  dropout = text_dropout if text_dropout is not None else 0.5 if tune == "controlnet" else 0.1
  last = {"controlnet": (outlined(),), "inversion": (captioned.marked(NEW),)}.get(tune, ())
  few = {"style": STYLE, "count": pictures or FEW[tune]} if tune in FEW else {}
  shape = dict(side=side, length=LENGTH)
  if tune == "dreambooth":
    emoji, shown = captioned.with_prior(file, vocabulary=WORDS + 1, **shape), "train"
  else:
    emoji, shown = captioned.emoji(file, vocabulary=WORDS, last=last, **few, **shape), "test"
  size = dict(channels=channels, multipliers=(1, 2, 2), blocks=1, depths=(0, 1, 1), heads=4, groups=8)
  unet = CrossUNet(**size, out_channels=3)
  control = ControlNet(**size, hint=(16,)) if tune == "controlnet" else None
  text = TextTower(WORDS + 1, clip(width, 4, 2, context=LENGTH), end=captioned.END)
  told = {"text": entries({"tokens": captioned.empty(LENGTH)}, dropout)}
  if control is not None:
    told["control"] = entries({"control": np.zeros((side, side, 1), np.float32)})
  condition = together(told)
  low_rank = LoRA(rank, alpha, where=f"^unet/.*{ATTENTION}")
  adapter = {"controlnet": Control(), "lora": low_rank, "inversion": Token(NEW), "dreambooth": Part("unet")}.get(tune)
  method = gaussian_diffusion(
    TextUNet(text, unet, control, control_scale),
    diffusion.cosine(1000),
    emoji.spec,
    optimizers.adam(rate, steps, warmup=min(100, steps // 10), clip=1.0),
    objective=Objective(diffusion.PREDICTIONS["v"]),
    condition=condition,
    sampler=Sampler(diffusion.SOLVERS[solver], diffusion.GRIDS[grid], sampling_steps),
    adapter=adapter,
    base=runs.base(base) if base and adapter is not None else None,
    prior=prior if tune == "dreambooth" else None,
  )

  def conditions(index: np.ndarray) -> dict[str, np.ndarray]:
    source = emoji.source(shown)
    batch = emoji.transform(jax.random.key(0), source.gather(index % len(source)), train=False)
    asked = {name: np.asarray(batch[name]) for name in condition.names}
    return asked | {"weight": np.full(len(index), guidance, np.float32)}

  layout = [e._replace(ours=e.ours.replace("params/", "params/unet/", 1)) for e in cross_unet.diffusers(unet)]
  return Experiment(
    method=averaged(method, ema),
    data=emoji,
    steps=steps,
    batch_size=batch_size,
    conditions=conditions,
    sample_every=1_000,
    checkpoint_every=500,
    samples=32,
    sample_chunk=32,
    layouts={"lora": lora.Layout(layout, low_rank)} if tune == "lora" else {},
  )
