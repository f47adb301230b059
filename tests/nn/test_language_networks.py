"""BERT with its heads and the GPT family against transformers' own (tests/fixtures/make_language.py)."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from packed import expected_of, load
from rounding import assert_close

from jaxgen.core.errors import UserError
from jaxgen.interop import encoder, layout
from jaxgen.interop import gpt as gpt_layouts
from jaxgen.nn.blocks.attention import Attention
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence import gpt
from jaxgen.nn.sequence.bert import BERT, Reader
from jaxgen.nn.sequence.options import SIZES, Options
from jaxgen.nn.sequence.transformer import LanguageModel
from jaxgen.nn.sequence.transformer import gpt as gpt2

DOUBLE = dict(dtype=jnp.float64, param_dtype=jnp.float64)


def doubled(options: Options, **changes) -> Options:
  return options._replace(absolute=partial(Learned, 9, **{"param_dtype": jnp.float64}), **DOUBLE)._replace(**changes)


def small(**changes) -> Options:
  return doubled(SIZES["BERT base"], **dict(features=12, heads=3, hidden=10, depth=2) | changes)


cross_entropy = optax.softmax_cross_entropy_with_integer_labels
bert_arguments = lambda a: {k: a[k] for k in ("tokens", "mask", "types")}


def told(outputs, a):
  """BERT's two losses: the mean over all selected tokens, and over examples."""
  logits, following = outputs
  selected = a["labels"] != -100
  nats = jnp.sum(cross_entropy(logits, jnp.where(selected, a["labels"], 0)) * selected) / jnp.sum(selected)
  loss = nats + jnp.mean(cross_entropy(following, a["following"]))
  return dict(logits=logits * a["mask"][..., None], following=following, loss=loss)


def ends(logits, a):
  """A span's: the mean of the cross-entropies of its first and of its last token."""
  nats = cross_entropy(jnp.moveaxis(logits, 2, 1), a["labels"])
  return dict(logits=logits * a["mask"][..., None], loss=jnp.mean(nats))


def following(logits, a):
  return dict(logits=logits, loss=jnp.mean(cross_entropy(logits[:, :-1], a["tokens"][:, 1:])))


# (network of changed options, layout, what the call is told, outputs of the call)
KNOWN = {
  "BERT": (lambda **c: BERT(13, small(**c), 3), encoder.pretraining, bert_arguments, told),
  "BERT, sequences": (
    lambda **c: Reader(13, 3, small(**c), 3),
    encoder.reading,
    bert_arguments,
    lambda logits, a: dict(logits=logits, loss=jnp.mean(cross_entropy(logits, a["labels"]))),
  ),
  "BERT, spans": (
    lambda **c: Reader(13, 2, small(**c), 3, of="tokens"),
    partial(encoder.reading, head="qa_outputs"),
    bert_arguments,
    ends,
  ),
  "GPT": (
    lambda **c: LanguageModel(13, doubled(gpt.gpt1(9, 3, 2, 9), **c)),
    gpt_layouts.openai_gpt,
    lambda a: dict(tokens=a["tokens"]),
    following,
  ),
  "GPT-2": (
    lambda **c: LanguageModel(13, doubled(gpt2(9, 3, 2, 9), **c)),
    gpt_layouts.gpt2,
    lambda a: dict(tokens=a["tokens"]),
    following,
  ),
  "GPT-Neo": (
    lambda **c: LanguageModel(13, doubled(gpt.gpt_neo(9, 3, 4, 9, band=3), **c)),
    gpt_layouts.gpt_neo,
    lambda a: dict(tokens=a["tokens"]),
    following,
  ),
}


def read(name: str, **changes):
  build, entries_of, arguments_of, _ = KNOWN[name]
  arrays, network = load("language.npz", name), build(**changes)
  given = {k: jnp.asarray(a) for k, a in arrays["argument"].items()}
  shapes = jax.eval_shape(partial(network.init, jax.random.key(0)), **arguments_of(given))
  return arrays, given, network, entries_of(network), layout.read(entries_of(network), arrays["weight"], shapes)


@pytest.mark.parametrize("name", KNOWN)
def test_equals_transformers(name, x64):
  """Outputs, the library's own loss, and gradients, to 1e-9."""
  arrays, given, network, entries, variables = read(name)
  _, _, arguments_of, outputs_of = KNOWN[name]

  def loss(variables):
    outputs = outputs_of(network.apply(variables, **arguments_of(given)), given)
    return sum(jnp.sum(outputs[k] * c) for k, c in arrays["cotangent"].items()), outputs

  gradient, outputs = jax.jit(jax.grad(loss, has_aux=True))(variables)
  groups = {"output": outputs, "gradient": layout.write(entries, gradient)}
  ours = {f"{group}/{k}": np.asarray(a) for group, found in groups.items() for k, a in found.items()}
  expected = expected_of(arrays)
  assert expected.keys() == ours.keys()
  for k, array in expected.items():
    np.testing.assert_allclose(ours[k], array, rtol=1e-9, atol=1e-9, err_msg=k)


MISTAKES = {
  "BERT": dict(activation=partial(jax.nn.gelu, approximate=True), eps=1e-5, heads=2),
  "GPT": dict(norm="pre", activation=partial(jax.nn.gelu, approximate=False), eps=1e-12, heads=1),
  "GPT-2": dict(activation=partial(jax.nn.gelu, approximate=False), eps=1e-6, heads=1),
  "GPT-Neo": dict(attention=Attention, windows=(None, 4), eps=1e-6),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_fixtures_tell_mistakes(name, x64):
  for option, value in MISTAKES[name].items():
    if option == "norm":  # there is a parameter more
      with pytest.raises(UserError, match="ln_f"):
        read(name, norm=value)
      continue
    arrays, given, network, _, variables = read(name, **{option: value})
    logits = jax.jit(network.apply)(variables, **KNOWN[name][2](given))
    logits = logits[0] * given["mask"][..., None] if name == "BERT" else logits
    assert np.abs(logits - arrays["output"]["logits"]).max() > 1e-7, option


@pytest.mark.parametrize("name", KNOWN)
def test_weights_go_back_as_they_came(name, x64):
  arrays, _, _, entries, variables = read(name)
  back = layout.write(entries, variables)
  assert back.keys() == arrays["weight"].keys()
  for k, array in arrays["weight"].items():
    np.testing.assert_array_equal(back[k], array)


def test_a_pretrained_file_is_read_under_a_fresh_head(x64):
  arrays, _, _, _, variables = read("BERT")
  for network in (Reader(13, 5, small(), 3), Reader(13, 2, small(), 3, of="tokens")):
    shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
    found = layout.read(encoder.reading(network), arrays["weight"], shapes, fresh=("params/out",))
    assert found["params"].keys() == {"bert"}
    table = variables["params"]["bert"]["embedding"]["table"]
    np.testing.assert_array_equal(found["params"]["bert"]["embedding"]["table"], table)
  masked = BERT(13, small(), 3, next_sentence=False)
  shapes = jax.eval_shape(masked.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
  assert "following" not in layout.read(encoder.pretraining(masked), arrays["weight"], shapes)["params"]


def count(network) -> int:
  shapes = jax.eval_shape(network.init, jax.random.key(0), jnp.zeros((1, 3), jnp.int32))
  return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_parameters_at_the_published_sizes():
  assert count(BERT(30_522, SIZES["BERT base"])) == 110_106_428
  assert count(BERT(30_522, SIZES["BERT base"], next_sentence=False)) == 109_514_298
  published = {
    "GPT-2 small": 124_439_808, "GPT-2 medium": 354_823_168, "GPT-2 large": 774_030_080, "GPT-2 XL": 1_557_611_200,
    "GPT-3 small": 125_226_240, "GPT-3 13B": 12_853_386_240, "GPT-3 175B": 174_604_259_328,
  }  # fmt: skip
  assert count(LanguageModel(40_478, gpt.SIZES["GPT"])) == 116_534_784
  assert {name: count(LanguageModel(50_257, gpt.SIZES[name])) for name in published} == published
  # Table 2.1's numbers, rounded as there; the row "13B" says 13.0, and neither 5,120 nor 5,140 features have so many.
  table = {"medium": 350, "large": 760, "XL": 1_300, "2.7B": 2_700, "6.7B": 6_700, "13B": 13_000, "175B": 175_000}
  for name, millions in table.items():
    assert abs(count(LanguageModel(50_257, gpt.SIZES[f"GPT-3 {name}"])) / 1e6 / millions - 1) < 0.025, name


def reads(network, variables, tokens, **told):
  """[T, T], which token each output depends on, by the Jacobian with respect to vectors that are added to theirs."""

  def run(x):
    add = lambda following, arguments, options, context: (
      following(*arguments, **options) + x if context.module.name == "embedding" and context.method_name == "__call__"
      else following(*arguments, **options)
    )  # fmt: skip
    with nn.intercept_methods(add):
      return network.apply(variables, tokens, **told)[0]

  x = jnp.zeros((tokens.shape[1], network.options.features), network.options.dtype)
  return np.asarray(jnp.any(jax.jit(jax.jacobian(run))(x) != 0, axis=(1, 3)))


def test_bands_by_jacobian():
  """One dense block reads everything before, one banded block the last three; both take turns."""
  tokens, place = jnp.arange(7)[None], np.arange(7)
  distance = place[:, None] - place
  for windows, depth, expected in (
    ((None,), 1, distance >= 0),
    ((3,), 1, (distance >= 0) & (distance < 3)),
    ((3,), 2, (distance >= 0) & (distance < 5)),  # two bands of three, one upon the other
    ((3, 1), 2, (distance >= 0) & (distance < 3)),
    ((None, 2), 2, distance >= 0),
  ):
    network = LanguageModel(7, gpt2(8, 2, depth, 7)._replace(windows=windows))
    variables = jax.jit(network.init)(jax.random.key(0), tokens)
    np.testing.assert_array_equal(reads(network, variables, tokens), expected, err_msg=str(windows))


def test_cached_decoding_of_bands_equals_the_full_pass(x64):
  network = LanguageModel(11, gpt2(8, 2, 4, 9, dtype=jnp.float64)._replace(windows=(None, 3)))
  tokens = jax.random.randint(jax.random.key(0), (3, 9), 0, 11)
  variables = jax.jit(network.init)(jax.random.key(1), tokens)
  expected = jax.jit(network.apply)(variables, tokens)
  step, carry = network.stepper(variables["params"], tokens[:, :2], 9)
  step = jax.jit(step)
  for t in range(2, 9):
    logits, carry = step(carry, tokens[:, t])
    assert_close(logits, expected[:, t])


def test_packed_documents_are_as_alone(x64):
  """A document in a row of several has the logits that it has alone: no attention, no position crosses a border."""
  network = LanguageModel(11, gpt2(8, 2, 2, 9, dtype=jnp.float64))
  tokens = jax.random.randint(jax.random.key(0), (2, 9), 0, 11)
  documents = jnp.array([[1, 1, 1, 2, 2, 2, 2, 3, 0], [1, 2, 2, 2, 2, 2, 2, 2, 2]])
  variables = jax.jit(network.init)(jax.random.key(1), tokens)
  together = jax.jit(network.apply)(variables, tokens, documents=documents)
  for row, first, last in ((0, 0, 3), (0, 3, 7), (0, 7, 8), (1, 0, 1), (1, 1, 9)):
    alone = network.apply(variables, tokens[row : row + 1, first:last])
    assert_close(together[row, first:last], alone[0])

  same = np.asarray(documents[0])[:, None] == np.asarray(documents[0])
  found = reads(network, variables, tokens[:1], documents=documents[:1])
  np.testing.assert_array_equal(found, same & np.tri(9, dtype=bool))
