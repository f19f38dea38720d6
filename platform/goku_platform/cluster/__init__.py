"""Where jobs run: one Protocol, one file a target, and a fake beside them."""
