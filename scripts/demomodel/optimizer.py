"""The optimizer: Muon for the matrices of the layers, AdamW for all else.

Muon (https://kellerjordan.github.io/posts/muon, arXiv:2502.16982) takes the momentum of a
matrix's gradient, makes all its singular values about 1, and steps in that direction. On
this corpus it learns which answer belongs to a question in half the steps of AdamW
(arXiv:1711.05101). Its arithmetic is in transformer.cpp.
"""

import numpy as np

import transformer

WARMUP = 60  # steps until the full rate
CONSTANT = 0.4  # share of the steps until the rate begins to fall


class Optimizer:
    """Owns the moments of the parameters that it was made for and changes those in place."""

    def __init__(self, parameters, steps, matrix_rate=0.02, rate=4e-3):
        self.steps, self.step = steps, 0
        inner = [n for n, w in parameters.named.items() if w.ndim == 2 and n.startswith("blk.")]
        outer = [n for n in parameters.named if n not in inner]
        self.parts = [(Muon(parameters, inner), matrix_rate), (AdamW(parameters, outer), rate)]

    def schedule(self):
        """The share of the full rate: it rises, stays, and falls in a straight line to zero."""
        left = 1 - self.step / self.steps
        return min(1, self.step / WARMUP) * min(1, left / (1 - CONSTANT))

    def update(self, gradient):
        """Takes one step down the gradient."""
        self.step += 1
        for part, rate in self.parts:
            part.update(gradient, rate * self.schedule())


class AdamW:
    """Steps of about the same size for every number, whatever the size of its gradient."""

    def __init__(self, parameters, names, betas=(0.9, 0.98), decay=0.1, clip=1.0):
        self.parameters, self.names, self.betas, self.decay, self.clip = parameters, names, betas, decay, clip
        self.first = {name: np.zeros_like(parameters[name]) for name in names}
        self.second = {name: np.zeros_like(parameters[name]) for name in names}
        self.step = 0

    def update(self, gradient, rate):
        self.step += 1
        length = np.sqrt(sum(float(np.vdot(gradient[n], gradient[n])) for n in self.names))
        scale = min(1, self.clip / (length + 1e-12))
        b1, b2 = self.betas
        size = rate * np.sqrt(1 - b2**self.step) / (1 - b1**self.step)
        for name in self.names:
            w, m, v = self.parameters[name], self.first[name], self.second[name]
            g = gradient[name] * w.dtype.type(scale)
            m += (1 - b1) * (g - m)
            v += (1 - b2) * (g * g - v)
            if w.ndim == 2:
                w *= 1 - rate * self.decay
            w -= (size * m / (np.sqrt(v) + 1e-8)).astype(w.dtype)


class Muon:
    """Steps of about the same size in every direction of a matrix."""

    def __init__(self, parameters, names, momentum=0.95, decay=0.01):
        self.parameters, self.names, self.momentum, self.decay = parameters, names, momentum, decay
        self.mean = transformer.Parameters(parameters.shape)

    def update(self, gradient, rate):
        transformer.muon_step(self.parameters, self.mean, gradient, self.names, self.momentum, rate, self.decay)
