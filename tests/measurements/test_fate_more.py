"""How the work of following changes is shown while it is done, and what is said of several rays."""

import torch

import stabilitykit as sk
from stabilitykit.measurements import fate
from stabilitykit.measurements.progress import bar


def test_the_bar_is_full_when_every_cell_was_followed(toys, monkeypatch):
    """Nine cells along each of two rays, four in a batch."""
    shown = []

    def kept(total, label, unit):
        shown.append(bar(total, label, unit))
        monkeypatch.setattr(shown[-1], "update", lambda n=1: moves.append(n))
        return shown[-1]

    moves = []
    monkeypatch.setattr(fate, "bar", kept)
    subject = toys.subject([toys.Times(2.0)], batch=4)
    sk.measure(sk.Fate(directions=torch.eye(8, dtype=torch.float64)[1:3], cells=9), subject)
    assert [one.total for one in shown] == [18]
    assert (sum(moves), max(moves)) == (18, 4)


def test_of_several_rays_the_most_dense_coordinates_left_where_they_are_count(toys):
    """The third coordinate is an exact zero, which only the first ray moves beside others."""
    model = toys.model([toys.Times(2.0)])
    with torch.no_grad():
        model.model.embed_tokens.weight[2, 3] = 0.0
    subject = sk.CausalLMSubject(sk.adopt(model), [3, 1, 2], batch=4)
    directions = torch.stack([torch.ones(8), torch.eye(8)[1]]).double()
    result = sk.measure(sk.Fate(directions=directions, cells=2), subject, progress=False)
    assert result.readings["held"].value == 1
