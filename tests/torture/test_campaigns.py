"""The first trials of every campaign find no fault, and every defect that is planted on purpose is noticed."""

import pytest
from torture.campaign import campaigns, fault, unnoticed
from torture.seeded import MUTANTS
from torture.tree import ROOT


def marks(one):
    return [mark for mark, has in ((pytest.mark.model, one.model), (pytest.mark.long, one.long)) if has]


ALL = [pytest.param(one, id=one.id, marks=marks(one)) for one in campaigns()]


@pytest.mark.parametrize("campaign", ALL)
def test_no_trial_finds_a_fault(campaign):
    found = {number: fault(campaign.trial, number) for number in range(campaign.ci)}
    assert {number: problem for number, problem in found.items() if problem} == {}


@pytest.mark.parametrize("campaign", ALL)
def test_planted_defects_are_noticed(campaign):
    assert unnoticed(campaign) == []


def test_each_way_of_breaking_the_kit_has_its_place():
    """The text that it replaces stands there once; a trial of the campaign would say so only when its turn comes."""
    where = {one.what: (ROOT / "stabilitykit" / one.file).read_text(encoding="utf-8").count(one.old) for one in MUTANTS}
    assert {what: count for what, count in where.items() if count != 1} == {}
