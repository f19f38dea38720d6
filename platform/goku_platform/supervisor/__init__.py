"""PID 1 of every pod of a run: starts the ranks, watches them, owns the exit code. Needs no torch.

`python -m goku_platform.supervisor` reads all it needs from the environment (goku.contract.env).
"""
