"""The store of singular vectors: computed once, for the right subject, shared between processes, one sign."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from stabilitykit import strategies
from stabilitykit.errors import UsageError
from stabilitykit.measurements import triplet_store
from stabilitykit.measurements.derived import derived_in
from stabilitykit.measurements.directions import number_within, products_for, resolve, singular, singular_vectors
from stabilitykit.numerics.bits import bits_equal
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.function_subject import FunctionSubject
from stabilitykit.subjects.models import adopt, load
from stabilitykit.subjects.tiny import tiny

X0 = torch.tensor([0.75, -1.3125, 0.0123, 5.5])
IDS = [3, 10, 17, 24]


@pytest.fixture(autouse=True)
def _empty(monkeypatch):
    monkeypatch.setattr(triplet_store, "_memory", {})


def linear(*diagonal):
    matrix = torch.diag(torch.tensor(diagonal))
    return FunctionSubject(lambda X: X @ matrix, X0)


def products(subject):
    return subject.counter.tangents + subject.counter.backwards


@pytest.fixture(scope="module")
def loaded():
    return load("tiny:llama")


def test_vectors_are_the_known_ones_with_the_largest_component_positive():
    vectors = singular_vectors(linear(-3.0, 9.0, -27.0, 1.0), 4)
    torch.testing.assert_close(vectors, torch.eye(4, dtype=torch.float64)[[2, 1, 0, 3]], rtol=0, atol=1e-6)


@pytest.mark.parametrize("flip", [1, -1])
def test_the_sign_is_canonical_whatever_the_solver_gives(flip):
    generator = torch.Generator().manual_seed(2)
    matrix = flip * torch.randn(4, 4, generator=generator)
    vectors = singular_vectors(FunctionSubject(lambda X: X @ matrix, X0), 4)
    largest = vectors.gather(1, vectors.abs().argmax(dim=1, keepdim=True))
    assert bool((largest > 0).all())
    _, _, exact = torch.linalg.svd(matrix.T.double())
    assert torch.allclose((vectors * exact).sum(dim=1).abs(), torch.ones(4, dtype=torch.float64), atol=1e-6)


def test_vectors_are_computed_once(loaded):
    subject = CausalLMSubject(loaded, IDS)
    first = singular_vectors(subject, 2)
    spent = products(subject)
    assert spent > 0
    assert bits_equal(singular_vectors(subject, 2), first)
    assert bits_equal(singular_vectors(CausalLMSubject(loaded, IDS, batch=4, counter=subject.counter), 1), first)
    assert products(subject) == spent


def test_both_paths_have_the_same_vectors(loaded):
    """In exact arithmetic they are one function, and directions that searches share must not depend on the path."""
    prefill, decode = (CausalLMSubject(loaded, IDS, path=path) for path in ("prefill", "decode"))
    assert bits_equal(singular_vectors(prefill, 3), singular_vectors(decode, 3))
    assert products(prefill) > products(decode) == 0


def test_more_vectors_than_stored_are_computed_again(loaded):
    subject = CausalLMSubject(loaded, IDS)
    stored = len(singular_vectors(subject, 1))
    spent = products(subject)
    vectors = singular_vectors(subject, stored + 2)
    assert products(subject) > spent
    assert len(vectors) >= stored + 2
    torch.testing.assert_close(vectors @ vectors.T, torch.eye(len(vectors), dtype=torch.float64), rtol=0, atol=1e-9)


def test_values_belong_to_their_vectors(loaded):
    """Whoever computes |J v| finds the stored sigma, for few vectors and for all of them."""
    subject = CausalLMSubject(loaded, IDS)
    for count in (3, 64):
        found = singular(subject, count)
        gains = subject.jvp(found.v).double().norm(dim=1)
        torch.testing.assert_close(found.sigma, gains, rtol=1e-4, atol=1e-5)
        assert bool((found.sigma[:-1] >= found.sigma[1:]).all())
    assert len(singular(subject, 64).v) == 64


def test_all_vectors_come_from_the_dense_jacobian_once_and_leave_the_first_alone(loaded, tmp_path):
    subject = CausalLMSubject(loaded, IDS)
    with derived_in(tmp_path):
        first = singular_vectors(subject, 2)
        spent = subject.counter.backwards
        every = singular(subject, 64)
        assert subject.counter.backwards == spent + 64
        assert bits_equal(singular_vectors(subject, 2), first)
        triplet_store._memory.clear()
        assert bits_equal(singular(subject, 40).v, every.v)
        assert bits_equal(singular_vectors(subject, 2), first)
        assert subject.counter.backwards == spent + 64
    assert len(list(tmp_path.glob("*.npz"))) == 2


def test_other_subjects_have_other_vectors(loaded):
    """Every difference that changes the map must change the key, the batch shape alone must not."""
    reference = CausalLMSubject(loaded, IDS)
    others = [
        CausalLMSubject(loaded, [*IDS[:-1], 25]),
        CausalLMSubject(loaded, [4, *IDS[1:]]),
        CausalLMSubject(loaded, IDS, site="block:0"),
        CausalLMSubject(load("tiny:llama", dtype="float64"), IDS),
        CausalLMSubject(adopt(tiny("llama", seed=1), spec="tiny:llama"), IDS),
    ]
    vectors = [singular_vectors(subject, 1)[0] for subject in [reference, *others]]
    for other in vectors[1:]:
        assert not bits_equal(other, vectors[0])
    assert all(products(subject) > 0 for subject in others)


def test_two_functions_of_one_name_and_input_are_two_maps():
    one, two = linear(1.0, 2.0, 3.0, 4.0), linear(4.0, 3.0, 2.0, 1.0)
    assert one.describe() == two.describe()
    assert int(singular_vectors(one, 1)[0].argmax()) == 3
    assert int(singular_vectors(two, 1)[0].argmax()) == 0
    spent = products(one)
    singular_vectors(one.with_batch(3), 1)
    assert products(one) == spent


def test_a_function_at_another_point_is_another_map():
    def cubes(X):
        return X**3

    here, there = FunctionSubject(cubes, X0), FunctionSubject(cubes, X0.flip(0))
    assert int(singular_vectors(here, 1)[0].argmax()) == 3
    assert int(singular_vectors(there, 1)[0].argmax()) == 0


@pytest.mark.parametrize("factor", [0.0, 1.0])
def test_kept_triplets_that_still_hold_cost_a_product_each_way(factor):
    """Also those of a map that is zero, whose residuals are as small as they may be."""
    subject = FunctionSubject(lambda X: factor * X, torch.ones(6, dtype=torch.float64))
    kept = triplet_store.triplets_of(subject, 2)
    again = triplet_store.held(subject, subject.linear_map(), 2)
    assert again.products == 2 * 2 < kept.products
    assert again.sigma.tolist() == pytest.approx([factor, factor])


def test_kept_triplets_of_a_map_that_has_changed_since_are_not_handed_out():
    gains = [2.0]
    subject = FunctionSubject(lambda X: gains[0] * X, torch.ones(6, dtype=torch.float64))
    triplet_store.triplets_of(subject, 2)
    gains[0] = 3.0
    assert triplet_store.held(subject, subject.linear_map(), 2).sigma.tolist() == pytest.approx([3, 3])


def test_vectors_of_functions_are_forgotten_with_them():
    before = len(triplet_store._of_functions)
    subject = linear(1.0, 2.0, 3.0, 4.0)
    singular_vectors(subject, 1)
    assert len(triplet_store._of_functions) == before + 1
    del subject
    assert len(triplet_store._of_functions) == before


# --- between processes


def test_a_folder_keeps_vectors_for_the_next_worker(loaded, tmp_path):
    subject = CausalLMSubject(loaded, IDS)
    with derived_in(tmp_path / "vectors"):
        first = singular_vectors(subject, 2)
        spent = products(subject)
        triplet_store._memory.clear()
        assert bits_equal(singular_vectors(subject, 2), first)
        assert products(subject) == spent
    triplet_store._memory.clear()
    assert bits_equal(singular_vectors(subject, 2), first)
    assert products(subject) > spent, "outside the folder they are computed again, to the same bits"
    (file,) = (tmp_path / "vectors").glob("*.npz")
    with np.load(file, allow_pickle=False) as stored:
        assert np.array_equal(stored["v"], first.numpy())
        assert np.array_equal(stored["sigma"], singular(subject, 2).sigma.numpy())


def test_a_folder_that_holds_too_few_gets_more(loaded, tmp_path):
    subject = CausalLMSubject(loaded, IDS)
    with derived_in(tmp_path):
        stored = len(singular_vectors(subject, 1))
        triplet_store._memory.clear()
        assert len(singular_vectors(subject, stored + 1)) > stored
        triplet_store._memory.clear()
        spent = products(subject)
        assert len(singular_vectors(subject, stored + 1)) > stored
        assert products(subject) == spent


WORKER = """
import sys
from pathlib import Path
import numpy as np
from stabilitykit.measurements.directions import singular_vectors
from stabilitykit.measurements.derived import derived_in
from stabilitykit.subjects.causal_lm import CausalLMSubject
from stabilitykit.subjects.models import load

subject = CausalLMSubject(load("tiny:llama"), [3, 10, 17, 24])
with derived_in(Path(sys.argv[1])):
    vectors = singular_vectors(subject, 2)
print(subject.counter.tangents + subject.counter.backwards, vectors.numpy().tobytes().hex())
"""


def test_another_process_finds_what_this_one_computed(loaded, tmp_path):
    subject = CausalLMSubject(loaded, IDS)
    with derived_in(tmp_path):
        vectors = singular_vectors(subject, 2)
    assert products(subject) > 0
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    worker = subprocess.run(
        [sys.executable, "-c", WORKER, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=120
    )
    assert worker.returncode == 0, worker.stderr
    spent, found = worker.stdout.split()
    assert spent == "0"
    assert found == vectors.numpy().tobytes().hex()


# --- names


@pytest.mark.parametrize("name", ["v0", "v", "V1", "v1.5", "--v1", "v01", " v1", "u1"])
def test_names_are_only_v_and_a_number(name):
    with pytest.raises(UsageError, match=r"is not 'v1', '-v2', \.\.\., a recipe, or a tensor"):
        resolve(name, linear(1.0, 2.0, 3.0, 4.0))


def test_a_vector_beyond_the_input_does_not_exist():
    with pytest.raises(UsageError, match="v5 does not exist: the input has 4 coordinates"):
        resolve(["v1", "v5"], linear(1.0, 2.0, 3.0, 4.0))


def test_a_minus_turns_a_vector_around():
    subject = linear(1.0, 2.0, 3.0, 4.0)
    rows, labels = resolve(["v2", "-v2"], subject)
    assert bits_equal(rows[0], -rows[1])
    assert labels == ["v2", "-v2"]


def test_a_tensor_keeps_its_bits_and_dtype():
    given = torch.tensor([0.1, 2.0, 3.0, 4.0], dtype=torch.bfloat16)
    rows, labels = resolve(given, linear(1.0, 2.0, 3.0, 4.0))
    assert bits_equal(rows[0], given)
    assert labels == ["0"]


def test_recipes_expand_and_are_labelled_by_what_they_are():
    recipes = strategies.gaussians(2, 4)
    rows, labels = resolve(recipes, linear(1.0, 2.0, 3.0, 4.0))
    assert bits_equal(rows, torch.stack([recipe.expand() for recipe in recipes]))
    assert labels == [repr(recipe) for recipe in recipes]


def test_the_first_vectors_are_stated_as_products_and_far_ones_as_the_dense_jacobian():
    """Of 64 numbers 5 vectors take fewer products than the 64 of the whole; 0 names none."""
    subject = FunctionSubject(lambda X: X, torch.ones(64))
    few = products_for([5], subject)
    assert 0 < few == products_for([1, 0, 3], subject)
    assert products_for([40], subject) == products_for([40, 64], subject) == 64
    assert products_for([3, 40], subject) == 64 + few
    assert products_for([0, 0], subject) == products_for([], subject) == 0


def test_a_direction_has_the_number_of_its_name_up_to_the_last_and_is_0_without_one():
    subject = FunctionSubject(lambda X: X, torch.ones(7))
    named = {"v1": 1, "-v3": 3, "v7": 7, "v9": 7, "v_middle": 4, "-v_last": 7, "w2": 0}
    assert {name: number_within(name, subject) for name in named} == named
    assert [number_within(one, subject) for one in (torch.ones(7), strategies.gaussians(1, 7)[0])] == [0, 0]


def test_vectors_are_computed_5_or_10_or_20_at_a_time():
    """Nothing is stated to be saved between these: one more than 5 costs what 10 do."""
    subject = FunctionSubject(lambda X: X, torch.ones(480))
    stated = {count: products_for([count], subject) for count in (1, 5, 6, 10, 11, 20)}
    assert stated[1] == stated[5] < stated[6] == stated[10] < stated[11] == stated[20]
    assert (stated[10] - stated[5], stated[20] - stated[10]) == (5 * 20, 10 * 20)
