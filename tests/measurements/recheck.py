"""Check certificates of first changes again, by brute force, without a line of the kit that wrote them.

    python recheck.py FOLDER RESULT.json 0,3,5 [RESULT.json ROWS ...]

FOLDER holds the model's weights. Each chosen row of a result claims: of all distinct inputs x(s) = float32(x0 + s d),
s > 0, the first `cells - 1` leave every bit of the output as it is, and the next one, which begins at the float64 step
`s_first_changed`, right after `s_last_same`, does not. Here the inputs are enumerated by bisection over the bits of s,
a whole forward of plain transformers answers each, and a JSON list of sentences is printed, "" for a claim that holds.
"""

import copy
import inspect
import json
import math
import sys

import numpy as np
import torch
from transformers import AutoModelForCausalLM, DynamicCache, LlamaModel

CACHE = "cache" if "cache" in inspect.signature(LlamaModel.forward).parameters else "past_key_values"


class Rejected(Exception):  # noqa: N818 - it ends the check of one row
    pass


def array(data):
    return np.frombuffer(bytes.fromhex(data["hex"]), dtype=np.dtype(data["dtype"])).reshape(data["shape"]).copy()


def same(a, b):
    return a.dtype == b.dtype == torch.float32 and torch.equal(a.view(torch.int32), b.view(torch.int32))


def rounded(x0, d, s):
    return (x0.double() + torch.tensor(s, dtype=torch.float64) * d).to(torch.float32)


def next_step(x0, d, s):
    """The first float64 after s with another input: no coordinate ever turns back, so equality is monotone in s."""
    here = rounded(x0, d, s)
    low, high = int(np.float64(s).view(np.int64)), int(np.float64(1e6).view(np.int64))
    while high - low > 1:
        middle = (low + high) // 2
        if same(rounded(x0, d, float(np.int64(middle).view(np.float64))), here):
            low = middle
        else:
            high = middle
    return float(np.int64(high).view(np.float64))


@torch.no_grad()
def outputs(model, subject):
    """Return x0 and a function from an input and a slot to the output in that slot, in a batch of copies of x0."""
    E = model.get_input_embeddings()(torch.tensor([subject["token_ids"]])).repeat(subject["batch"], 1, 1)
    past = None
    if subject["path"] == "decode":
        past = DynamicCache(config=model.config)
        model.base_model(inputs_embeds=E[:, :-1], **{CACHE: past}, use_cache=True)

    @torch.no_grad()
    def output(x, slot):
        rows = E.clone()
        rows[slot, -1] = x
        if past is None:
            state = model.base_model(inputs_embeds=rows, use_cache=False)
        else:
            cache = copy.deepcopy(past)
            state = model.base_model(inputs_embeds=rows[:, -1:], **{CACHE: cache}, use_cache=True)
        return state.last_hidden_state[slot, -1].clone()

    return E[0, -1].clone(), output


def check(row, d, x0, y0, output):
    """Raise Rejected with the first thing that is not as the row says."""
    last, first, slot = row["s_last_same"], row["s_first_changed"], row["slot"]
    if not same(output(x0, slot), y0):
        raise Rejected("the baseline has other bits")
    if row["exact"] is not True or row["censored"] is not False:
        raise Rejected("the row claims no exact boundary")
    if math.nextafter(last, math.inf) != first or row["radius"] != last:
        raise Rejected("the pair is not adjacent")
    if same(rounded(x0, d, last), rounded(x0, d, first)):
        raise Rejected("the input is the same on both sides")
    step, cells = next_step(x0, d, 0.0), 1
    while step < first:
        if not same(output(rounded(x0, d, step), slot), y0):
            raise Rejected(f"distinct input {cells} differs already")
        step, cells = next_step(x0, d, step), cells + 1
    if step != first:
        raise Rejected("no distinct input begins at the claimed step")
    if cells != row["cells"]:
        raise Rejected(f"{cells} distinct inputs, not {row['cells']}")
    if same(output(rounded(x0, d, first), slot), y0):
        raise Rejected("the output does not differ beyond the boundary")


def verdicts(model, result, rows):
    arrays = {name: array(data) for name, data in result["arrays"].items()}
    x0, output = outputs(model, result["subject"])
    if not np.array_equal(arrays["x0"], x0.double().numpy()):
        raise SystemExit("the recorded input is not the prompt's last embedding")
    for index in rows:
        row = result["rows"][index]
        y0 = torch.from_numpy(arrays["y0"][row["slot"]]).float()
        try:
            check(row, torch.from_numpy(arrays["directions"][index]), x0, y0, output)
            yield ""
        except Rejected as rejected:
            yield str(rejected)


def main(folder, *files):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32, local_files_only=True).eval()
    answers = []
    for file, rows in zip(files[::2], files[1::2], strict=True):
        with open(file, encoding="utf-8") as stream:
            answers += verdicts(model, json.load(stream), [int(row) for row in rows.split(",")])
    assert not any(name.startswith("stabilitykit") for name in sys.modules)
    print(json.dumps(answers))


if __name__ == "__main__":
    main(*sys.argv[1:])
