"""Latents to tokens and back: 1 x p x p patches (the paper's patch size is inferred, not stated).

Tokens run over t, then h, then w; inside a token the channels vary fastest.
"""

from einops import rearrange
from torch import Tensor


def patchify(z_CTHW: Tensor, patch: int) -> Tensor:
    """Cut latents into tokens x_NP: N = T * H/patch * W/patch, P = patch * patch * C.

    Raises einops.EinopsError when height or width does not divide by the patch.
    """
    return rearrange(z_CTHW, "c t (h p) (w q) -> (t h w) (p q c)", p=patch, q=patch)


def unpatchify(x_NP: Tensor, shape: tuple[int, int, int], patch: int) -> Tensor:
    """Latents z_CTHW of the latent shape (T, H, W): the inverse of `patchify`."""
    frames, height, width = shape
    return rearrange(
        x_NP,
        "(t h w) (p q c) -> c t (h p) (w q)",
        t=frames,
        h=height // patch,
        w=width // patch,
        p=patch,
        q=patch,
    )
