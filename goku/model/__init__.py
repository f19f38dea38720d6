"""The Goku transformer: one block, the stack of them, its initial weights and its cost."""

from goku.model.init import build
from goku.model.transformer import Goku

__all__ = ["Goku", "build"]
