"""The data sets `feedback:TOKENIZER:FILE` and `rated:TOKENIZER:SOURCE:FILE`: answers to prompts, and rankings of them.

FILE is of JSON lines, `.jsonl`, or tab separated, `.tsv`, whose first line names its fields. After a hash mark stand
the names of the fields to read: the prompt's, which is empty if there are no prompts, and the answers', the best first:

    data/answers.jsonl#prompt,answer       rows                  the default for rows
    data/pairs.tsv#prompt,chosen,rejected  pairs                 the default for rankings
    data/ranked.jsonl#question,answers     rankings, of a field that is a list
    data/notes.jsonl#,text                 rows without prompts

TOKENIZER is the number of tokens of byte pair encoding, trained on the split "train" of the file, or a published one
(`data.sources.tokenizer`), with which files share their tokens. The split "test" is every tenth line, "train" the rest.

    {"tokens": int32 [length], "prompt": int32 []}         rows: a token that starts it, prompt, answer, end, padding
    {"tokens": int32 [K, length], "prompt": int32 []}      rankings: rows of K answers to one prompt, the best first

"prompt" is the number of the prompt's tokens, the one that starts a row included. `rated` reads tab separated lines of
source, id, rating and text without names, of one SOURCE, and gives texts without prompts; its rankings are of K texts
that are drawn together, in the order of their "rating" (float32, [] or [K]). Each text is in ROUNDS of them.
"""

import functools
import math
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jaxgen.core.errors import NoSplit, UserError
from jaxgen.data.sources import bpe, tokenizer
from jaxgen.data.sources.base import About, Arrays, Request, json_of, text_of
from jaxgen.data.sources.pairs import SPECIAL

TEST_EVERY = 10  # lines; files are often sorted, by label for one
ROUNDS = 4
DEFAULTS = {1: "prompt,answer", 2: "prompt,chosen,rejected"}
ENDS = (SPECIAL[2], "<|endoftext|>", "</s>", "[SEP]")


class Ranked(NamedTuple):
  """A prompt and its answers, the best first, from a line of a file."""

  line: int
  prompt: str
  answers: tuple[str, ...]


class Marks(NamedTuple):
  """The special tokens of rows."""

  start: int
  end: int
  pad: int


def _parts(name: str) -> tuple[str, str, str, str]:
  """(kind, tokenizer, source of ratings or fields, file)."""
  kind, _, rest = name.partition(":")
  which, _, file = rest.partition(":")
  if kind == "rated":
    source, _, file = file.partition(":")
  else:
    file, _, source = file.partition("#")
  if not which or not file:
    form = "rated:TOKENIZER:SOURCE:FILE" if kind == "rated" else "feedback:TOKENIZER:FILE"
    raise UserError(f"{name!r} is not {form}: give the number of tokens of one that is trained, or a published one")
  return kind, which, source, file


def _text(file: str) -> tuple[Path, str]:
  path = Path(file).expanduser()
  return path, text_of(path, f"there is no file {path.absolute()}: give a .jsonl or a .tsv")


@functools.lru_cache(maxsize=4)
def read(file: str, fields: str) -> tuple[Ranked, ...]:
  """The lines of a file.

  Args:
    fields: the names of the prompt and of the answers, with commas between.

  Raises:
    UserError: the file cannot be read, a line has not these fields or they are no texts, a prompt's answers have the
      same text twice, or there is nothing.
  """
  path, text = _text(file)
  if path.suffix not in (".jsonl", ".tsv"):
    raise UserError(f"{path} is neither .jsonl nor .tsv: answers are read from these")
  lines = [(i, line.removesuffix("\r")) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
  header = lines.pop(0)[1].split("\t") if path.suffix == ".tsv" and lines else []
  asked, *names = fields.split(",")
  if not names:
    raise UserError(f"{fields!r} names no answers: give the prompt's field and the answers', prompt,answer for one")
  found = []
  for number, line in lines:
    where = f"{path}, line {number},"
    try:
      record = json_of(line) if path.suffix == ".jsonl" else dict(zip(header, line.split("\t"), strict=True))
      prompt = record[asked] if asked else ""
      answers = [answer for name in names for answer in _listed(record[name])]
    except (ValueError, TypeError):
      kind = "JSON object of Unicode texts" if not header else f"line of {len(header)} fields"
      raise UserError(f"{where} is not a {kind}") from None
    except KeyError as error:
      raise UserError(f"{where} has no field {error}: it has {', '.join(record)}; name them after a #") from None
    if not all(isinstance(x, str) for x in (prompt, *answers)):
      raise UserError(f"{where} has something else than texts in {fields}")
    if len(set(answers)) < len(answers):
      raise UserError(f"{where} prefers an answer to one with the same text: leave it out")
    found.append(Ranked(number, prompt, tuple(answers)))
  if not found:
    raise UserError(f"{path} has no lines with answers")
  return tuple(found)


def _listed(answer: Any) -> list:
  return answer if isinstance(answer, list) else [answer]


@functools.lru_cache(maxsize=4)
def rated(file: str, source: str) -> tuple[tuple[float, str], ...]:
  """(rating, text) of one source's lines.

  Raises:
    UserError: the file cannot be read, has lines of another form, or has no lines of this source.
  """
  path, text = _text(file)
  found, sources = [], Counter()
  for number, line in enumerate(text.split("\n"), 1):
    if line.strip():
      try:
        which, _, rating, words = line.removesuffix("\r").split("\t")
        sources[which] += 1
        if which == source:
          found.append((_finite(rating), words))
      except ValueError:
        raise UserError(
          f"{path}, line {number}, must have source, id, rating (a finite number) and text, separated by tabs"
        ) from None
  if not found:
    raise UserError(f"{path} has no texts of {source!r}: it has those of {', '.join(sorted(sources))}")
  return tuple(found)


def _finite(text: str) -> float:
  number = float(text)
  if not math.isfinite(number):
    raise ValueError
  return number


def split_of(items: tuple, split: str) -> list:
  """Those of a split.

  Raises:
    UserError: no such split, or too few lines for it to have one.
  """
  if split not in ("train", "test"):
    raise NoSplit(f"answers have no split {split!r}: they have test, every tenth line, and train")
  if split == "test" and len(items) < TEST_EVERY:
    raise UserError(f"the split test is every {TEST_EVERY}th line, and there are {len(items)} lines: use more of them")
  return [item for i, item in enumerate(items) if (i % TEST_EVERY == TEST_EVERY - 1) == (split == "test")]


@functools.lru_cache(maxsize=4)
def tokens_of(name: str):
  """The `tokenizers.Tokenizer` of a data set.

  Raises:
    UserError: it cannot be read, or the texts do not make so many tokens.
  """
  kind, which, source, file = _parts(name)
  if not which.isdecimal():
    return tokenizer.opened(which)
  if kind == "rated":
    texts = [words for _, words in split_of(rated(file, source), "train")]
  else:
    lines = split_of(read(file, source or _default(name)), "train")
    texts = list(dict.fromkeys(text for line in lines for text in (line.prompt, *line.answers)))
  return bpe.trained(texts, int(which), Path(file), special=SPECIAL, prefix_space=False)


def _default(name: str) -> str:
  """The fields whose texts a tokenizer is trained on where none are named: those of pairs, if the file has pairs."""
  _, text = _text(_parts(name)[3])
  return DEFAULTS[2] if "chosen" in text.split("\n", 1)[0] else DEFAULTS[1]


def marks_of(name: str) -> Marks:
  """The tokens that start, end and pad a row; for a published tokenizer, all are its end-of-text token.

  Raises:
    UserError: a published tokenizer has none of the end tokens that jaxgen knows.
  """
  found = tokens_of(name)
  if all(found.token_to_id(mark) is not None for mark in SPECIAL):
    pad, start, end = (found.token_to_id(mark) for mark in SPECIAL)
    return Marks(start, end, pad)
  for mark in ENDS:
    if (number := found.token_to_id(mark)) is not None:
      return Marks(number, number, number)
  raise UserError(f"the tokenizer of {name} has no token that ends a text, such as <|endoftext|>: use another one")


def open_feedback(request: Request) -> Arrays:
  """Raises a UserError where no line is left."""
  name, shape = request.name, _shape(request, {"tokens", "prompt"})
  _, _, fields, file = _parts(name)
  wanted = 1 if len(shape) == 1 else shape[0]
  lines = split_of(read(file, fields or DEFAULTS[len(shape)]), request.split)
  enough = [line for line in lines if len(line.answers) >= wanted]
  reasons = {f"lines of fewer than {wanted} answers": len(lines) - len(enough)}
  reasons["answers of lines with more, the worst"] = sum(len(line.answers) - wanted for line in enough)
  return _arrays(request, [(line.prompt, line.answers[:wanted]) for line in enough], shape, reasons)


def open_rated(request: Request) -> Arrays:
  name, shape = request.name, _shape(request, {"tokens", "prompt", "rating"})
  _, _, source, file = _parts(name)
  items = split_of(rated(file, source), request.split)
  if len(shape) == 1:
    rows, ratings, reasons = [("", (words,)) for _, words in items], np.array([r for r, _ in items]), {}
  else:
    groups = _drawn_together(items, shape[0], 1 if request.split == "test" else ROUNDS)
    whole = [g for g in groups if len({r for r, _ in g}) == len({t for _, t in g}) == shape[0]]
    reasons = {"rankings of texts that are rated alike": len(groups) - len(whole)}
    rows = [("", tuple(words for _, words in group)) for group in whole]
    ratings = np.array([[rating for rating, _ in group] for group in whole])
  return _arrays(request, rows, shape, reasons, ratings.astype(np.float32))


def _drawn_together(items: list[tuple[float, str]], count: int, rounds: int) -> list[list[tuple[float, str]]]:
  """Groups of `count` texts, the best first; in each round every text is in one of them, but for the rest."""
  random, groups = np.random.Generator(np.random.Philox(0)), []
  for _ in range(rounds):
    order = random.permutation(len(items))[: len(items) // count * count].reshape(-1, count)
    groups += [sorted((items[i] for i in row), key=lambda item: -item[0]) for row in order]
  return groups


def _shape(request: Request, names: set[str]) -> tuple[int, ...]:
  if unknown := set(request.features) - names:
    raise UserError(f"{request.name} has {', '.join(sorted(names))}, and no {min(unknown)!r}")
  shape = request.features["tokens"].shape
  if not 1 <= len(shape) <= 2 or shape[-1] < 3:
    raise UserError(f"answers are rows [length] or rankings [K, length] of at least 3 tokens, not {shape}")
  return shape


def _arrays(request: Request, rows: list, shape: tuple[int, ...], reasons: dict, ratings=None) -> Arrays:
  """The rows in tokens, and what was left out with the reasons."""
  length, marks, found = shape[-1], marks_of(request.name), tokens_of(request.name)
  count = 1 if len(shape) == 1 else shape[0]
  encode = lambda texts: [row.ids for row in found.encode_batch(texts, add_special_tokens=False)]
  prompts = [[marks.start, *ids] for ids in encode([prompt for prompt, _ in rows])]
  flat = encode([answer for _, answers in rows for answer in answers])
  tokens, kept, cut, long, same = np.full((len(rows), count, length), marks.pad, np.int32), [], 0, 0, 0
  for i, prompt in enumerate(prompts):
    room = length - len(prompt)
    if room < 1:
      long += 1
      continue
    for k, answer in enumerate(flat[i * count : (i + 1) * count]):
      row = [*prompt, *answer, marks.end]
      cut += len(row) > length
      tokens[i, k, : len(row)] = row[:length]
    if len({row.tobytes() for row in tokens[i]}) < count:
      same += 1
      continue
    kept.append(i)
  if not kept:
    raise UserError(
      f"{request.name}, split {request.split!r}: no prompt leaves room for its answers in {length} tokens"
    )
  reasons |= {
    f"prompts of {length:,} tokens or more, which leave no room for an answer": long,
    f"ends of answers, which with their prompts are longer than {length:,} tokens": cut,
    "rankings of answers that are the same up to that length": same,
  }
  arrays = {"tokens": tokens[kept].reshape(-1, *shape)}
  arrays["prompt"] = np.array([len(prompts[i]) for i in kept], np.int32)
  if ratings is not None:
    arrays["rating"] = ratings[kept]
  about = About(left_out=tuple(f"{number:,} {reason}" for reason, number in reasons.items() if number))
  source = Arrays({name: arrays[name] for name in request.features}, about)
  source.vocabulary = found.get_vocab_size()
  return source
