"""Dual encoders of emoji and their names: CLIP, ALIGN's loss, UniCL and SigLIP, small.

Paper: Radford et al. 2021, https://arxiv.org/abs/2103.00020 (CLIP); Jia et al. 2021, https://arxiv.org/abs/2102.05918
(ALIGN: its label smoothing of 0.1, and not its towers); Yang et al. 2022, https://arxiv.org/abs/2204.03610 (UniCL,
which Florence trains with: labels are the subgroups); Zhai et al. 2023, https://arxiv.org/abs/2303.15343 (SigLIP)

    jaxgen train clip_emoji --file emoji_32.npz
    jaxgen train siglip_emoji --file emoji_32.npz       (or jaxgen train clip_emoji --method siglip ...)

It learns from two styles and is tested on a third, of the same emoji: retrieval of their names, and zero-shot
classification into groups or subgroups, where the prompts of a class are the names of its emoji. Chance is 1 / 2,710
for names, 1 / 99 for subgroups, 1 / 9 for groups.

Expect: the whole run is not measured. clip_emoji with `--steps 500`, one seed: of 2,710 names test_image_to_text
recall at 1, 5 and 10 is 0.086, 0.266 and 0.387, of 99 subgroups zero_shot_top_1 is 0.173. The nearest training picture
by its pixels has the right name for 0.335 and the right subgroup for 0.552 of them: so short a run is far behind that
Cost: 500 steps: 4 minutes on 2 CPU cores that had much other work
"""

from typing import Literal

from jaxgen import Experiment, optimizers
from jaxgen.data import captioned
from jaxgen.data.augment import crop
from jaxgen.evaluation.joint import retrieval, zero_shot
from jaxgen.methods.joint.contrastive import bounded, contrastive
from jaxgen.methods.joint.losses import infonce, siglip, unicl
from jaxgen.nn.joint import dual

NAMES = {
  "align_emoji": {"method": "align"},
  "siglip_emoji": {"method": "siglip"},
  "unicl_emoji": {"method": "unicl"},
}
HEADS = 4  # of the attention in both towers
LOSSES = {"clip": infonce(), "align": infonce(0.1), "unicl": unicl(), "siglip": siglip()}
CLASSES = {"groups": 9, "subgroups": 99}


def dual_encoder(width: int, depth: int, vocabulary: int, context: int) -> dual.DualEncoder:
  """The network of all losses but SigLIP's."""
  image = dict(patch=8, width=width, depth=depth, heads=HEADS)
  size = dual.Size(width, image, (width, HEADS, depth), "exact")
  return dual.clip(size, vocabulary=vocabulary, context=context, end=captioned.END)


def experiment(
  file: str = "emoji_32.npz",
  method: Literal["clip", "align", "unicl", "siglip"] = "clip",
  labels: Literal["groups", "subgroups"] = "subgroups",
  steps: int = 1_500,
  batch_size: int = 128,
  learning_rate: float = 1e-3,
  width: int = 96,
  depth: int = 3,
) -> Experiment:
  """Learns features in which emoji and their names are similar, and tests them zero-shot on another style.

  Args:
    file: the .npz of emoji, 32 x 32 pixels.
    method: the loss, and for siglip its towers.
    labels: the classes of the zero-shot test, and of UniCL.
    width: features of a token in both towers.
    depth: blocks of both towers.
  """
  emoji = captioned.emoji(file, labels=labels, classes=CLASSES[labels], augment=(crop(2),))
  (context,) = emoji.features["tokens"].shape
  if method == "siglip":
    image = dict(patch=8, width=width, depth=depth, heads=HEADS, hidden=4 * width)
    network = dual.siglip(image, emoji.vocabulary, context)
  else:
    network = dual_encoder(width, depth, emoji.vocabulary, context)
  optimizer = optimizers.adam(learning_rate, steps, warmup=100, clip=1.0, weight_decay=0.2, b2=0.98)
  optimizer = optimizer if method == "siglip" else bounded(optimizer)
  return Experiment(
    method=contrastive(network, spec=emoji.spec, optimizer=optimizer, loss=LOSSES[method]),
    data=emoji,
    steps=steps,
    batch_size=batch_size,
    evaluators=(retrieval(), zero_shot(network, lambda: captioned.class_texts(emoji))),
  )
