"""The methods of sequences that `test_every_method.py` tests."""

from functools import partial

import numpy as np
import optax
from cases import Case

from jaxgen import data
from jaxgen.core.wrappers import averaged
from jaxgen.methods.sequence import noise
from jaxgen.methods.sequence.language import Sampling, language
from jaxgen.methods.sequence.masked import masked_language
from jaxgen.methods.sequence.masking import Masking
from jaxgen.methods.sequence.seq2seq import seq2seq
from jaxgen.nn.blocks.positions import Learned
from jaxgen.nn.sequence.bert import BERT
from jaxgen.nn.sequence.options import SIZES
from jaxgen.nn.sequence.prophetnet import LARGE, ProphetNet
from jaxgen.nn.sequence.seq2seq import Seq2Seq
from jaxgen.nn.sequence.transformer import EncoderDecoder, LanguageModel, Options, gpt
from jaxgen.nn.sequence.wavenet import WaveNet

DIGITS = data.digits()
STRINGS = data.reversed_strings(5, 6, train="1-5-1", test="3-5-1")
some_strings = lambda n: {"source": STRINGS.source("test").arrays["source"][:n]}
some_labels = lambda n: {"label": np.arange(n) % 10}


def small_seq2seq(dtype):
  network = EncoderDecoder(8, Options(8, 2, 16, 1, norm="pre", dtype=dtype, param_dtype=dtype))
  return averaged(seq2seq(network, spec=STRINGS.spec, optimizer=optax.adam(5e-3), label_smoothing=0.1), 0.9)


def recurrent_seq2seq(dtype):
  network = Seq2Seq(8, 8, 16, 8, dropout=0.1, dtype=dtype, param_dtype=dtype)
  return seq2seq(network, spec=STRINGS.spec, optimizer=optax.adam(5e-3))


def pixel_transformer(dtype):
  network = LanguageModel(18, gpt(8, 2, 1, 64, dropout=0.1, dtype=dtype))
  return averaged(language(network, spec=DIGITS.spec, start=17, optimizer=optax.adam(5e-3)), 0.9)


def pixel_wavenet(dtype):
  dtypes = dict(dtype=dtype, param_dtype=dtype)
  network = WaveNet(17, (1, 2, 4), features=8, hidden=8, skip=16, conditions=(("label", 10),), **dtypes)
  options = dict(conditions=("label",), sampling=Sampling(top_k=5))
  return language(network, spec=DIGITS.spec, start=0, optimizer=optax.adam(5e-3), **options)


def masked_strings(dtype):
  """Letters of strings are told from the others; padding, start and end are never selected."""
  options = SIZES["BERT base"]._replace(features=8, heads=2, hidden=16, depth=1, dtype=dtype, param_dtype=dtype)
  spec = STRINGS.spec
  network = BERT(spec.levels, options, next_sentence=False)
  return masked_language(network, spec=spec, optimizer=optax.adam(5e-3), masking=Masking(1, (0, 1, 2), share=0.3))


def prophecies(dtype):
  """ProphetNet tells half of each string, by two streams."""
  options = LARGE._replace(features=8, heads=2, hidden=16, depth=1, absolute=partial(Learned, 7, 1, param_dtype=dtype))
  network = ProphetNet(8, options._replace(dtype=dtype, param_dtype=dtype), 2)
  known = noise.Tokens(1, 0, (1, 2))
  method = dict(lessons=noise.mass(known), future=(0.5, 0.5))
  return seq2seq(network, spec=STRINGS.spec, optimizer=optax.adam(5e-3), **method)


CASES = {
  "seq2seq, Transformer": Case(small_seq2seq, STRINGS, conditions=some_strings, unit=("nll_nats", {"loss": 6})),
  "seq2seq, recurrent": Case(recurrent_seq2seq, STRINGS, conditions=some_strings, unit=("nll_nats", {"loss": 6})),
  "Transformer over pixels": Case(pixel_transformer, DIGITS, unit=("nll_nats", {"loss": 64})),
  "ProphetNet by MASS": Case(prophecies, STRINGS, conditions=some_strings, unit=("nll_nats", {"loss": 6})),
  "masked language": Case(masked_strings, STRINGS, unit=("masked_nats", {"loss": 1})),
  "WaveNet over pixels": Case(pixel_wavenet, DIGITS, conditions=some_labels, unit=("nll_nats", {"loss": 64})),
}
