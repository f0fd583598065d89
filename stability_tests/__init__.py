"""The ready-made suite: run it on your model with `stabilitykit run` or `pytest --stability-suite`."""
