"""Goku: rectified-flow transformers for images and video, and all that trains them."""
