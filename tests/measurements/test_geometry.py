"""States of prompts: against transformers and numpy alone, weights tied in three ways, and one bit that unties them."""

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from transformers.modeling_outputs import CausalLMOutput

import stabilitykit as sk
from stabilitykit.measurements.first_states import FirstState, first_states
from stabilitykit.measurements.state_rows import compared
from stabilitykit.measurements.tying import histograms, sampled, tying
from stabilitykit.numerics.bits import nudge
from stabilitykit.numerics.digest import digest
from stabilitykit.numerics.pairwise import Pairs
from stabilitykit.prompts import NO_ROLE, crossed
from stabilitykit.subjects.anatomy import find
from stabilitykit.subjects.noise import threads

ASKED = (sk.Prompt("a fact?", "factual"), sk.Prompt("no fact?", "unfactual"), sk.Prompt("two?", "factual"))
ROLES = sk.ROLES[:2]
SPECS = ("tiny", "tiny:gpt2", "tiny:gemma2")


def value(result, name):
    return result.readings[name].value


def rows(result, part, **where):
    kept = [row for row in result.rows if row["part"] == part]
    return [row for row in kept if all(row[name] == wanted for name, wanted in where.items())]


def asked(loaded, **how):
    how = {"questions": ASKED, "roles": ROLES, "sample": 40, "nearest": 4, **how}
    return sk.measure(sk.Geometry(**how), loaded, progress=False)


def cosine(a, b):
    return float(a @ b / math.sqrt(float(a @ a) * float(b @ b)))


@pytest.fixture(scope="module", params=SPECS)
def plain(request):
    """A model, its result, and states and logits by transformers alone."""
    loaded = sk.load(request.param)
    states, logits = [], []
    for one in crossed(ASKED, ROLES):
        ids = torch.tensor([loaded.tokenizer(one.text).input_ids])
        with torch.no_grad():
            states.append(loaded.model.base_model(ids).last_hidden_state[0, -1].double().numpy())
            logits.append(loaded.model(ids).logits[0, -1].double().numpy())
    return loaded, asked(loaded), np.stack(states), np.stack(logits)


def test_states_are_normed_once(plain):
    loaded, result, states, _ = plain
    assert result.arrays["states"] == pytest.approx(states, abs=2e-5)
    norm = find(loaded.model).final_norm
    with torch.no_grad():
        twice = norm(torch.from_numpy(states).float()).double().numpy()
    assert np.abs(twice - states).max() > 0.01, "the defect would not be seen"
    for row, h in zip(rows(result, "state"), states, strict=True):
        figures = {"norm": np.sqrt((h * h).sum()), "mean": h.mean(), "sd": h.std(), "least": h.min(), "most": h.max()}
        assert {name: row[name] for name in figures} == pytest.approx(figures, abs=1e-4)
    assert value(result, "mean_norm") == pytest.approx(np.sqrt((states**2).sum(1)).mean(), rel=1e-5)
    assert result.arrays["dimension_mean"] == pytest.approx(states.mean(0), abs=2e-5)
    assert result.arrays["dimension_sd"] == pytest.approx(states.std(0), abs=2e-5)


def test_distances_are_those_of_loops(plain):
    _, result, states, _ = plain
    n = len(states)
    for i, j in itertools.product(range(n), repeat=2):
        a, b = states[i], states[j]
        assert result.arrays["euclidean"][i, j] == pytest.approx(math.sqrt(((a - b) ** 2).sum()), abs=1e-4)
        assert result.arrays["cosine"][i, j] == pytest.approx(1 - cosine(a, b), abs=1e-5)
    labels = crossed(ASKED, ROLES)
    wanted = {
        "all": lambda a, b: True,
        "same question": lambda a, b: a.question == b.question,
        "same kind, no role": lambda a, b: a.kind == b.kind and {a.role, b.role} == {NO_ROLE},
        "other kind, no role": lambda a, b: a.kind != b.kind and {a.role, b.role} == {NO_ROLE},
        "other question, no role": lambda a, b: a.question != b.question and {a.role, b.role} == {NO_ROLE},
        "same role": lambda a, b: a.role == b.role and a.role != NO_ROLE,
    }
    for name, chosen in wanted.items():
        own = [
            1 - cosine(states[i], states[j])
            for i, j in itertools.combinations(range(n), 2)
            if chosen(labels[i], labels[j])
        ]
        (row,) = rows(result, "distance", pairs=name, distance="cosine")
        assert (row["count"], row["mean"]) == (len(own), pytest.approx(np.mean(own), abs=1e-5)), name
        assert row["least"] == pytest.approx(min(own), abs=1e-5)
        assert row["sd"] == pytest.approx(np.std(own), abs=1e-5)
    others = next(row for row in rows(result, "distance", pairs="other question, no role", distance="cosine"))
    assert value(result, "state_cosine") == 1 - others["mean"]


def test_first_tokens_and_their_rows(plain):
    loaded, result, states, logits = plain
    W = loaded.model.get_output_embeddings().weight.double().numpy()
    every, between, hits = [], [], []
    for number, (h, z) in enumerate(zip(states, logits, strict=True)):
        order = np.argsort(-z, kind="stable")[:5]
        own = rows(result, "row", number=number)
        assert [row["token_id"] for row in own] == order.tolist()
        assert [row["logit"] for row in own] == pytest.approx(z[order], abs=2e-5)
        cosines = [cosine(h, W[token]) for token in order]
        assert [row["cosine"] for row in own] == pytest.approx(cosines, abs=1e-5)
        pairs = [cosine(W[a], W[b]) for a, b in itertools.combinations(order, 2)]
        assert [row["cosine"] for row in rows(result, "pair", number=number)] == pytest.approx(pairs, abs=1e-12)
        vectors = [h, *W[order]]
        table = [[cosine(a, b) for b in vectors] for a in vectors]
        assert result.arrays["similarity"][number] == pytest.approx(np.array(table), abs=1e-5)
        brute = np.array([cosine(h, row) for row in W])
        near = np.argsort(-brute, kind="stable")[:4]
        neighbours = rows(result, "neighbour", number=number)
        assert [(row["rank"], row["token_id"]) for row in neighbours] == list(enumerate(near.tolist(), 1))
        (state,) = rows(result, "state", number=number)
        assert (state["nearest_id"], state["nearest_cosine"]) == (near[0], pytest.approx(brute[near[0]], abs=1e-5))
        figures = (state["neighbours_mean"], state["neighbours_sd"])
        assert figures == pytest.approx((brute[near].mean(), brute[near].std()), abs=1e-5)
        every += cosines
        between += pairs
        hits.append(near[0] == order[0])
    assert value(result, "row_cosine") == pytest.approx(np.mean(every), abs=1e-5)
    assert value(result, "row_pair_cosine") == pytest.approx(np.mean(between))
    assert value(result, "nearest_is_first") == pytest.approx(np.mean(hits))


def test_role_drift_is_the_distance_from_the_question_without_a_role(plain):
    _, result, states, _ = plain
    labels = crossed(ASKED, ROLES)
    far = {}
    for base in range(0, len(labels), 3):
        own = {labels[base + k].role: (states[base], states[base + k]) for k in (1, 2)}
        far[base] = {role: 1 - cosine(a, b) for role, (a, b) in own.items()}
        for role, (a, b) in own.items():
            (row,) = rows(result, "drift", question=labels[base].question, role=role)
            assert row["cosine"] == pytest.approx(1 - cosine(a, b), abs=1e-5)
            assert row["euclidean"] == pytest.approx(np.linalg.norm(a - b), abs=1e-4)
            largest = max(far[base], key=far[base].get) == role if len(far[base]) == 2 else None
            assert (row["cosine_rank"] == 1) == largest == row["beyond_mean"]
    drifts = [one for own in far.values() for one in own.values()]
    assert value(result, "role_drift_max") == pytest.approx(max(drifts), abs=1e-5)
    assert value(result, "role_drift_median") == pytest.approx(np.median(drifts), abs=1e-5)
    questions = [states[base] for base in range(0, len(labels), 3)]
    apart = [1 - cosine(a, b) for a, b in itertools.combinations(questions, 2)]
    assert value(result, "drift_over_question") == pytest.approx(np.mean(drifts) / np.mean(apart), abs=1e-3)
    lengths = [np.linalg.norm(states[base] - states[base + k]) for base in far for k in (1, 2)]
    assert value(result, "drift_agreement") == pytest.approx(spearmanr(drifts, lengths).statistic)
    place = result.readings["role_drift_max"].place
    worst = max(rows(result, "drift"), key=lambda row: row["cosine"])
    assert (place["prompt"], place["role"]) == (worst["question"], worst["role"])
    means = {role: np.mean([own[role] for own in far.values()]) for role in ("teacher", "captain")}
    for role, mean in means.items():
        (row,) = rows(result, "role", role=role)
        assert row["cosine_drift"] == pytest.approx(mean, abs=1e-5)
        assert (row["cosine_rank"] == 1) == (mean == max(means.values()))
        tops = [one["cosine"] for one in rows(result, "row", role=role)]
        assert (row["row_cosine_mean"], row["row_cosine_sd"]) == pytest.approx((np.mean(tops), np.std(tops)))


def test_the_map_is_that_of_a_plain_svd(plain):
    _, result, states, _ = plain
    centred = states - states.mean(0)
    U, s, Vt = np.linalg.svd(centred, full_matrices=False)
    for axis in range(2):
        sign = np.sign(Vt[axis][np.abs(Vt[axis]).argmax()])
        assert result.arrays["plane"][:, axis] == pytest.approx(sign * U[:, axis] * s[axis], abs=2e-3)
    assert value(result, "plane_share") == pytest.approx((s[:2] ** 2).sum() / (s**2).sum(), abs=1e-4)


def untied(change=None):
    """A llama whose head has a memory of its own, with the embedding's numbers or changed ones."""
    loaded = sk.load("tiny", load_args={"tie_word_embeddings": False})
    with torch.no_grad():
        head = loaded.model.get_output_embeddings().weight
        embedding = loaded.model.get_input_embeddings().weight
        assert head.data_ptr() != embedding.data_ptr()
        if change is not None:
            head.copy_(embedding)
            change(head)
    return sk.adopt(loaded.model, loaded.tokenizer)


def one_bit(head):
    head[7, 3] = nudge(head[7, 3], 1)


def zero_signs(head):
    head[7, 3] = 0.0


def test_one_storage_is_tied(plain):
    loaded, result, _, _ = plain
    tied = loaded.model.get_input_embeddings().weight is loaded.model.get_output_embeddings().weight
    assert (value(result, "tied"), value(result, "one_storage")) == (tied, tied)
    digests = [row["digest"] for row in rows(result, "matrix")]
    assert digests[0] == digest(loaded.model.get_input_embeddings().weight)
    assert digests[1] == digest(loaded.model.get_output_embeddings().weight)


def test_equal_numbers_in_two_places_are_tied_but_not_one_storage():
    result = asked(untied(lambda head: None))
    assert (value(result, "tied"), value(result, "one_storage"), value(result, "differing_rows")) == (1, 0, 0)
    assert result.subject["tying"] == "bits"
    assert len({row["digest"] for row in rows(result, "matrix")}) == 1
    assert value(result, "distance_correlation") == pytest.approx(1)
    assert "equal bit for bit, in two pieces of memory" in result.sentence


def test_one_bit_unties_them():
    result = asked(untied(one_bit))
    assert (value(result, "tied"), value(result, "one_storage"), value(result, "differing_rows")) == (0, 0, 1)
    assert rows(result, "matrix", matrix="head")[0]["differing_elements"] == 1
    assert len({row["digest"] for row in rows(result, "matrix")}) == 2


def test_the_sign_of_a_zero_unties_them():
    W = torch.zeros(5, 4)
    other = W.clone()
    other[2, 1] = -0.0
    found = tying(W, other)
    assert (found.kind, found.differing_rows, found.differing_elements) == ("apart", 1, 1)


def test_other_shapes_and_dtypes_are_apart():
    W = torch.ones(5, 4)
    for other in (torch.ones(6, 4), torch.ones(5, 4, dtype=torch.bfloat16)):
        found = tying(W, other)
        assert found.kind == "apart"
        assert math.isnan(found.differing_rows)


def test_differing_rows_are_counted_across_blocks(monkeypatch):
    monkeypatch.setattr("stabilitykit.measurements.tying._ROWS", 3)
    W = torch.ones(8, 4)
    other = W.clone()
    other[[0, 2, 7], 1] = 2.0
    other[7, 2] = 2.0
    found = tying(W, other)
    assert (found.differing_rows, found.differing_elements) == (3, 4)


def test_distances_in_embedding_and_head_are_those_of_loops():
    loaded = untied()
    result = asked(loaded, sample=20, seed=3)
    ids = result.arrays["sample"]
    assert len(set(ids.tolist())) == 20
    both = {}
    for name, part in (("embedding", "get_input_embeddings"), ("head", "get_output_embeddings")):
        W = getattr(loaded.model, part)().weight.double().numpy()
        lengths = np.sqrt((W * W).sum(1))
        (row,) = rows(result, "matrix", matrix=name)
        norms = {"mean": lengths.mean(), "sd": lengths.std(), "least": lengths.min(), "most": lengths.max()}
        assert {key: row[f"norm_{key}"] for key in norms} == pytest.approx(norms, rel=1e-12)
        every = [((a - b) ** 2).sum() for a, b in itertools.combinations(W, 2)]
        assert row["rms_distance"] == pytest.approx(math.sqrt(np.mean(every)), rel=1e-12)
        pairs = list(itertools.combinations(ids, 2))
        both[name] = [1 - cosine(W[i], W[j]) for i, j in pairs]
        lengths = [math.sqrt(((W[i] - W[j]) ** 2).sum()) for i, j in pairs]
        for kind, values in (("cosine", both[name]), ("euclidean", lengths)):
            (row,) = rows(result, "sample", matrix=name, distance=kind)
            assert row["count"] == 190
            figures = {"mean": np.mean(values), "sd": np.std(values), "least": min(values), "most": max(values)}
            assert {key: row[key] for key in figures} == pytest.approx(figures, rel=1e-12)
            assert row["least"] > 0, "no row is paired with itself"
    assert value(result, "distance_correlation") == pytest.approx(np.corrcoef(both["embedding"], both["head"])[0, 1])
    joint, edges = result.arrays["cosine_joint"], result.arrays["cosine_edges"]
    assert joint.sum() == 190
    i = np.clip(np.searchsorted(edges, both["embedding"][0], side="right") - 1, 0, len(edges) - 2)
    j = np.clip(np.searchsorted(edges, both["head"][0], side="right") - 1, 0, len(edges) - 2)
    assert joint[i, j] >= 1


def test_the_sample_takes_a_third_of_each_stratum():
    ids = sampled(50_000, 300, 0)
    assert len(set(ids.tolist())) == 300
    assert [
        int(((ids >= low) & (ids < high)).sum()) for low, high in ((0, 1000), (1000, 10_000), (10_000, 50_000))
    ] == [
        100,
        100,
        100,
    ]
    assert sampled(50_000, 300, 0).tolist() == ids.tolist()
    assert sampled(50_000, 300, 1).tolist() != ids.tolist()


@pytest.mark.parametrize(
    ("vocabulary", "size", "found"),
    [(258, 300, 258), (1500, 1400, 1200), (50_000, 10, 10), (1000, 10, 10), (10_000, 10, 10)],
)
def test_small_strata_give_all_they_have(vocabulary, size, found):
    ids = sampled(vocabulary, size, 0)
    assert len(set(ids.tolist())) == len(ids) == found
    assert ids.max() < vocabulary


def test_equal_rows_do_not_break_the_histogram():
    nothing = Pairs(np.full(3, np.nan), np.zeros(3))
    assert histograms({"embedding": nothing, "head": nothing}, "cosine") == {}
    found = histograms({"embedding": nothing, "head": nothing}, "euclidean")
    assert found["euclidean_joint"].sum() == 3


def test_states_of_the_prompt_suite_are_used_again():
    loaded = sk.load("tiny")
    sk.measure(sk.PromptSuite(ASKED, ROLES, 2), loaded, progress=False)
    again = asked(loaded)
    assert again.execution.forwards == 0
    fresh = asked(sk.load("tiny"))
    assert fresh.execution.forwards == 9
    assert again.arrays["states"].tobytes() == fresh.arrays["states"].tobytes()
    assert [dict(row) for row in again.rows] == [dict(row) for row in fresh.rows]


def test_states_of_another_number_of_threads_are_not():
    loaded = sk.load("tiny")
    assert [asked(loaded).execution.forwards for _ in range(2)] == [9, 0]
    with threads(torch.get_num_threads() + 1):
        assert asked(loaded).execution.forwards == 9


def test_one_prompt_has_no_distance_and_no_drift():
    result = asked(sk.load("tiny"), questions=ASKED[:1], roles=())
    assert not {"state_cosine", "role_drift_max", "drift_over_question"} & set(result.readings)
    assert result.arrays["cosine"].tolist() == [[0.0]]
    assert value(result, "prompts") == 1


def test_a_role_alone_is_at_the_mean_and_not_beyond_it():
    (row,) = rows(asked(sk.load("tiny"), questions=ASKED[:1], roles=ROLES[:1]), "drift")
    assert (row["cosine_rank"], row["beyond_mean"]) == (1, False)


def test_a_head_of_another_width_is_unsupported():
    first = [FirstState(torch.ones(3), (0, 1), (2.0, 1.0))]
    with pytest.raises(sk.UnsupportedError, match="rows have 5 components, the states 3"):
        compared(sk.load("tiny"), crossed(ASKED[:1], ()), first, torch.ones(4, 5), 2)


def test_a_head_that_reads_no_state_a_token_is_unsupported(toys):
    model = toys.model([toys.Times(1.0)])

    def forward(input_ids=None, inputs_embeds=None, use_cache=None, logits_to_keep=0):
        state = model.model(input_ids, inputs_embeds).last_hidden_state[:, -logits_to_keep:]
        return CausalLMOutput(logits=model.lm_head(state.flatten(0, 1))[None])

    loaded = sk.adopt(model)
    model.forward = forward
    with pytest.raises(sk.UnsupportedError, match="does not read one state a token"):
        first_states(loaded, find(model), [[1, 2, 3]])


@pytest.mark.parametrize(
    ("how", "said"), [({"sample": 1}, "sample=1"), ({"nearest": 0}, "nearest=0"), ({"form": "x"}, "form")]
)
def test_what_cannot_be_meant_is_refused(how, said):
    with pytest.raises(sk.UsageError, match=said):
        sk.Geometry(**how)
