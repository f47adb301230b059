"""MAE's weights in the layout of transformers' `ViTMAEForPreTraining`, as in its files."""

from jaxgen.interop.layout import Entry, same, shaped, stacked
from jaxgen.interop.vit import affine, norm, patches, row, table, transformers_block
from jaxgen.nn.selfsupervised.mae import MAE


def _within(prefix: str, entries: list[Entry]) -> list[Entry]:
  """Entries of a network that is a part of ours."""
  return [entry._replace(ours=entry.ours.replace("params/", f"params/{prefix}/", 1)) for entry in entries]


def transformers(network: MAE, blocks: str = "decoder_layers") -> list[Entry]:
  """For an encoder with a class token, which all of theirs have.

  Args:
    network: ours.
    blocks: the name of the decoder's blocks: that of the published files. Files that transformers 5.17 writes have
      "decoder_encoder.layer".
  """
  encoder, block = network.backbone, "params/encoder/blocks"
  layers = [transformers_block(f"vit.encoder.layer.{i}", block, "attention") for i in range(encoder.depth)]
  decoder = [
    transformers_block(f"decoder.{blocks}.{i}", "params/decoder/blocks", "attention") for i in range(network.depth)
  ]
  theirs = [
    row("vit.embeddings.cls_token", "params/class_token", encoder.width),
    table("vit.embeddings.position_embeddings", "params/positions", encoder.width, 1),
    *patches("vit.embeddings.patch_embeddings.projection"),
    *stacked(layers),
    *norm("vit.layernorm", "params/norm"),
  ]
  return [
    *_within("backbone", theirs),
    row("decoder.mask_token", "params/mask_token", network.width),
    shaped(same("decoder.decoder_pos_embed", "params/positions"), (1, -1, network.width), (-1, network.width)),
    *affine("decoder.decoder_embed", "params/decoder_embed"),
    *stacked(decoder),
    *norm("decoder.decoder_norm", "params/decoder_norm"),
    *affine("decoder.decoder_pred", "params/decoder_pred"),
  ]
