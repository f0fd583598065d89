"""Real bugs, made on purpose: a catalogue of faults, and a context in which one of them is in every forward."""
