"""Classifier-free guidance with Qwen-Image's norm rescale."""

from torch import Tensor


def guide(conditional_TC: Tensor, unconditional_TC: Tensor, scale: float) -> Tensor:
    """unconditional + scale (conditional - unconditional), each token at the conditional's norm.

    Classifier-free guidance: Ho and Salimans 2022 (arXiv 2207.12598); the rescale per packed token
    is QwenImagePipeline's. The reference divides by zero for a zero vector; here it stays zero.
    """
    guided = unconditional_TC + scale * (conditional_TC - unconditional_TC)
    norm = guided.norm(dim=-1, keepdim=True)
    wanted = conditional_TC.norm(dim=-1, keepdim=True)
    return guided * (wanted / norm.masked_fill(norm == 0, 1))
