"""The legend of axis letters: a tensor's name ends in its axes, slowest first.

    B batch of the VAE          T latent frames        H W latent height, width   C channels
    N tokens of a packed sequence, all its samples one after another
    S segments: the samples of a pack, and its padding where there is some
    P token width: patch x patch x C                   D model width
    A attention heads           K head width           F rotated pairs: K / 2
    M text tokens of a pack     L text tokens of one sample                      Y text width

There is no batch axis in the transformer: a pack is one long sequence (Patch n' Pack), and
`goku.nn.layout.Layout` says which of its tokens belong together.
"""
