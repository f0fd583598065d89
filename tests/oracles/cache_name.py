"""What the installed transformers calls a model's cache: one name from 5.24 on, two before, and the old ones warn."""

import inspect

from transformers import LlamaModel, MambaModel


def _name(model, old):
    return "cache" if "cache" in inspect.signature(model.forward).parameters else old


ATTENTION = _name(LlamaModel, "past_key_values")
STATE_SPACE = _name(MambaModel, "cache_params")
