"""Hypothesis strategies that draw small recipes of perturbation directions."""
