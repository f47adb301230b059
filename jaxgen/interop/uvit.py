"""U-ViT's weights under the names of the authors' files."""

from jaxgen.interop.layout import Entry, conv, same, shaped, stacked
from jaxgen.interop.vit import affine, norm, patches, timm_block
from jaxgen.nn.transformers.uvit import UViT


def authors(network: UViT) -> list[Entry]:
  half = network.depth // 2

  def down(i: int) -> list[Entry]:
    return timm_block(f"in_blocks.{i}", "params/down/block", qkv_bias=False)

  def up(i: int) -> list[Entry]:
    theirs = f"out_blocks.{i}"
    skip = affine(f"{theirs}.skip_linear", "params/up/skip")
    return [*skip, *timm_block(theirs, "params/up/block", qkv_bias=False)]

  entries = [
    *patches("patch_embed.proj"),
    shaped(same("pos_embed", "params/positions"), (1, -1, network.width), (-1, network.width)),
    *stacked([down(i) for i in range(half)]),
    *timm_block("mid_block", "params/middle/block", qkv_bias=False),
    *stacked([up(i) for i in range(half)]),
    *norm("norm", "params/norm"),
    *affine("decoder_pred", "params/out"),
    conv("final_layer.weight", "params/smooth/kernel"),
    same("final_layer.bias", "params/smooth/bias"),
  ]
  if network.classes is not None:
    entries.append(same("label_emb.weight", "params/class/embedding"))
  return entries
