"""The same question, computed in other ways: beside padding, through the cache, by other threads and processes."""

import stabilitykit as sk


def test_padding_invariance(stability, stability_model):
    """Ask a prompt alone and beside padding that a mask hides."""
    asked = sk.PaddingInvariance(lengths=stability.profile.lengths)
    stability.measure(asked, stability.subject())


def test_cache_invariance(stability, stability_model):
    """Ask a prompt at once and in pieces, as generation and chunked prefill feed it."""
    asked = sk.CacheInvariance(lengths=stability.profile.lengths)
    stability.measure(asked, stability.subject())


def test_thread_invariance(stability, stability_model):
    """Ask with every number of threads that this machine has cores for."""
    asked = sk.ThreadInvariance(lengths=stability.profile.lengths)
    stability.measure(asked, stability.subject())


def test_process_invariance(stability, stability_model):
    """Ask fresh processes that load the same weights."""
    asked = sk.ProcessInvariance(processes=stability.profile.processes, lengths=stability.profile.lengths)
    stability.measure(asked, stability.subject())
