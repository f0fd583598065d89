"""Functions of two tokens with a planted map: a straight decision, a checkerboard, noise, one token only, a tie.

All lie on the dyadic grid x0 + UNIT (i h1 + j h2), so that floats tell its points apart and nothing is rounded.
"""

import math

import torch

X0 = torch.tensor([0.5, -0.25, 1.0, 2.0], dtype=torch.float64)
PLANE = torch.tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 1.0, 0.0, 0.0]], dtype=torch.float64)
UNIT = 2.0**-23
SPAN = 8 * UNIT


def steps(X):
    """How many grid steps each row lies from x0, exact: the grid is dyadic."""
    return ((X - X0.to(X)) / UNIT).double()


def line(X):
    """z_a - z_b = 3 e1 + e2 + half a step: never 0, so every cell is on one side."""
    u = steps(X)
    return two(3 * u[:, 0] + u[:, 1] + 0.5)


def two(d):
    return torch.stack([1 + d / 2, 1 - d / 2, d * 0 - 50], dim=1)


def board(X):
    """The line's slope where calculus looks, and the sign of a checkerboard where the grid does."""
    u = steps(X)
    d = torch.cos(math.pi * u[:, 0]) * torch.cos(math.pi * u[:, 1]) + 1e-3 * u[:, 0]
    return two(d)


def noise(X):
    """A line under noise that a hash of the input makes: the same for the same input, other for its neighbour."""
    u = steps(X)
    chance = torch.frac(torch.sin(u[:, 0].detach().round() * 12.9898 + u[:, 1].detach().round() * 78.233) * 43758.5453)
    return two(u[:, 0] + 1e-9 + 20 * torch.sign(chance) * chance.abs().clamp(min=0.1))


def flat(X):
    return two(steps(X)[:, 0] * 1e-3 + 5)


def bent(X):
    return two(3 * (X[:, 0] - 0.5) + (X[:, 1] + 0.25) + 0.1 * X[:, 0] ** 2 + 0.4)
