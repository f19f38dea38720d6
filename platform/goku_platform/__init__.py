"""The command line around training: plan a run, start it, watch it, bring it back. Needs no torch.

It sees only goku.config (what a run is) and goku.contract (what a run leaves behind).
"""
