"""The optimizer: Muon for the matrices of the layers, AdamW for all else.

Muon (https://kellerjordan.github.io/posts/muon, arXiv:2502.16982) takes the momentum of a
matrix's gradient, makes all its singular values about 1, and steps in that direction. On
this corpus it learns which answer belongs to a question in half the steps of AdamW
(arXiv:1711.05101).
"""

import numpy as np

WARMUP = 60  # steps until the full rate
CONSTANT = 0.4  # share of the steps until the rate begins to fall


class Optimizer:
    """Owns the moments of the parameters that it was made for and changes those in place."""

    def __init__(self, parameters, steps, matrix_rate=0.04, rate=3e-3):
        self.steps, self.step = steps, 0
        inner = {n: w for n, w in parameters.items() if w.ndim == 2 and n.startswith("blk.")}
        self.parts = [
            (Muon(inner), matrix_rate),
            (AdamW({n: w for n, w in parameters.items() if n not in inner}), rate),
        ]

    def schedule(self):
        """The share of the full rate: it rises, stays, and falls in a straight line to zero."""
        left = 1 - self.step / self.steps
        return min(1, self.step / WARMUP) * min(1, left / (1 - CONSTANT))

    def update(self, grads):
        """Takes one step down the gradient."""
        self.step += 1
        for part, rate in self.parts:
            part.update(grads, rate * self.schedule())


class AdamW:
    """Steps of about the same size for every number, whatever the size of its gradient."""

    def __init__(self, parameters, betas=(0.9, 0.98), decay=0.1, clip=1.0):
        self.parameters, self.betas, self.decay, self.clip = parameters, betas, decay, clip
        self.first = {name: np.zeros_like(w) for name, w in parameters.items()}
        self.second = {name: np.zeros_like(w) for name, w in parameters.items()}
        self.step = 0

    def update(self, grads, rate):
        self.step += 1
        length = np.sqrt(sum(float(np.vdot(grads[n], grads[n])) for n in self.parameters))
        scale = min(1, self.clip / (length + 1e-12))
        b1, b2 = self.betas
        size = rate * np.sqrt(1 - b2**self.step) / (1 - b1**self.step)
        for name, w in self.parameters.items():
            g = grads[name] * w.dtype.type(scale)
            m, v = self.first[name], self.second[name]
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            if w.ndim == 2:
                w *= 1 - rate * self.decay
            w -= (size * m / (np.sqrt(v) + 1e-8)).astype(w.dtype)


class Muon:
    """Steps of about the same size in every direction of a matrix."""

    def __init__(self, parameters, momentum=0.95, decay=0.01):
        self.parameters, self.momentum, self.decay = parameters, momentum, decay
        self.mean = {name: np.zeros_like(w) for name, w in parameters.items()}

    def update(self, grads, rate):
        for name, w in self.parameters.items():
            mean, new = self.mean[name], 1 - self.momentum
            mean += new * (grads[name] - mean)
            step = orthogonal(self.momentum * mean + new * grads[name])
            rows, columns = w.shape
            w *= 1 - rate * self.decay
            w -= (rate * max(1, rows / columns) ** 0.5 * step).astype(w.dtype)


def orthogonal(g):
    """The matrix with g's singular vectors whose singular values are about 1.

    Five rounds of a quintic Newton-Schulz iteration; its coefficients are Muon's. They
    bring every value that is not tiny to between 0.7 and 1.2.
    """
    tall = g.shape[0] > g.shape[1]
    x = g.T if tall else g
    x = x / (np.linalg.norm(x) + 1e-7)
    for _ in range(5):
        square = x @ x.T
        x = 3.4445 * x + (-4.7750 * square + 2.0315 * square @ square) @ x
    return x.T if tall else x
