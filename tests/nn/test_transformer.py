"""Transformers against transformers' own (tests/fixtures/make_sequences.py), masks, cache and sizes."""

import math
from functools import partial

import jax
import jax.extend
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from packed import FIXTURES, expected_of, load
from rounding import assert_close, conditioning, needs, tolerance

from jaxgen.core.errors import UserError
from jaxgen.interop import encoder as encoder_layout
from jaxgen.interop import encoder_decoder, layout
from jaxgen.nn.blocks.activations import gelu
from jaxgen.nn.blocks.attention import attend
from jaxgen.nn.blocks.layers import LayerNorm
from jaxgen.nn.blocks.positions import Learned, Relative, Sinusoidal, relative_bucket, rotary, sinusoids
from jaxgen.nn.sequence import transformer
from jaxgen.nn.sequence.transformer import SIZES, Encoder, EncoderDecoder, LanguageModel, Options, Stack

# --- Against transformers ---------------------------------------------------------------------------------------------


def encoder(options: Options, **changes) -> Encoder:
  return Encoder(13, options._replace(absolute=partial(Learned, 9, param_dtype=options.dtype))._replace(**changes), 3)


def marian(options: Options, **changes) -> EncoderDecoder:
  return EncoderDecoder(13, options._replace(**changes), output_bias=True)


def bart(options: Options, **changes) -> EncoderDecoder:
  learned = options._replace(absolute=partial(Learned, 9, 2, param_dtype=options.dtype))
  return EncoderDecoder(13, learned._replace(**changes), output_bias=True)


def pegasus(options: Options, **changes) -> EncoderDecoder:
  return marian(options._replace(norm="pre", activation=jax.nn.relu), **changes)


# (network, size whose options it has, layout)
KNOWN = {
  "BERT": (encoder, "BERT base", encoder_layout.transformers),
  "Marian": (marian, "OPUS-MT", encoder_decoder.transformers),
  "BART": (bart, "BART base", encoder_decoder.transformers),
  "Pegasus": (pegasus, "OPUS-MT", encoder_decoder.transformers),
}


def compiled(name: str, dtype, gradients: bool = True, **changes):
  """(function of the variables, variables, theirs): outputs and, where asked for, gradients by name."""
  arrays = load("transformer.npz", name)
  build, size, entries_of = KNOWN[name]
  small = dict(features=12, heads=3, hidden=10, depth=2, dtype=dtype, param_dtype=dtype)
  network = build(SIZES[size]._replace(**small), **changes)
  entries = entries_of(network)
  arguments = {k: jnp.asarray(a) for k, a in arrays["argument"].items()}
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
  variables = layout.read(entries, arrays["weight"], shapes)

  def loss(variables):
    outputs = network.apply(variables, **arguments)
    if name == "BERT":
      outputs = dict(tokens=outputs[0] * arguments["mask"][..., None], whole=outputs[1])
    else:
      outputs = dict(logits=outputs)
    return sum(jnp.sum(outputs[k] * c) for k, c in arrays["cotangent"].items()), outputs

  program = jax.jit(jax.grad(loss, has_aux=True) if gradients else lambda v: ({}, loss(v)[1]))

  def results(variables):
    gradient, outputs = program(variables)
    groups = {"output": outputs, "gradient": layout.write(entries, gradient) if gradients else {}}
    return {f"{group}/{k}": np.asarray(a) for group, arrays in groups.items() for k, a in arrays.items()}

  return results, variables, {k: a for k, a in expected_of(arrays).items() if gradients or k.startswith("output")}


def run(name: str, dtype, **changes) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
  """(ours, theirs): outputs by name."""
  results, variables, expected = compiled(name, dtype, gradients=False, **changes)
  return results(variables), expected


@pytest.mark.parametrize("name", KNOWN)
def test_equals_transformers(name, x64):
  """In float64, and in float32 as far as the network lets errors of rounding grow."""
  scales = None
  for dtype in (jnp.float64, jnp.float32):
    results, variables, expected = compiled(name, dtype)
    scales, ours = scales or conditioning(results, variables), results(variables)
    assert ours.keys() - expected.keys() <= {"gradient/final_logits_bias"}  # theirs is not trained
    assert len(expected) > 20
    # A gradient that is nearly zero is a difference of ones that are not.
    least = 1e-2 * max(scales[k] for k in expected if k.startswith("gradient"))
    for k, array in expected.items():
      assert ours[k].dtype == dtype
      assert_close(ours[k], array, scale=max(scales[k], least) if k.startswith("gradient") else scales[k])


MISTAKES = {
  "BERT: tanh in GELU": ("BERT", dict(activation=jax.nn.gelu), {}),
  "BERT: epsilon": ("BERT", dict(eps=1e-6), {}),
  "BERT: other heads": ("BERT", dict(heads=4), {}),
  "Marian: sines between cosines": ("Marian", dict(absolute=Sinusoidal), {}),
  "Marian: embeddings not scaled": ("Marian", dict(scaled=False), {}),
  "Marian: sees the future": ("Marian", {}, {"Stack": lambda options, causal=False: Stack(options)}),
  "BART: positions from the table's start": ("BART", dict(absolute=partial(Learned, 11, param_dtype="float64")), {}),
  "BART: epsilon": ("BART", dict(eps=1e-6), {}),
  "Pegasus: activation": ("Pegasus", dict(activation=jax.nn.silu), {}),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_fixtures_tell_mistakes(mistake, x64, monkeypatch):
  name, changes, elsewhere = MISTAKES[mistake]
  for attribute, value in elsewhere.items():
    monkeypatch.setattr(transformer, attribute, value)
  ours, expected = run(name, jnp.float64, **changes)
  assert max(np.abs(ours[k] - a).max() / np.abs(a).max() for k, a in expected.items()) > 1e-7


@pytest.mark.parametrize("name", KNOWN)
def test_a_mask_left_out_shows(name, x64, monkeypatch):
  without = lambda self, x, *a, mask=None, context_mask=None, **kw: whole(self, x, *a, **kw)
  whole = Stack.__call__
  monkeypatch.setattr(Stack, "__call__", without)
  ours, expected = run(name, jnp.float64)
  assert max(np.abs(ours[k] - a).max() for k, a in expected.items()) > 1e-3


def test_sides_of_unequal_depth(x64):
  """A decoder's second block whose branches add nothing is none: transformers' weights without it give the same."""
  arrays = load("transformer.npz", "Pegasus")
  options = SIZES["OPUS-MT"]._replace(
    features=12, heads=3, hidden=10, depth=2, dtype=jnp.float64, param_dtype="float64"
  )
  arguments = {k: jnp.asarray(a) for k, a in arrays["argument"].items()}
  second = "model.decoder.layers.1."
  silent = ("out_proj.weight", "out_proj.bias", "fc2.weight", "fc2.bias")
  both = {k: 0 * a if k.startswith(second) and k.endswith(silent) else a for k, a in arrays["weight"].items()}
  outputs = []
  for depth, weights in ((None, both), (1, {k: a for k, a in both.items() if not k.startswith(second)})):
    network = pegasus(options).clone(decoder_depth=depth)
    shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
    variables = layout.read(encoder_decoder.transformers(network), weights, shapes)
    outputs.append(jax.jit(network.apply)(variables, **arguments))
  assert_close(outputs[1], outputs[0])
  assert np.abs(outputs[0] - arrays["output"]["logits"]).max() > 1e-3  # with its second block


@pytest.mark.parametrize("name", ["BERT", "BART"])
def test_weights_go_back_as_they_came(name):
  arrays = load("transformer.npz", name)
  build, size, entries_of = KNOWN[name]
  network = build(SIZES[size]._replace(features=12, heads=3, hidden=10, depth=2))
  arguments = {k: jnp.asarray(a) for k, a in arrays["argument"].items()}
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments)
  tables = ("lm_head.weight", "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight")
  shared = arrays["weight"].get("model.shared.weight")
  extra = {"embeddings.position_ids": np.arange(9)} if name == "BERT" else {k: shared for k in tables}
  back = layout.write(entries_of(network), layout.read(entries_of(network), arrays["weight"] | extra, shapes))
  assert back.keys() == arrays["weight"].keys()
  for k, array in arrays["weight"].items():
    np.testing.assert_array_equal(back[k], array.astype(np.float32))
  with pytest.raises(UserError, match="another"):
    layout.read(entries_of(network), {}, shapes)


def count(network, *arguments) -> int:
  shapes = jax.eval_shape(network.init, jax.random.key(0), *arguments)
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


ids = jnp.zeros((1, 3), jnp.int32)
# torch.nn.Transformer(512, 8, 6, 6, 2048) and (1024, 16, 6, 6, 4096), less its two last norms, and the embeddings
SHARED = 37_000
PUBLISHED = {
  "Transformer base": (EncoderDecoder(SHARED, SIZES["Transformer base"]), 44_140_544 - 4 * 512 + SHARED * 512),
  "Transformer big": (EncoderDecoder(SHARED, SIZES["Transformer big"]), 176_361_472 - 4 * 1024 + SHARED * 1024),
  # the rest is what transformers' networks sum to; their bias on the logits is no parameter
  "BERT base": (Encoder(30_522, SIZES["BERT base"]), 109_482_240),
  "BERT large": (Encoder(30_522, SIZES["BERT large"]), 335_141_888),
  "BART base": (EncoderDecoder(50_265, SIZES["BART base"]), 139_420_416),
  "BART large": (EncoderDecoder(50_265, SIZES["BART large"]), 406_291_456),
  "OPUS-MT": (EncoderDecoder(58_101, SIZES["OPUS-MT"], output_bias=True), 74_410_496 - 2 * 512 * 512 + 58_101),
}


@pytest.mark.parametrize("size", SIZES)
def test_parameters_at_the_published_sizes(size):
  network, expected = PUBLISHED[size]
  assert count(network, *[ids] * (1 if size.startswith("BERT") else 2)) == expected


# --- Masks ------------------------------------------------------------------------------------------------------------

TINY = Options(features=8, heads=2, hidden=8, depth=2, dropout=0.0)
PLACES = {
  "sinusoidal": TINY,
  "learned, pre-norm": TINY._replace(norm="pre", absolute=partial(Learned, 12)),
  "rotary": TINY._replace(absolute=None, rotate=rotary),
  "relative": TINY._replace(
    absolute=None, relative=partial(Relative, buckets=8, most=6, table_init=nn.initializers.normal(1))
  ),
}


@pytest.mark.parametrize("place", ["sinusoidal", "relative"])
def test_masks_by_jacobian(place):
  """What an output can depend on is what the masks say, no more and no less."""
  x, context = (jax.random.normal(jax.random.key(i), (1, 5, 8)) for i in range(2))
  mask = jnp.array([[True, True, False, True, False]])
  reads = lambda f, x: np.asarray(jnp.any(jax.jit(jax.jacobian(f))(x) != 0, axis=(1, 3)))  # [outputs' tokens, x's]
  seen, own = np.broadcast_to(np.asarray(mask), (5, 5)), np.eye(5, dtype=bool)

  stack = Stack(PLACES[place])
  variables = jax.jit(stack.init)(jax.random.key(2), x)
  np.testing.assert_array_equal(reads(lambda x: stack.apply(variables, x[None], mask=mask)[0], x[0]), seen | own)

  stack = Stack(PLACES[place], causal=True)
  variables = jax.jit(partial(stack.init, context=context))(jax.random.key(2), x)
  run = lambda x, context: stack.apply(variables, x[None], context=context[None], context_mask=mask)[0]
  np.testing.assert_array_equal(reads(lambda x: run(x, context[0]), x[0]), np.tri(5, dtype=bool))
  np.testing.assert_array_equal(reads(lambda context: run(x[0], context), context[0]), seen)


# --- The cache --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", PLACES)
def test_cached_decoding_equals_the_full_pass(place, x64):
  """Token by token, and behind a prompt that is read at once; positions and masks included."""
  options = PLACES[place]._replace(dtype=jnp.float64)
  tokens = jax.random.randint(jax.random.key(0), (3, 7), 0, 11)
  network = LanguageModel(11, options)
  variables = jax.jit(network.init)(jax.random.key(1), tokens)
  expected = jax.jit(network.apply)(variables, tokens)
  step, carry = network.stepper(variables["params"], tokens[:, :3], 9)
  assert all(leaf.shape[0] == 3 for leaf in jax.tree.leaves(carry))
  step = jax.jit(step)
  for t in range(3, 7):
    logits, carry = step(carry, tokens[:, t])
    assert_close(logits, expected[:, t])


def test_cached_encoder_decoder_equals_the_full_pass(x64):
  network = EncoderDecoder(11, TINY._replace(dtype=jnp.float64, param_dtype=jnp.float64), sources=7, output_bias=True)
  source = jax.random.randint(jax.random.key(0), (3, 4), 0, 7)
  target = jax.random.randint(jax.random.key(1), (3, 5), 0, 11)
  mask = jnp.arange(4) < jnp.array([4, 1, 3])[:, None]
  variables = jax.jit(network.init)(jax.random.key(2), source, target)
  expected = jax.jit(network.apply)(variables, source, target, mask)
  step, carry = network.stepper(variables["params"], source, mask, 5)
  step = jax.jit(step)
  for t in range(5):
    logits, carry = step(carry, target[:, t])
    assert_close(logits, expected[:, t])


# --- The rest ---------------------------------------------------------------------------------------------------------


def primitives(jaxpr) -> list[str]:
  """Of a program, those of the programs within it included."""
  inner = [j for e in jaxpr.eqns for j in jax.extend.core.jaxprs_in_params(e.params)]
  return [e.primitive.name for e in jaxpr.eqns] + [name for j in inner for name in primitives(j)]


def test_the_program_does_not_grow_with_depth_and_remat_changes_no_number():
  x = jax.random.normal(jax.random.key(0), (2, 4, 8))
  variables, again = jax.jit(Stack(TINY).init)(jax.random.key(1), x), TINY._replace(remat=True)

  def gradient_of(options):
    return jax.grad(lambda v, x: jnp.sum(jnp.sin(Stack(options).apply(v, x))))

  def program_of(options, variables, run):
    return primitives(jax.make_jaxpr(run(options))(variables, x).jaxpr)

  deep = jax.eval_shape(Stack(TINY._replace(depth=6)).init, jax.random.key(1), x)
  assert program_of(TINY, variables, gradient_of) == program_of(TINY._replace(depth=6), deep, gradient_of)
  forward = lambda options: Stack(options).apply
  remats = [sum("remat" in p or "checkpoint" in p for p in program_of(o, variables, forward)) for o in (TINY, again)]
  assert remats[1] == remats[0] + 1  # attention and layer norms have their own in any case
  plain, recomputed = (jax.jit(gradient_of(options))(variables, x) for options in (TINY, again))
  largest = max(jnp.abs(a).max() for a in jax.tree.leaves(plain))
  jax.tree.map(lambda a, b: assert_close(b, a, scale=largest), plain, recomputed)


def test_a_gradient_keeps_no_weights_of_attention_and_one_array_a_matrix_product():
  """Bytes that wait for the backward pass, per block: what the products and norms need, and gelu's slope."""
  batch, tokens, width = 2, 64, 8
  options = TINY._replace(norm="pre", depth=3, dropout=0.0)
  x = jax.ShapeDtypeStruct((batch, tokens, width), jnp.float32)
  variables = jax.eval_shape(Stack(options).init, jax.random.key(1), x)
  kept = jax.eval_shape(lambda v, x: jax.vjp(Stack(options).apply, v, x)[1], variables, x)
  stacked = [a for a in jax.tree.leaves(kept) if a.shape[:2] == (options.depth, batch)] + [
    a for a in jax.tree.leaves(kept) if a.shape[:2] == (options.depth, batch * tokens)
  ]
  assert all(a.shape[-2:] != (tokens, tokens) for a in jax.tree.leaves(kept))
  # Inputs of both norms, q, k, v, inputs of qkv, out and in; gelu's slope and the input of the last, both hidden wide.
  values = sum(a.size for a in stacked) / (options.depth * batch * tokens)
  assert values <= 8 * width + 2 * options.hidden


def test_gelu_is_that_of_the_error_function_and_its_derivatives_of_any_order_and_mode():
  x = jnp.linspace(-6, 6, 41)
  exact = lambda x: np.array([v * math.erfc(-v / math.sqrt(2)) / 2 for v in np.asarray(x, float)])
  slope = lambda x: np.array(
    [(1 + math.erf(v / math.sqrt(2))) / 2 + v * math.exp(-v * v / 2) / math.sqrt(2 * math.pi) for v in x]
  )
  curvature = lambda x: np.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (2 - x**2)
  rounding = tolerance(float, 10, 6)  # in float64; numbers are at most 6
  with jax.enable_x64(True):
    x = jnp.asarray(np.asarray(x, np.float64))
    np.testing.assert_allclose(gelu(x), exact(x), rtol=0, atol=rounding)
    np.testing.assert_allclose(jax.vmap(jax.grad(gelu))(x), slope(np.asarray(x)), rtol=0, atol=rounding)
    np.testing.assert_allclose(jax.vmap(jax.jacfwd(gelu))(x), slope(np.asarray(x)), rtol=0, atol=rounding)
    np.testing.assert_allclose(jax.vmap(jax.grad(jax.jacfwd(gelu)))(x), curvature(np.asarray(x)), rtol=0, atol=rounding)
  # Relative to the value, in the negative tail too. exp(-x^2 / 2) is as exact as its exponent, at most 18.
  single, half = x.astype("float32"), x.astype("bfloat16")
  np.testing.assert_allclose(gelu(single), exact(single), rtol=tolerance("float32", 10, 18))
  np.testing.assert_allclose(np.asarray(gelu(half), float), exact(np.asarray(half, float)), rtol=2**-8)


def test_layer_norm_is_its_closed_form_in_any_dtype():
  x = 1000 + jax.random.normal(jax.random.key(0), (3, 5, 16))
  module = LayerNorm(1e-6)
  variables = {"params": {"scale": jnp.linspace(0.5, 2, 16), "bias": jnp.linspace(-1, 1, 16)}}

  def expected(x):
    x = np.asarray(x, np.float64)
    centred = x - x.mean(-1, keepdims=True)
    normalised = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
    return normalised * np.linspace(0.5, 2, 16) + np.linspace(-1, 1, 16)

  # Numbers near 1000 are rounded where the mean is taken; the scale doubles that.
  assert_close(module.apply(variables, x), expected(x), terms=1, scale=2 * 1000)
  half = jax.random.normal(jax.random.key(1), (3, 5, 16), jnp.bfloat16)
  y = module.apply(variables, half)
  assert y.dtype == jnp.bfloat16
  np.testing.assert_allclose(np.asarray(y, float), expected(half), rtol=2**-7, atol=2**-7)


def test_dropout_follows_the_index_and_is_off_without():
  options = TINY._replace(dropout=0.3, attention_dropout=0.3, hidden_dropout=0.3)
  network = EncoderDecoder(11, options)
  source, target = (jax.random.randint(jax.random.key(i), (4, 5), 0, 11) for i in range(2))
  variables, index = jax.jit(network.init)(jax.random.key(2), source, target), jnp.arange(4)
  rngs = {"dropout": jax.random.key(3)}
  run = jax.jit(lambda source, target, index: network.apply(variables, source, target, None, index, rngs=rngs))
  dropped = run(source, target, index)
  assert_close(run(source[::-1], target[::-1], index[::-1]), dropped[::-1])
  assert not np.allclose(dropped, run(source, target, index[::-1]), atol=1e-2)
  plain = EncoderDecoder(11, TINY).apply(variables, source, target)
  assert_close(run(source, target, None), plain)


def test_bfloat16_computes_in_bfloat16_and_keeps_float32_parameters():
  network = EncoderDecoder(11, TINY._replace(dtype=jnp.bfloat16))
  shapes = jax.eval_shape(network.init, jax.random.key(0), ids, ids)
  assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype("float32")}
  assert jax.eval_shape(network.apply, shapes, ids, ids).dtype == jnp.bfloat16


@pytest.mark.parametrize("dtype", [jnp.float16, jnp.bfloat16])
def test_attention_in_half_precision(dtype):
  needs(dtype)
  keys = jax.random.split(jax.random.key(0), 4)
  q, k, v = (jax.random.normal(key, (2, 3, 2, 4)).astype(dtype) for key in keys[:3])
  options = dict(mask=jnp.array([[True, True, False], [True] * 3])[:, None, None], causal=True)
  options |= dict(bias=jax.random.normal(keys[3], (1, 2, 3, 3)).astype(dtype))
  y = jax.jit(partial(attend, **options))(q, k, v)
  assert y.dtype == dtype
  expected = jax.jit(partial(attend, **options))(*(x.astype(jnp.float32) for x in (q, k, v)))
  # The weights' rounding and the output's: half an eps each, of averages of v.
  np.testing.assert_allclose(y.astype(jnp.float32), expected, atol=float(jnp.finfo(dtype).eps * jnp.abs(v).max()))


def test_says_what_does_not_fit():
  with pytest.raises(UserError, match="normalises 'pre' or 'post', not 'before': change its norm"):
    jax.eval_shape(LanguageModel(5, SIZES["Transformer base"]._replace(norm="before")).init, jax.random.key(0), ids)
  network = LanguageModel(5, PLACES["learned, pre-norm"])
  variables = jax.jit(network.init)(jax.random.key(0), ids)
  run = jax.jit(network.apply)
  for wrong in (5, -1):
    tokens = jnp.array([[0, wrong, 1], [0, 4, 1]])
    with pytest.raises(UserError, match="0 to 4"):
      network.apply(variables, tokens)
    logits = run(variables, tokens)  # where the compiler does not know the tokens, no number comes out
    assert jnp.isnan(logits[0, 1:]).all()
    assert jnp.isfinite(logits[1]).all()
  with pytest.raises(UserError, match="12 positions"):
    network.apply(variables, jnp.zeros((1, 13), jnp.int32))
  with pytest.raises(UserError, match="12 positions"):
    network.stepper(variables["params"], ids, 13)
  with pytest.raises(UserError, match="even width"):
    rotary(jnp.zeros((1, 2, 1, 3)), ids[:, :2])


# --- Positions --------------------------------------------------------------------------------------------------------


@pytest.fixture
def known():
  with np.load(FIXTURES / "positions.npz") as arrays:
    return dict(arrays)


def test_sinusoids_equal_the_libraries(known, x64):
  for name, interleaved in (("halves", False), ("interleaved", True)):
    expected = known[f"sinusoids/{name}"]
    ours = sinusoids(jnp.arange(11), expected.shape[1], interleaved=interleaved, dtype=jnp.float64)
    assert_close(ours, expected, terms=10, scale=11)  # of an angle of 11 radians at most


def test_rotary_equals_the_libraries_and_sees_distances_alone(known, x64):
  x, at = jnp.asarray(known["rotary/x"]), jnp.asarray(known["rotary/positions"])
  furthest = at.max() * jnp.abs(x).max()  # an angle's rounding grows with the position
  for name, interleaved in (("halves", False), ("interleaved", True)):
    turn = partial(rotary, period=100.0, interleaved=interleaved)
    assert_close(turn(x, at), known[f"rotary/{name}"], terms=10, scale=furthest)
    products = lambda shift, turn=turn: jnp.einsum("bqhd,bkhd->bhqk", turn(x, at + shift), turn(x[::-1], at + shift))
    assert_close(products(13), products(0), scale=(at.max() + 13) * jnp.abs(products(0)).max())


def test_relative_buckets_equal_t5s(known):
  names = [name for name in known if name.startswith("relative/") and name != "relative/distance"]
  assert len(names) == 4
  for name in names:
    bidirectional, buckets, most = name.removeprefix("relative/").split(", ")
    options = dict(bidirectional=bidirectional == "True", buckets=int(buckets), most=int(most))
    np.testing.assert_array_equal(relative_bucket(jnp.asarray(known["relative/distance"]), **options), known[name])


def test_relative_bias_is_its_tables_entry():
  module = Relative(2, buckets=8, most=6)
  variables = module.init(jax.random.key(0), jnp.arange(5)[None], jnp.arange(7))
  bias = module.apply(variables, jnp.arange(5)[None], jnp.arange(7))
  table = variables["params"]["table"]
  assert bias.shape == (1, 2, 5, 7)
  np.testing.assert_array_equal(bias[0, :, 4, 1], table[relative_bucket(jnp.array(-3), buckets=8, most=6)])
