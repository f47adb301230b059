"""Stable Diffusion by its config against diffusers' pipelines (tests/fixtures/make_pipelines.py).

A folder as diffusers writes it is read, and the pipeline's random numbers are given. Compared are the latents at each
call of the network, those after the last, and the decoded picture, in float64.
"""

import functools
import json
import re
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from packed import FIXTURES, load
from safetensors.numpy import save_file

import jaxgen
from jaxgen import cli, diffusion
from jaxgen.core.condition import entries
from jaxgen.core.errors import UserError
from jaxgen.core.method import State
from jaxgen.core.spec import Spec
from jaxgen.core.wrappers import first_stage
from jaxgen.diffusion.grids import leading_by_one
from jaxgen.engine.config import load_config
from jaxgen.engine.folder import Folder
from jaxgen.interop import cross_unet, files, layout, ldm, mmdit, pipelines, pretrained, stable_diffusion, text_tower
from jaxgen.methods.diffusion import objective, text_to_image
from jaxgen.methods.diffusion.gaussian import gaussian_diffusion
from jaxgen.methods.diffusion.sampler import Sampler
from jaxgen.nn.autoencoders.ldm import KLAutoencoder
from jaxgen.nn.transformers.mmdit import MMDiT

KEPT = json.loads((FIXTURES / "pipelines.json").read_text())


def write(folder, name, dtype=np.float64):
  """A folder of diffusers."""
  tensors = load("pipelines.npz", name)["weight"]
  for path, text in KEPT["files"][name].items():
    (folder / path).parent.mkdir(parents=True, exist_ok=True)
    (folder / path).write_text(text)
  for part in {tensor.split("/")[0] for tensor in tensors}:
    file = "diffusion_pytorch_model" if part in ("unet", "vae") else "model"
    found = {t.removeprefix(f"{part}/"): a.astype(dtype) for t, a in tensors.items() if t.startswith(f"{part}/")}
    save_file(found, folder / part / f"{file}.safetensors")
  return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
  folder = tmp_path_factory.mktemp("pipelines")
  return {name: write(folder / name, name) for name in KEPT["files"]}


@functools.cache
def values(folder):
  """(arguments of the config for a folder, the state's params)."""
  config = load_config("stable_diffusion")
  arguments = config.settled({"pretrained": str(folder), "size": "8x16"})
  frozen = config.build(**arguments).method.frozen
  return arguments, jax.tree.map(np.asarray, {name: network.load() for name, network in frozen.items()})


def built(folder, **options):
  """(the experiment of a folder, its state)."""
  arguments, params = values(folder)
  experiment = load_config("stable_diffusion").build(**arguments, **options)
  return experiment, State(np.int32(0), np.int32(0), jax.random.key(0), params, {}, {}, {})


APPLY, COMPILED = nn.Module.apply, {}


def compiled(self, variables, *args, **options):
  """`Module.apply`, compiled once for equal modules, where all around it is not."""
  key = self, tuple(options.items())
  if key not in COMPILED:
    COMPILED[key] = jax.jit(lambda variables, *args: APPLY(self, variables, *args, **options))
  with jax.disable_jit(False):
    return COMPILED[key](variables, *args)


def watch(monkeypatch):
  """A list that gets what the network sees at each call."""
  predict, seen = objective.Model.predict, []

  def watched(self, params, x, *rest):
    seen.append(np.asarray(x)[::2])  # guidance has each twice
    return predict(self, params, x, *rest)

  monkeypatch.setattr(nn.Module, "apply", compiled)
  monkeypatch.setattr(objective.Model, "predict", watched)
  return seen


NAMES_OF_SD3 = "prompt_embeds", "pooled_prompt_embeds"
CASES = {
  ("sd1", "ddim"): dict(solver="ddim", sampling_steps=4),
  ("sd1", "dpmpp_2m"): dict(solver="dpmpp_2m", grid="trailing", sampling_steps=4),
  ("sd1", "euler"): dict(solver="euler", sampling_steps=4),
  ("sd1", "image"): dict(solver="ddim", sampling_steps=5),
  ("inpainting", "fill"): dict(solver="ddim", sampling_steps=4),
  ("sdxl", "euler"): dict(solver="euler", sampling_steps=4),
  ("sdxl", "no_negative"): dict(solver="euler", sampling_steps=2),
}


@pytest.mark.parametrize(("name", "case"), CASES)
def test_pipelines_equal_diffusers(name, case, folder, x64, monkeypatch):
  arrays, given = load("pipelines.npz", name)[case], load("pipelines.npz", "given")
  euler = CASES[name, case]["solver"] == "euler"
  noise, picture, latents = arrays["noise_0"], given["picture"][""] * 2 - 1, arrays["latents"]
  experiment, state = built(folder[name], **CASES[name, case])
  read = lambda text: experiment.prompts(SimpleNamespace(folder=folder[name]), [text])
  asked = {"weight": np.array([4.0]), "tokens": read(KEPT["prompt"])}
  asked |= {} if case == "no_negative" else {"negative_tokens": read(KEPT["negative"])}
  drawn = arrays.get("noise_1")  # what the first stage draws
  if case == "image":
    asked, drawn, noise = asked | {"start": picture, "strength": np.array([0.6])}, noise, drawn
  if case == "fill":
    asked |= {"start": picture, "keep": given["mask"][""][None] < 0.5}
  monkeypatch.setattr(text_to_image, "normal", lambda keys, shape, dtype: drawn)
  seen = watch(monkeypatch)
  keys = jax.random.split(jax.random.key(0), 1)
  asked = jax.tree.map(jnp.asarray, asked)
  with jax.disable_jit():
    made = np.asarray(experiment.method.sample(state, keys, noise=noise, **asked))
  close = lambda a, b: np.testing.assert_allclose(a, b, rtol=0, atol=1e-9 * np.abs(b).max())
  assert len(seen) == len(latents)
  times = leading_by_one(diffusion.scaled_linear(), len(latents)) if euler else None
  for number, (ours, theirs) in enumerate(zip(seen[1:], latents, strict=False), 1):
    # diffusers' Euler works on x / alpha.
    close(ours / (diffusion.scaled_linear().alpha(times[number : number + 1]) if euler else 1.0), theirs)
  free = given["mask"][""] > 0.5 if case == "fill" else np.ones(picture.shape[1:3], bool)
  close(made[:, free], arrays["picture"][:, free])
  if case == "fill":
    np.testing.assert_array_equal(made[:, ~free], picture[:, ~free])


def test_a_flow_equals_diffusers_pipeline_of_stable_diffusion_3(x64, monkeypatch):
  """With a shift of 3, features of texts given in the place of its encoders."""
  found = load("pipelines.npz", "sd3")
  arrays = found["flow"]
  double = dict(dtype=jnp.float64, param_dtype=jnp.float64)
  network = MMDiT(8, 2, 2, most=8, base=4, out_channels=4, **double)
  vae = KLAutoencoder(channels=4, multipliers=(1, 2), blocks=1, groups=4, quant=False, **double)
  told = {"text": jnp.asarray(arrays["prompt_embeds"]), "pooled": jnp.asarray(arrays["pooled_prompt_embeds"])}
  away = {f"negative_{n}": jnp.asarray(arrays[f"negative_{v}"]) for n, v in zip(told, NAMES_OF_SD3, strict=True)}
  noise = jnp.asarray(arrays["noise_0"])

  def params(module, layout_of, part, *arguments):
    tensors = {n.removeprefix(f"{part}/"): a for n, a in found["weight"].items() if n.startswith(part)}
    shapes = jax.eval_shape(module.init, jax.random.key(0), *arguments)
    return layout.read(layout_of(module), tensors, shapes)["params"]

  # The grid is shifted twice: it is even from 1 to the shifted 0.001, and then shifted. The network learns eps - x_0,
  # which is the velocity in sigma, so that sigma is the time.
  shifted = lambda t: 3 * t / (1 + 2 * t)
  grid = lambda schedule, n: np.append(shifted(np.linspace(1, shifted(0.001), n)), 0.0)
  method = gaussian_diffusion(
    network,
    diffusion.rectified_flow(),
    Spec(noise.shape[1:]),
    optax.sgd(0.1),
    objective=objective.Objective(diffusion.PREDICTIONS["velocity"], time_input=lambda at: 1000 * at.t),
    condition=entries(dict.fromkeys(told, 0.0)),
    sampler=Sampler(diffusion.euler, grid, 4, clip=False),
  )
  method = first_stage(method, *text_to_image.scaled(vae, 1.5305, 0.0609))
  weights = {
    "network": params(network, mmdit.diffusers, "transformer", noise, jnp.zeros(1), told),
    "first_stage": {"params": params(vae, ldm.diffusers, "vae", jnp.zeros((1, 8, 16, 3)))},
  }
  state, seen = State(np.int32(0), np.int32(0), jax.random.key(0), weights, {}, {}, {}), watch(monkeypatch)
  keys = jax.random.split(jax.random.key(0), 1)
  with jax.disable_jit():
    made = method.sample(state, keys, noise=noise, weight=jnp.array([4.0]), **told, **away)
  for ours, theirs in zip([*seen[1:]], arrays["latents"], strict=False):
    np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-9 * np.abs(theirs).max())
  assert len(seen) == 4
  np.testing.assert_allclose(made, arrays["picture"], rtol=0, atol=1e-9 * np.abs(arrays["picture"]).max())


# --- Files -----------------------------------------------------------------------------------------------------------


def single(folder, name, path):
  """A single file with the values of a folder."""
  d = stable_diffusion.Description.of_json(values(folder)[0]["model"])
  networks, params = stable_diffusion.built(d, "float64", "float64"), values(folder)[1]
  tensors = layout.write(cross_unet.authors(networks.unet, d.linear), {"params": params["network"]})
  tensors |= layout.write(ldm.authors(networks.vae), params["first_stage"])
  for number, (part, encoder) in enumerate(networks.encoders.items()):
    prefix, is_open = pipelines.TOWERS[len(d.texts), number][-1]
    write_tower = text_tower.open_clip if is_open else text_tower.transformers
    tensors |= layout.write(write_tower(encoder.network, prefix), {"params": params[part]})
  tensors |= {"alphas_cumprod": np.zeros(3), "model_ema.decay": np.zeros(())}  # what nobody reads
  save_file(tensors, path)
  return d, networks


@pytest.mark.parametrize("name", ["sd1", "sdxl"])
def test_a_single_file_has_the_same_values(name, folder, x64, tmp_path):
  d, networks = single(folder[name], name, tmp_path / "one.safetensors")
  found = pipelines.values(tmp_path / "one.safetensors", d, networks)
  wanted = values(folder[name])[1]
  for part, load_part in found.items():
    here = load_part() if part == "first_stage" else load_part()["params"]
    jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, here), wanted[part])


def test_arrays_are_read_one_by_one_and_stay_small(folder, tmp_path, monkeypatch):
  small = write(tmp_path / "half", "sd1", jnp.bfloat16)
  assert pipelines.dtype_of(small) == "bfloat16"
  d, reads, read = pipelines.described(small), [], np.fromfile
  networks = stable_diffusion.built(d, jnp.bfloat16, jnp.bfloat16)
  monkeypatch.setattr(np, "fromfile", lambda *args, **options: reads.append(args) or read(*args, **options))
  tree = pipelines.values(small, d, networks)["network"]()
  assert not reads  # shapes are checked, and nothing is read
  kernel = np.asarray(tree["params"]["in"]["kernel"])
  assert len(reads) == 1
  assert kernel.dtype == jnp.bfloat16
  theirs = load("pipelines.npz", "sd1")["weight"]["unet/conv_in.weight"]
  np.testing.assert_array_equal(kernel, theirs.transpose(2, 3, 1, 0).astype(jnp.bfloat16))


def test_first_stages_of_before_2023_are_read(folder, x64, tmp_path):
  old, formerly = tmp_path / "old", {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
  write(old, "sd1")
  (file,) = (old / "vae").glob("*.safetensors")
  tensors = {name: np.asarray(tensor) for name, tensor in files.opened(file).items()}
  renamed = {re.sub(r"to_(q|k|v|out\.0)\.", lambda m: f"{formerly[m[0][:-1]]}.", n): t for n, t in tensors.items()}
  assert "decoder.mid_block.attentions.0.proj_attn.weight" in renamed
  save_file(renamed, file)
  d = pipelines.described(old)
  found = pipelines.values(old, d, stable_diffusion.built(d, "float64", "float64"))["first_stage"]()
  jax.tree.map(np.testing.assert_array_equal, jax.tree.map(np.asarray, found), values(folder["sd1"])[1]["first_stage"])


def test_a_text_that_is_too_long_is_said(folder, capsys):
  d = pipelines.described(folder["sd1"])
  run = SimpleNamespace(folder=folder["sd1"])
  rows = pretrained.prompts(d)(run, ["a cat", "cat " * 74 + "red dog"])
  assert rows.shape == (2, 77)
  assert "the prompt has 76 tokens, and the text encoder reads 75 beside its two ends: it does not see 'dog'" in (
    capsys.readouterr().err
  )
  assert rows[1, -1] == d.texts[0].end


def test_says_what_does_not_fit(folder, tmp_path):
  refused = lambda sentence: pytest.raises(UserError, match=sentence)
  other = tmp_path / "other"
  other.mkdir()
  (other / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
  with refused("of the family FluxPipeline"):
    pipelines.described(other)
  save_file({"joint_blocks.0.x": np.zeros(2)}, tmp_path / "sd3.safetensors")
  with refused("is of Stable Diffusion 3's Transformer, and no single file of Stable Diffusion 1, 2 or XL"):
    pipelines.described(tmp_path / "sd3.safetensors")
  (tmp_path / "model.ckpt").write_bytes(b"\x80\x02}q\x00.")
  of_two = {
    "model.diffusion_model.input_blocks.0.0.weight": np.zeros((1, 9, 3, 3)),
    "model.diffusion_model.input_blocks.1.1.transformer_blocks.0.attn2.to_k.weight": np.zeros((1, 1024)),
  }
  save_file(of_two, tmp_path / "sd2_inpainting.safetensors")
  assert pipelines.described(tmp_path / "sd2_inpainting.safetensors").prediction == "eps"
  with refused("is a pickle, which may run anything when it is read"):
    pipelines.described(tmp_path / "model.ckpt")
  with refused("there is no folder or file .*nowhere of a model"):
    pipelines.described(tmp_path / "nowhere")
  with refused("keeps no tokenizer, which makes tokens of a prompt"):
    pretrained.readings(SimpleNamespace(folder=Folder(tmp_path)), 1)
  pickled = write(tmp_path / "pickled", "sd1")
  for file in (pickled / "unet").glob("*.safetensors"):
    file.rename(file.with_suffix(".bin"))
  with refused("diffusion_pytorch_model.bin is a pickle"):
    pipelines.dtype_of(pickled)
  index = pickled / "unet" / "diffusion_pytorch_model.safetensors.index.json"
  index.write_text("{")
  with refused("index.json is no index of files of safetensors"):
    pipelines.dtype_of(pickled)
  scheduler = pickled / "scheduler" / "scheduler_config.json"
  kept = json.loads(scheduler.read_text())
  scheduler.write_text(json.dumps(kept | {"prediction_type": "flow_prediction"}))
  with refused("the network predicts 'flow_prediction', and this config knows epsilon, v_prediction"):
    pipelines.described(pickled)
  scheduler.write_text(json.dumps({name: value for name, value in kept.items() if name != "beta_start"}))
  with refused("the schedule has no beta_start"):
    pipelines.described(pickled)
  scheduler.write_text(json.dumps(kept))
  edited = json.loads((pickled / "unet" / "config.json").read_text()) | {"in_channels": 8}
  (pickled / "unet" / "config.json").write_text(json.dumps(edited))
  with refused("a U-Net of 8 input channels, and this config knows 4 and, for inpainting, 9"):
    pipelines.described(pickled)
  config = load_config("stable_diffusion")
  for size, sentence in {"9x16": "of which the first stage makes one: 8x16 fits", "8": "height x"}.items():
    with refused(sentence):
      config.build(preset="tiny", size=size)
  with refused("--learns lora needs pictures and captions"):
    config.build(preset="tiny", learns="lora")
  with refused("underflow in float16, .* --parameters float32"):
    config.build(preset="tiny", learns="lora", captions="somewhere", parameters="float16")
  with refused("this is no description"):
    config.build(model="{}")


@pytest.mark.nightly
def test_the_commands_import_and_sample(folder, tmp_path, capsys):
  def run(*words):
    with pytest.raises(SystemExit) as end:
      cli.main(list(map(str, words)))
    assert end.value.code in (0, None), capsys.readouterr().err

  copy = write(tmp_path / "model", "sd1", np.float32)
  run("import", copy, "stable_diffusion", "--runs", tmp_path, "--name", "sd", "--size", "8x16")
  copy.rename(tmp_path / "gone")
  words = ["--prompt", "a red cat", "--negative", "dog", "--weight", 4, "--n", 2, "--sampling-steps", 2]
  run("sample", tmp_path / "sd", *words, "--out", tmp_path / "a.npz", "--size", "4x8")
  assert np.load(tmp_path / "a.npz")["samples"].shape == (2, 4, 8, 3)
  found = jaxgen.load(tmp_path / "sd", sampling_steps=2, size="4x8").sample(
    2, prompt="a red cat", negative="dog", weight=4
  )
  np.testing.assert_array_equal(found, np.load(tmp_path / "a.npz")["samples"])
