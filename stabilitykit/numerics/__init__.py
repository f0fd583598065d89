"""Exact floating-point arithmetic on tensors: bits, differences, the input lattice, spectra, bounds."""
