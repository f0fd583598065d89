"""Questions and roles on a real model, next to what transformers alone computes."""

import numpy as np
import pytest
import torch

import stabilitykit as sk
from stabilitykit.prompts import NO_ROLE

pytestmark = pytest.mark.model

ASKED, ROLES, TOKENS = sk.QUESTIONS[4:6], sk.ROLES[:1], 3


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Threads that wait for each other on a busy machine take minutes; their number decides bits, so it stays fixed."""
    ambient = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(ambient)


@pytest.fixture(scope="module")
def loaded():
    return sk.load("smollm2")


@pytest.fixture(scope="module")
def suite(loaded):
    return sk.measure(sk.PromptSuite(ASKED, ROLES, TOKENS), loaded, progress=False)


@pytest.fixture(scope="module")
def geometry(loaded, suite):
    return sk.measure(sk.Geometry(ASKED, ROLES, sample=64), loaded, progress=False)


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def test_margins_are_those_of_generate_in_the_chat_template(loaded, suite):
    said = rows(suite, "prompt")[0]
    turn = [{"role": "user", "content": "Which river flows through Cairo?"}]
    text = loaded.tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=False)
    ids = loaded.tokenizer(text, add_special_tokens=False, return_tensors="pt")
    how = {"do_sample": False, "max_new_tokens": TOKENS, "return_dict_in_generate": True, "output_logits": True}
    made = loaded.model.generate(**ids, **how)
    two = torch.cat(made.logits).double().topk(2).values
    assert suite.arrays["margins"][0] == pytest.approx((two[:, 0] - two[:, 1]).numpy(), abs=1e-4)
    assert said["answer"] == "The Nile,"
    assert said["prompt_tokens"] == ids.input_ids.shape[1]
    assert suite.subject["form"] == "chat"


def test_the_states_are_those_of_the_same_forwards(loaded, suite, geometry):
    assert geometry.execution.forwards == 0, "the states of the answers were there"
    turn = [{"role": "user", "content": rows(suite, "prompt")[1]["prompt"]}]
    ids = loaded.tokenizer.apply_chat_template(turn, add_generation_prompt=True, return_dict=True, return_tensors="pt")
    with torch.no_grad():
        state = loaded.model.model(ids["input_ids"]).last_hidden_state[0, -1].double().numpy()
    assert geometry.arrays["states"][1] == pytest.approx(state, abs=1e-3)
    W = loaded.model.lm_head.weight.double().numpy()
    cosines = W @ state / np.sqrt((W * W).sum(1) * (state @ state))
    nearest = np.argsort(-cosines, kind="stable")[:10]
    found = rows(geometry, "neighbour", number=1)
    assert [row["token_id"] for row in found] == nearest.tolist()
    assert [row["cosine"] for row in found] == pytest.approx(cosines[nearest], abs=1e-6)


def test_the_weights_are_tied_and_a_role_moves_the_state(geometry):
    assert [geometry.readings[name].value for name in ("tied", "one_storage", "differing_rows")] == [1, 1, 0]
    base = {row["question"]: row["number"] for row in rows(geometry, "state", role=NO_ROLE)}
    for row in rows(geometry, "drift"):
        a, b = (geometry.arrays["states"][number] for number in (base[row["question"]], row["number"]))
        assert row["euclidean"] == pytest.approx(np.sqrt(((a - b) ** 2).sum()), rel=1e-12)
        assert 0.01 < row["cosine"] < 0.3


def test_as_plain_text_it_ends_at_once(loaded):
    """A chat model takes a finished question for a finished text: the form decides what is measured."""
    result = sk.measure(sk.PromptSuite(ASKED, (), TOKENS, form="plain"), loaded, progress=False)
    assert [row["answer"] for row in rows(result, "prompt")] == ["<|im_end|>"] * 2
