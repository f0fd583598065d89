"""An independent script: greedy tokens of SmolLM2 by transformers alone, in whatever setting it is started under.

Usage: python plain_generation.py FOLDER DTYPE TOKENS PROMPTS.json, prints a list of token ids for each prompt.
"""

import inspect
import json
import sys

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaModel

folder, dtype, tokens, prompts = sys.argv[1:]
torch.set_num_threads(1)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype)).eval()
for weight in model.parameters():
    weight.data = weight.data.clone()  # out of the mapped file, to addresses that torch aligns
tokenizer = AutoTokenizer.from_pretrained(folder)
cache = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"
said = []
for prompt in json.loads(prompts):
    ids, kept, fresh = [], None, tokenizer(prompt).input_ids
    with torch.no_grad():
        while len(ids) < int(tokens) and tokenizer.eos_token_id not in ids:
            out = model(torch.tensor([fresh]), use_cache=True, logits_to_keep=1, **{cache: kept})
            kept, row = out[cache], out.logits[0, -1]
            ids.append(int((row == row.max()).nonzero()[0]))
            fresh = ids[-1:]
    said.append(ids)
print(json.dumps(said))
