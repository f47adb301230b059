"""Learning from human feedback, in four stages, on snippets of film reviews that people have rated.

Paper: Ouyang et al. 2022, Training language models to follow instructions with human feedback (InstructGPT),
https://arxiv.org/abs/2203.02155; Rafailov et al. 2023, Direct preference optimization, https://arxiv.org/abs/2305.18290

    jaxgen train rlhf_snippets --corpus FILE
    jaxgen train snippets_reward --corpus FILE --language runs/rlhf_snippets
    jaxgen train snippets_dpo --corpus FILE --language runs/rlhf_snippets
    jaxgen train snippets_ppo --corpus FILE --language runs/rlhf_snippets --reward runs/snippets_reward
    jaxgen sample runs/snippets_ppo --n 16
    python benchmarks/rlhf_frontier.py runs/rlhf_snippets runs/snippets_reward runs/snippets_dpo runs/snippets_ppo

FILE has tab separated lines of source, id, mean rating and text, as VADER's have (Hutto and Gilbert 2014). A language
model learns snippets; a reward model learns which of two is rated higher; a policy that writes snippets is trained by
PPO on the reward model, or by DPO on people's preferences; it starts from the language model, which is its reference.
There are no prompts: a snippet is the answer to nothing.

Expect: not measured
Cost: not measured; sized for minutes on a CPU
"""

from typing import Literal, NamedTuple

from jaxgen import Experiment, optimizers
from jaxgen.core.errors import UserError
from jaxgen.data import feedback
from jaxgen.evaluation.evaluators import accuracy, means
from jaxgen.evaluation.likelihood import likelihood
from jaxgen.interop import runs
from jaxgen.methods.feedback.ppo import Networks, Penalty, Settings, ppo
from jaxgen.methods.feedback.preference import conservative, dpo, ipo, preferences
from jaxgen.methods.feedback.reward import reward_model
from jaxgen.methods.feedback.tuning import fine_tuning
from jaxgen.nn.sequence.scorer import Scorer
from jaxgen.nn.sequence.transformer import LanguageModel, gpt


class Stage(NamedTuple):
  """A stage's recipe.

  Attributes:
    needs: the flags without which it would learn from random weights.
    count: snippets in a ranking; None: single ones.
  """

  steps: int
  batch_size: int
  learning_rate: float
  needs: tuple[str, ...] = ()
  beta: float = 0.0
  count: int | None = None


STAGES = {
  "language": Stage(1_500, 64, 1e-3),
  "reward": Stage(600, 64, 3e-4, count=2),
  "dpo": Stage(300, 64, 1e-4, ("language",), beta=0.1, count=2),
  "ppo": Stage(300, 128, 1e-4, ("language", "reward"), beta=0.05),
}
OBJECTIVES = {"dpo": dpo, "ipo": ipo, "conservative": conservative(0.1)}
NAMES = {"snippets_reward": {"stage": "reward"}, "snippets_dpo": {"stage": "dpo"}, "snippets_ppo": {"stage": "ppo"}}


def experiment(
  stage: Literal[*STAGES] = "language",
  language: str | None = None,
  reward: str | None = None,
  corpus: str = "data/rated_snippets.tsv",
  ratings_of: str = "movieReview",
  vocabulary: int = 1_000,
  length: int = 96,
  steps: int | None = None,
  batch_size: int | None = None,
  learning_rate: float | None = None,
  dropout: float = 0.1,
  objective: Literal[*OBJECTIVES] = "dpo",
  beta: float | None = None,
  kl_target: float | None = None,
  minibatches: int = 4,
  epochs: int = 1,
  pretraining: float = 0.0,
) -> Experiment:
  """Steps, batch size, rate and beta that are not given are the stage's.

  Args:
    stage: the stage to train.
    language: the run of the language model that the stage starts from; DPO and PPO need one.
    reward: the run of the reward model, which PPO needs.
    corpus: the file of rated snippets.
    ratings_of: the source whose snippets are read.
    vocabulary: number of tokens of byte pair encoding.
    length: tokens of a snippet, those that start and end it included; longer ones are cut, of film reviews one in 200.
    dropout: of the language model and of the reward model while they learn; DPO and PPO have none.
    objective: DPO's loss: its own, IPO's, or the one that assumes that a tenth of the preferences is wrong.
    beta: what deviations from the language model cost.
    kl_target: KL in nats per snippet that PPO steers beta to; beta is fixed by default.
    minibatches: PPO's updates in a step.
    epochs: steps in which PPO uses the same snippets.
    pretraining: weight of the likelihood of people's snippets in PPO's loss (PPO-ptx).
  """
  chosen, sources = STAGES[stage], {"language": language, "reward": reward}
  if lacking := [f"--{name} RUN" for name in chosen.needs if not sources[name]]:
    raise UserError(f"{stage} would learn from random weights: give {' and '.join(lacking)}")
  if reward and "reward" not in chosen.needs:
    raise UserError(f"the stage {stage} has no reward model: leave out --reward")
  given = lambda value, default: default if value is None else value
  steps, batch_size = given(steps, chosen.steps), given(batch_size, chosen.batch_size)
  snippets = feedback.rated(corpus, ratings_of, length=length, vocabulary=vocabulary, count=chosen.count)
  options = gpt(128, 4, 3, length, dropout=dropout if stage in ("language", "reward") else 0.0)
  network, scorer = LanguageModel(vocabulary, options), Scorer(vocabulary, options)
  rate, beta = given(learning_rate, chosen.learning_rate), given(beta, chosen.beta)
  adam = lambda decay=0.0: optimizers.adam(rate, steps, warmup=min(50, steps), clip=1.0, weight_decay=decay)
  begin, judge = (runs.frozen(folder) if folder else None for folder in (language, reward))
  if stage == "language":
    method = fine_tuning(network, spec=snippets.spec, optimizer=adam(0.1), start=begin)
    evaluators = (likelihood(),)
  elif stage == "reward":
    method = reward_model(scorer, spec=snippets.spec, optimizer=adam(0.1), start=begin)
    evaluators = (accuracy(), means("pair_nats"))
  elif stage == "dpo":
    method = preferences(
      network, spec=snippets.spec, optimizer=adam(), beta=beta, objective=OBJECTIVES[objective], reference=begin
    )
    evaluators = (accuracy(), means("loss", "reward_preferred", "reward_other"))
  else:
    method = ppo(
      Networks(network, scorer, reference_from=begin, reward_from=judge),
      spec=snippets.spec,
      optimizer=adam(),
      value_optimizer=adam(),
      penalty=Penalty(beta, kl_target),
      settings=Settings(minibatches, epochs, pretraining=pretraining),
    )
    evaluators = (means("reward", "kl_nats", "answer_tokens"),)
  return Experiment(
    method=method,
    data=snippets,
    steps=steps,
    batch_size=batch_size,
    evaluators=evaluators,
    render=feedback.render(snippets.name),
    evaluate_every=100,
    checkpoint_every=100,
    samples=0 if stage == "reward" else 16,
    sample_chunk=16,
    evaluate_batch=128,
  )
