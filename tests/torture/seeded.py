"""Forty ways to break the kit, each a text in one of its files and what it becomes, with the tests that must notice."""

from __future__ import annotations

from typing import NamedTuple


class Mutant(NamedTuple):
    """`old`, which stands once in the file, becomes `new`; `tests` are arguments of pytest, from the root."""

    what: str
    file: str
    old: str
    new: str
    tests: str


BITS, DIFFERENCES = "tests/numerics/test_bits.py", "tests/numerics/test_differences.py"
STATISTICS, LATTICE = "tests/numerics/test_statistics.py", "tests/numerics/test_lattice.py"
LANES, BOUNDARY = "tests/subjects/test_lanes.py", "tests/measurements/test_boundary.py"
SUBJECT, PROOFS = "tests/subjects/test_causal_lm.py", "tests/subjects/test_proofs.py"
MODELS, AGAIN = "tests/subjects/test_models.py", "tests/measurements/test_determinism.py"
COMPARE, STORE = "tests/traces/test_compare.py", "tests/traces/test_store.py"
LIMIT, RECORD = "tests/results/test_limit.py", "tests/traces/test_record.py"

MUTANTS = (
    Mutant("a limit that the value at its edge breaks", "results/limit.py",
           "return _OPERATORS[self.comparison](value, self.value)",
           "return _OPERATORS[self.comparison](value, self.value) and value != self.value", LIMIT),
    # wrong distances and sizes
    Mutant("a distance without its absolute value", "numerics/differences.py",
           "(left.double() - right.double()).abs()", "(left.double() - right.double())", DIFFERENCES),
    Mutant("a distance in ULP of the wider format", "numerics/differences.py",
           "ulp_distance(left, right)", "ulp_distance(left.float(), right.float())", DIFFERENCES),
    Mutant("scaled by the unit of the smallest element", "numerics/differences.py",
           "finite.abs().max()", "finite.abs().min()", DIFFERENCES),
    Mutant("a NaN that is dropped from what differs", "numerics/differences.py",
           "changed = ~same_bits(a, b)", "changed = ~same_bits(a, b) & ~is_nan(b)", DIFFERENCES),
    Mutant("two NaNs of other bits taken for one", "numerics/differences.py",
           "nan_payload=int((both_nan & changed).sum())", "nan_payload=0", DIFFERENCES),
    Mutant("zeros of both signs taken for one pattern", "numerics/bits.py",
           "return key + (key < 0)", "return key", BITS),
    Mutant("bits compared as values", "numerics/bits.py",
           "return torch.equal(raw_bytes(a), raw_bytes(b))", "return torch.equal(a, b)", BITS),
    Mutant("equality within a tolerance", "numerics/bits.py",
           "return torch.equal(raw_bytes(a), raw_bytes(b))", "return torch.allclose(a.double(), b.double())", BITS),
    Mutant("another dtype taken for the same", "numerics/bits.py",
           "    if a.dtype != b.dtype or a.shape != b.shape:\n        return False\n    a, b = _together(a, b)\n    "
           "return torch.equal(raw_bytes",
           "    if a.shape != b.shape:\n        return False\n    a, b = _together(a, b.to(a.dtype))\n    "
           "return torch.equal(raw_bytes", BITS),
    Mutant("a spacing of the wrong exponent", "numerics/bits.py",
           "clamp(min=1) - row.bias - row.mantissa", "clamp(min=1) - row.bias - row.mantissa + 1", BITS),
    # wrong claims
    Mutant("a bound that is two-sided", "numerics/statistics.py",
           "math.log1p(-confidence) / trials)", "math.log1p(-(1 + confidence) / 2) / trials)", STATISTICS),
    Mutant("a bound of one event fewer", "numerics/statistics.py",
           "float(events + 1), float(trials - events)", "float(events), float(trials - events + 1)", STATISTICS),
    Mutant("a bound that is rounded down", "numerics/statistics.py", "rounding=ROUND_CEILING", "rounding='ROUND_FLOOR'",
           STATISTICS),
    Mutant("a NaN that keeps every limit", "results/limit.py",
           "return _OPERATORS[self.comparison](value, self.value)",
           "return value != value or _OPERATORS[self.comparison](value, self.value)", LIMIT),
    # wrong inputs
    Mutant("a direction that is renormalised", "numerics/perturbation.py",
           "s * d.double()).to(x0.dtype)", "s * (d / d.norm()).double()).to(x0.dtype)", LATTICE),
    Mutant("an input that is stepped in its own dtype", "numerics/perturbation.py",
           "return (x0.double() + s * d.double()).to(x0.dtype)", "return x0 + (s * d.double()).to(x0.dtype)", LATTICE),
    # skipped and repeated work
    Mutant("a difference that is tried again", "measurements/determinism.py",
           "            for _ in range(self.runs):\n                again = subject.evaluate",
           "            for _ in range(self.runs):\n                again = subject.evaluate(subject.copies("
           "subject.batch))\n                again = again if _key(again) == _key(first) else subject.evaluate", AGAIN),
    Mutant("a run that is left out", "measurements/determinism.py",
           "for _ in range(self.runs):", "for _ in range(self.runs - 1):", AGAIN),
    Mutant("the first slot alone is compared", "measurements/determinism.py",
           "for slot in range(size):", "for slot in range(1):", AGAIN),
    Mutant("neighbours that are copies", "measurements/determinism.py",
           "X = subject.neighbours(size, seed=size)", "X = subject.copies(size)", AGAIN),
    Mutant("a difference that passes", "measurements/determinism.py",
           'verdict="differs" if differing else "pass",\n            rows=rows',
           'verdict="pass",\n            rows=rows', AGAIN),
    Mutant("a prompt that is skipped", "traces/compare.py",
           "for a, b in zip(reference.generations, subject.generations, strict=True)",
           "for a, b in zip(reference.generations[:1], subject.generations[:1], strict=True)", COMPARE),
    Mutant("a stage that only one side has is passed over", "traces/compare.py",
           "if shared.missing or any(", "if any(", COMPARE),
    # wrong layers and rows
    Mutant("the layer before the one that was asked for", "subjects/sites.py",
           "return Tap(anatomy.blocks[int(name)])", "return Tap(anatomy.blocks[int(name) - 1])",
           f"{SUBJECT} tests/subjects/test_sites.py"),
    Mutant("the token before the last", "subjects/site_call.py",
           "batch: int, position: int = -1", "batch: int, position: int = -2",
           f"{SUBJECT} tests/subjects/test_sites.py"),
    Mutant("the state before the final norm", "subjects/sites.py",
           'if site in ("post_norm", "logits"):\n        return Tap(None)',
           'if site == "post_norm":\n        return Tap(anatomy.final_norm, before=True)\n    if site == "logits":\n'
           "        return Tap(None)", f"{SUBJECT} tests/subjects/test_sites.py"),
    Mutant("one block too few in a stopped forward", "subjects/causal_lm.py",
           "self.anatomy.blocks[blocks - 1]", "self.anatomy.blocks[max(blocks - 2, 0)]", SUBJECT),
    # stale caches
    Mutant("a cache that a call leaves longer", "subjects/prefix.py",
           "cache.layers = [copy.copy(layer) for layer in cache.layers]", "pass",
           f"{SUBJECT} tests/subjects/test_prefix.py"),
    Mutant("a prefix of other experts", "subjects/causal_lm.py",
           "self._prefixes = {}  # a new one", "pass  # a new one", PROOFS),
    Mutant("a prefix that lacks its first token", "subjects/prefix.py",
           "rows = subject._before.repeat(batch, 1, 1)", "rows = subject._before[1:].repeat(batch, 1, 1)", SUBJECT),
    Mutant("padding that is not x0", "subjects/subject.py",
           "torch.cat([X, self.copies(missing)])", "torch.cat([X, 0 * self.copies(missing)])", SUBJECT),
    Mutant("a baseline of the first slot for all", "subjects/subject.py",
           "return self.finite(self.evaluate(self.copies(self.batch)))",
           "return self.finite(self.evaluate(self.copies(self.batch))[:1].repeat(self.batch, 1))", LANES),
    # proofs that are believed
    Mutant("lanes that nobody tries", "subjects/proofs.py",
           "for seed in range(DRAWS):", "for seed in range(0):", PROOFS),
    Mutant("noise that nobody minds", "subjects/proofs.py", "same = bits_equal(first, second)", "same = True", PROOFS),
    Mutant("embeddings that need not be the input", "subjects/proofs.py",
           "if bits_equal(by_ids, by_embeddings):", "if True:", PROOFS),
    # models and searches
    Mutant("weights that are upcast before they are hashed", "subjects/weights.py",
           "cast = tensor.detach().to(dtype) if dtype and tensor.is_floating_point() else tensor",
           "cast = tensor.detach().double() if tensor.is_floating_point() else tensor", MODELS),
    Mutant("an infinite weight is passed over", "subjects/weights.py",
           "if not _finite(tensor)]", "if bool(torch.isnan(tensor).any())]", f"{MODELS} -k damaged"),
    Mutant("an input between two that is not tried", "measurements/ray.py",
           "        cells += 1\n", "        cells += 1\n        if cells == 2:\n            continue\n", BOUNDARY),
    Mutant("a file that is believed without its checksum", "traces/store.py",
           'if hashlib.sha256(content).hexdigest() != about["sha256"]:', "if False:", STORE),
)  # fmt: skip
