"""The layout of torch.nn's RNN, LSTM and GRU."""

from jaxgen.interop.layout import Entry, dense, same
from jaxgen.nn.sequence.recurrent import Recurrent


def torch(network: Recurrent) -> list[Entry]:
  """Names as in the `state_dict` of torch.nn.LSTM and its like."""
  entries = []
  for layer in range(network.layers):
    for way, end in (("forward", ""), ("backward", "_reverse"))[: 1 + network.bidirectional]:
      ours, end = f"params/{way}_{layer}", f"_l{layer}{end}"
      entries += [
        dense(f"weight_ih{end}", f"{ours}/input"),
        dense(f"weight_hh{end}", f"{ours}/hidden"),
        same(f"bias_ih{end}", f"{ours}/input_bias"),
        same(f"bias_hh{end}", f"{ours}/hidden_bias"),
      ]
  return entries
