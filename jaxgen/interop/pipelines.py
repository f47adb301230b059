"""Published weights of Stable Diffusion 1, 2 and XL: a folder of diffusers, or a single file of the authors.

    description = described("stable-diffusion-v1-5")                 what its networks are, read of JSON and of shapes
    sources("stable-diffusion-v1-5", description, networks)          where their values come from, tensor by tensor

Nothing of a folder is executed, and no more than an array of a network is in memory at once.
"""

import functools
import json
import pathlib
import re
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp

from jaxgen.core.errors import UserError
from jaxgen.core.method import Frozen
from jaxgen.data.sources import clip_bpe
from jaxgen.interop import cross_unet, files, ldm, text_tower
from jaxgen.interop.layout import Entry, read
from jaxgen.interop.stable_diffusion import (
  ACTIVATIONS,
  NETWORK,
  PRESETS,
  STAGE,
  TEXTS,
  Description,
  Networks,
  Tower,
)
from jaxgen.nn.autoencoders.ldm import KLAutoencoder

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}

# --- Folders of diffusers --------------------------------------------------------------------------------------------


def _config(folder: pathlib.Path, part: str, name: str = "config.json") -> dict[str, Any]:
  path = folder / part / name
  try:
    return json.loads(path.read_text())
  except FileNotFoundError:
    raise UserError(f"{folder} has no {part}/{name}: it is no whole folder of a Stable Diffusion pipeline") from None
  except (OSError, ValueError) as error:
    raise UserError(f"{path} cannot be read: {error}") from error


_VAE_FIXED = {"act_fn": ("silu",), "latents_mean": (None,), "latents_std": (None,)}


def _vae(config: Mapping[str, Any]) -> dict[str, Any]:
  for name, allowed in _VAE_FIXED.items():
    if config.get(name, allowed[0]) not in allowed:
      raise UserError(f"the first stage has {name} = {config[name]!r}, which this one cannot have")
  if others := set(config["down_block_types"]) - {"DownEncoderBlock2D"}:
    raise UserError(f"the first stage has blocks of the type {min(others)}, which this one cannot have")
  channels, *_ = widths = config["block_out_channels"]
  quant = config.get("use_quant_conv", True), config.get("use_post_quant_conv", True)
  if uneven := [width for width in widths if width % channels]:
    raise UserError(f"the first stage has a level of {uneven[0]} channels, which the first's {channels} do not divide")
  if len(set(quant)) > 1:
    raise UserError("the first stage has one of its two 1x1 convolutions beside the latents alone: here it has both")
  return dict(
    latent=config["latent_channels"],
    image=config["in_channels"],
    channels=channels,
    multipliers=tuple(width // channels for width in widths),
    blocks=config["layers_per_block"],
    middle_attention=config.get("mid_block_add_attention", True),
    groups=config["norm_num_groups"],
    quant=quant[0],
  )


def _tower(config: Mapping[str, Any], tokens: clip_bpe.Reading, penultimate: bool) -> Tower:
  config = config.get("text_config", config)
  if config.get("hidden_act") not in ACTIVATIONS or config.get("layer_norm_eps", 1e-5) != 1e-5:
    raise UserError(
      f"the text encoder is not a CLIP that jaxgen supports: hidden_act is {config.get('hidden_act')!r}, "
      "layer_norm_eps "
      f"{config.get('layer_norm_eps')}"
    )
  pooled = "CLIPTextModelWithProjection" in config.get("architectures", ())
  return Tower(
    config["hidden_size"], config["num_attention_heads"], config["num_hidden_layers"], config["hidden_act"],
    config["intermediate_size"], config["vocab_size"], config["max_position_embeddings"],
    config["projection_dim"] if pooled else None, penultimate, pooled, tokens.end, tokens.pad,
    config.get("eos_token_id", 2) == 2,
  )  # fmt: skip


def _of_folder(folder: pathlib.Path) -> Description:
  index = _config(folder, ".", "model_index.json")
  kind = index.get("_class_name", "")
  xl = kind.startswith("StableDiffusionXL")
  if not xl and not re.fullmatch(r"StableDiffusion(Img2Img|Inpaint)?Pipeline", kind):
    raise UserError(
      f"{folder} is of the family {kind or '(not said)'}: this config reads StableDiffusionPipeline, "
      "StableDiffusionInpaintPipeline and StableDiffusionXLPipeline"
    )
  parts = [name for name in TEXTS if (folder / name).is_dir()]
  if len(parts) != 1 + xl:
    raise UserError(f"{folder} has {len(parts)} text encoders, and {kind} has {1 + xl}")
  tokens = [clip_bpe.reading(folder / name.replace("text_encoder", "tokenizer")) for name in parts]
  unet, vae = _config(folder, "unet"), _config(folder, "vae")
  schedule = _config(folder, "scheduler", "scheduler_config.json")
  if schedule.get("beta_schedule", "scaled_linear") != "scaled_linear":
    raise UserError(f"{folder}: the schedule is {schedule['beta_schedule']!r}, and this config's is 'scaled_linear'")
  if lacking := {"beta_start", "beta_end"} - set(schedule):
    raise UserError(f"{folder}: the schedule has no {min(lacking)}, and this config's is of betas")
  if (predicted := schedule.get("prediction_type", "epsilon")) not in PREDICTIONS:
    raise UserError(f"{folder}: the network predicts {predicted!r}, and this config knows {', '.join(PREDICTIONS)}")
  stage = _vae(vae)
  return Description(
    cross_unet.sizes(unet),
    unet["in_channels"],
    bool(unet.get("use_linear_projection", False)),
    stage,
    vae.get("scaling_factor", 0.18215),
    vae.get("shift_factor") or 0.0,
    tuple(_tower(_config(folder, n), t, penultimate=xl) for n, t in zip(parts, tokens, strict=True)),
    tokens[0].start,
    xl and bool(index.get("force_zeros_for_empty_prompt", True)),
    PREDICTIONS[predicted],
    (schedule.get("num_train_timesteps", 1000), schedule["beta_start"], schedule["beta_end"]),
    bool(schedule.get("rescale_betas_zero_snr", False)),
    unet["sample_size"] * 2 ** (len(stage["multipliers"]) - 1),
  )


def _tensors(folder: pathlib.Path) -> Mapping[str, Any]:
  """The tensors of a part's folder, which may be in several files.

  Raises:
    UserError: there is no file of safetensors, or it is damaged.
  """
  if indices := sorted(folder.glob("*.safetensors.index.json")):
    try:
      names = sorted(set(json.loads(indices[0].read_text())["weight_map"].values()))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
      raise UserError(f"{indices[0]} is no index of files of safetensors: {error!r}") from error
  else:
    whole = [folder / f"{stem}.safetensors" for stem in ("diffusion_pytorch_model", "model")]
    some = [path for path in whole if path.is_file()] or sorted(folder.glob("*.safetensors"))
    if not some:
      pickles = [path.name for path in sorted(folder.glob("*.bin")) + sorted(folder.glob("*.ckpt"))]
      why = f"{pickles[0]} is a pickle, which may run anything when it is read: save it" if pickles else "save it there"
      raise UserError(
        f"{folder} has no .safetensors: {why} with diffusers' save_pretrained(.., safe_serialization=True)"
      )
    names = [some[0].name]
  found: dict[str, Any] = {}
  for name in names:
    found |= files.opened(folder / name)
  return found


_FORMERLY = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _today(name: str) -> str:
  """Attention's layers had other names in the first stages that diffusers wrote before 2023."""
  return re.sub(r"(attentions\.0\.)(query|key|value|proj_attn)\.", lambda m: f"{m[1]}{_FORMERLY[m[2]]}.", name)


# --- Single files ----------------------------------------------------------------------------------------------------

UNET, VAE = "model.diffusion_model.", "first_stage_model."
TOWERS = {  # (family's number of encoders, number) -> the prefixes that there are, and whether OpenCLIP's names follow
  (1, 0): (("cond_stage_model.transformer.text_model.", False), ("cond_stage_model.model.", True)),
  (2, 0): (("conditioner.embedders.0.transformer.text_model.", False),),
  (2, 1): (("conditioner.embedders.1.model.", True),),
}
FAMILIES = {  # prefixes of tensors' names in other programs' files
  "model.diffusion_model.joint_blocks.": "Stable Diffusion 3",
  "joint_blocks.": "Stable Diffusion 3's Transformer",
  "double_blocks.": "FLUX",
  "model.diffusion_model.double_blocks.": "FLUX",
  "control_model.": "a ControlNet",
  "controlnet_": "a ControlNet",
  "lora_": "a LoRA",
  "unet.": "a LoRA",
  "encoder.": "an autoencoder alone",
  "down_blocks.": "a U-Net alone",
  "text_model.": "a text encoder alone",
  "blocks.": "a Transformer, as DiT's",
  "model.layers.": "a language model",
  "transformer.h.": "a language model",
}


def _of_file(path: pathlib.Path, tensors: Mapping[str, Any]) -> Description:
  first = tensors.get(f"{UNET}input_blocks.0.0.weight")
  widths = {t.shape[1] for name, t in tensors.items() if name.startswith(UNET) and name.endswith("attn2.to_k.weight")}
  if first is None or len(widths) != 1:
    family = next((what for start, what in FAMILIES.items() if any(n.startswith(start) for n in tensors)), None)
    raise UserError(
      f"{path} is {f'of {family}' if family else 'of another family'}, and no single file of Stable Diffusion 1, 2 or "
      f"XL: its tensors do not begin with {UNET}"
    )
  (width,) = widths
  known = {768: "sd1", 1024: "sd2", 2048: "sdxl"}
  if width not in known:
    raise UserError(
      f"{path} has a U-Net that is conditioned on {width} features of a word, and SD 1, 2 and XL {known}: give --model"
    )
  # SD 2's network of inpainting was made of that of 512 x 512 pixels, which predicts noise.
  name = "sd2_base" if known[width] == "sd2" and first.shape[1] > KLAutoencoder.latent else known[width]
  return PRESETS[name]._replace(inputs=first.shape[1])


# --- Both ------------------------------------------------------------------------------------------------------------


def _place(path: Any) -> pathlib.Path:
  place = pathlib.Path(path).expanduser()
  if not place.exists():
    raise UserError(
      f"there is no folder or file {place.absolute()} of a model: give diffusers' folder or a .safetensors"
    )
  return place


def described(path: Any) -> Description:
  """The networks of a folder or a single file.

  Raises:
    UserError: it is another family's, incomplete, damaged, or a pickle.
  """
  place = _place(path)
  d = _of_folder(place) if place.is_dir() else _of_file(place, files.opened(place))
  latent = d.vae.get("latent", KLAutoencoder.latent)
  if d.inputs not in (latent, 2 * latent + 1):
    raise UserError(
      f"{path} has a U-Net of {d.inputs} input channels, and this config knows {latent} and, for inpainting, "
      f"{2 * latent + 1}: it is of another family, as InstructPix2Pix's"
    )
  return d


def dtype_of(path: Any) -> str:
  """The dtype of the U-Net's tensors, the parameters' here."""
  place = _place(path)
  tensors = _tensors(place / "unet") if place.is_dir() else files.opened(place)
  return str(next(t.dtype for name, t in tensors.items() if place.is_dir() or name.startswith(UNET)))


def _within(tensors: Mapping[str, Any], prefix: str) -> dict[str, Any]:
  return {name: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def _parts(place: pathlib.Path, d: Description, networks: Networks) -> dict[str, tuple[list[Entry], Mapping[str, Any]]]:
  """{a part's name in `params`: (its layout, its tensors)}."""
  towers = [encoder.network for encoder in networks.encoders.values()]
  if place.is_dir():
    stage = {_today(name): tensor for name, tensor in _tensors(place / "vae").items()}
    found = {NETWORK: (cross_unet.diffusers(networks.unet, d.linear), _tensors(place / "unet"))}
    found[STAGE] = ldm.diffusers(networks.vae), stage
    for name, tower in zip(networks.encoders, towers, strict=True):
      tensors = _tensors(place / name)
      prefix = "text_model." if any(n.startswith("text_model.") for n in tensors) else ""
      found[name] = text_tower.transformers(tower, prefix), tensors
    return found
  tensors = files.opened(place)
  found = {NETWORK: (cross_unet.authors(networks.unet, d.linear), _within(tensors, UNET))}
  found[STAGE] = ldm.authors(networks.vae), _within(tensors, VAE)
  for number, (name, tower) in enumerate(zip(networks.encoders, towers, strict=True)):
    for prefix, is_open in TOWERS[len(towers), number]:
      if theirs := _within(tensors, prefix):
        entries = (text_tower.open_clip if is_open else text_tower.transformers)(tower, prefix)
        wanted = {n for entry in entries for n in entry.theirs}
        # Stable Diffusion 2's last block, readout and temperature are there and not used.
        found[name] = entries, {n: t for n, t in theirs.items() if n in wanted}
    if name not in found:
      raise UserError(
        f"{place} has no text encoder {' or '.join(prefix for prefix, _ in TOWERS[len(towers), number])}.."
      )
  return found


def _shapes(d: Description, networks: Networks, name: str) -> Any:
  """The variables of a part, as `jax.eval_shape` gives them."""
  struct = lambda *shape, dtype=jnp.float32: jax.ShapeDtypeStruct(shape, dtype)
  key = jax.eval_shape(lambda: jax.random.key(0))
  text = struct(1, 2, sum(tower.width for tower in d.texts))
  told = {"text": text}
  if d.unet.get("micro") is not None:
    told |= {"pooled": struct(1, sum(t.projection or 0 for t in d.texts)), "sizes": struct(1, 6)}
  side = d.factor * 2
  arguments = {NETWORK: (networks.unet, (struct(1, 8, 8, d.inputs), struct(1), told))}
  arguments[STAGE] = networks.vae, (struct(1, side, side, networks.vae.image),)
  arguments |= {n: (encoder.network, (struct(1, 2, dtype=jnp.int32),)) for n, encoder in networks.encoders.items()}
  module, given = arguments[name]
  return jax.eval_shape(module.init, key, *given)


def values(path: Any, d: Description, networks: Networks) -> dict[str, Callable[[], Any]]:
  """{a part's name: () -> its variables, {"params": ..}, whose leaves are read one by one}.

  Raises:
    UserError: the file does not fit, at once where it is no folder of this family, and when a part is read.
  """

  parts = functools.cache(lambda: _parts(_place(path), d, networks))

  def load(name: str) -> Any:
    entries, tensors = parts()[name]
    return read(entries, tensors, _shapes(d, networks, name), later=True)

  return {name: (lambda name=name: load(name)) for name in (NETWORK, STAGE, *networks.encoders)}


def sources(path: Any, d: Description, networks: Networks) -> dict[str, Frozen]:
  """Where the parts' values come from, as entries of a state's `params`: {"network": .., "first_stage": .., ..}."""
  found = values(path, d, networks)
  bare = lambda name: lambda: found[name]()["params"]
  return {name: Frozen(f"{path}", found[name] if name == STAGE else bare(name)) for name in found}
