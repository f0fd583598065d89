"""One machine's bits, set against another's."""

LEVELS = ("block", "module", "op")
"""How closely a recording looks: at blocks, at every submodule, or also at the operations of one step."""

STATES = ("none", "norm", "blocks", "all")
"""Which stages' vectors are kept beside their digests: none, the last norm's, the residual stream's, or every one's."""
