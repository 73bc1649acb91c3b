"""transformer.cpp for Python: the model's parameters, its loss, its gradient.

The library is compiled when this is imported, into the folder CLLM_CACHE/demomodel, once
per source and CPU.
"""

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
SOURCES = [HERE / "transformer.cpp", HERE / "numeric.hpp"]
NORM_EPSILON = 1e-6

# Products and sums are joined where the source says a * b + c, on every CPU, so the last
# bits are the same on all. Nothing here may let the compiler reorder a sum.
FLAGS = ["-std=c++20", "-O3", "-ffp-contract=on", "-fno-math-errno", "-shared", "-fPIC", "-pthread", "-Wno-psabi"]


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, as in transformer.cpp; context is for the file alone."""

    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 32
    feed_forward: int = 384
    rope_base: float = 10000.0
    context: int = 1024

    def __post_init__(self):
        for size in (self.vocabulary, self.width, self.head_width, self.feed_forward):
            if size % 16:
                raise ValueError(f"{size} in {self} is not a multiple of 16, as transformer.cpp needs it")

    def tensors(self):
        """Name in the GGUF file and shape of each tensor, in the order of the parameters."""
        d, f = self.width, self.feed_forward
        q, kv = self.heads * self.head_width, self.kv_heads * self.head_width
        yield "token_embd", (self.vocabulary, d)
        for i in range(self.layers):
            yield f"blk.{i}.attn_norm", (d,)
            yield f"blk.{i}.attn_q", (q, d)
            yield f"blk.{i}.attn_k", (kv, d)
            yield f"blk.{i}.attn_v", (kv, d)
            yield f"blk.{i}.attn_q_norm", (self.head_width,)
            yield f"blk.{i}.attn_k_norm", (self.head_width,)
            yield f"blk.{i}.attn_output", (d, q)
            yield f"blk.{i}.ffn_norm", (d,)
            yield f"blk.{i}.ffn_gate", (f, d)
            yield f"blk.{i}.ffn_up", (f, d)
            yield f"blk.{i}.ffn_down", (d, f)
        yield "output_norm", (d,)


class CShape(ctypes.Structure):
    _fields_ = [(n, ctypes.c_int64) for n in "vocabulary width layers heads kv_heads head_width feed_forward".split()] + [("rope_base", ctypes.c_double)]


def compiler():
    names = [os.environ.get("CLLM_CXX", ""), *(f"clang++-{v}" for v in range(16, 23)), "clang++"]
    found = [name for name in names if name and shutil.which(name)]
    if not found:
        raise FileNotFoundError("there is no clang++ (16 or newer) to compile transformer.cpp with: run 'make setup', or set CLLM_CXX")
    return found[0]


def target():
    """The compiler's option for this CPU: fused multiply-add is a must."""
    if platform.machine() not in ("x86_64", "AMD64"):
        return ["-mcpu=native"]
    cpu = Path("/proc/cpuinfo").read_text() if Path("/proc/cpuinfo").exists() else ""
    if all(f in cpu for f in ("avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd")):
        return ["-march=x86-64-v4", "-mprefer-vector-width=512"]
    return ["-march=x86-64-v3"]


def library(target):
    """transformer.cpp compiled with these options for the CPU."""
    command = [compiler(), *FLAGS, *target]
    key = hashlib.sha256("\0".join(command).encode() + b"".join(s.read_bytes() for s in SOURCES)).hexdigest()
    cache = Path(os.environ.get("CLLM_CACHE") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "cllm")
    path = cache / "demomodel" / f"{key[:16]}.so"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        new = path.with_suffix(f".{os.getpid()}")
        subprocess.run([*command, "-o", new, SOURCES[0]], check=True)
        new.rename(path)
    loaded = ctypes.CDLL(str(path))
    loaded.loss_and_gradient_float.restype = loaded.loss_and_gradient_double.restype = ctypes.c_double
    loaded.parameter_count.restype = ctypes.c_int64
    return loaded


LIBRARY = library(target())


def pointer(array):
    return ctypes.c_void_p(array.ctypes.data)


def sizes(shape):
    return ctypes.byref(CShape(*(getattr(shape, n) for n, _ in CShape._fields_)))


class Parameters:
    """The weights of a model, or anything of the same shape: one array, and views of it by name."""

    def __init__(self, shape, dtype=np.float32):
        named = list(shape.tensors())
        self.shape = shape
        self.flat = np.zeros(sum(int(np.prod(s)) for _, s in named), dtype)
        assert self.flat.size == LIBRARY.parameter_count(sizes(shape))
        self.named, self.at = {}, {}
        at = 0
        for name, s in named:
            size = int(np.prod(s))
            self.named[name], self.at[name] = self.flat[at : at + size].reshape(s), at
            at += size

    def __getitem__(self, name):
        return self.named[name]

    def tensors(self):
        """The tensors by their names in a GGUF file."""
        return {f"{name}.weight": w for name, w in self.named.items()}


def new_parameters(shape, rng, dtype=np.float32):
    """Random weights: normal, and smaller where a sum over the layers ends."""
    p = Parameters(shape, dtype)
    for name, w in p.named.items():
        if w.ndim == 1:
            w[:] = 1
            continue
        scale = 0.02 if name == "token_embd" else w.shape[1] ** -0.5
        if name.endswith(("attn_output", "ffn_down")):
            scale /= np.sqrt(2 * shape.layers)
        w[:] = rng.standard_normal(w.shape) * scale
    return p


def flatten(rows):
    """Rows of (ids, marks of those that are learnt) as transformer.cpp wants them: tokens, the
    token that is learnt after each of them or -1, and the lengths."""
    tokens = np.concatenate([np.asarray(ids[:-1], np.int32) for ids, _ in rows])
    targets = np.concatenate([np.where(marks[1:], ids[1:], -1).astype(np.int32) for ids, marks in rows])
    return tokens, targets, np.array([len(ids) - 1 for ids, _ in rows], np.int64)


def loss_and_gradient(p, rows, gradient):
    """The mean loss of predicting the tokens that rows of (ids, marks) mark; sets gradient.

    A token is learnt from those before it in its row.
    """
    tokens, targets, lengths = flatten(rows)
    call = LIBRARY.loss_and_gradient_float if p.flat.dtype == np.float32 else LIBRARY.loss_and_gradient_double
    return call(sizes(p.shape), pointer(p.flat), pointer(gradient.flat), pointer(tokens), pointer(targets), pointer(lengths), ctypes.c_int64(len(rows)))


def all_right(p, rows):
    """For each of rows of (ids, marks): whether each marked token is the most likely one."""
    tokens, targets, lengths = flatten(rows)
    best = np.empty_like(tokens)
    LIBRARY.most_likely(sizes(p.shape), pointer(p.flat), pointer(tokens), pointer(lengths), ctypes.c_int64(len(rows)), pointer(best))
    right = (best == targets) | (targets < 0)
    return np.logical_and.reduceat(right, np.r_[0, np.cumsum(lengths)[:-1]])


def muon_step(weights, means, gradient, names, momentum, rate, decay):
    """Steps the matrices of these names; see transformer.cpp."""
    rows, columns, at = (np.array(v, np.int64) for v in zip(*(weights[n].shape + (weights.at[n],) for n in names)))
    f = ctypes.c_float
    LIBRARY.muon_step(ctypes.c_int64(len(names)), pointer(rows), pointer(columns), pointer(at), pointer(weights.flat), pointer(means.flat), pointer(gradient.flat), f(momentum), f(rate), f(decay))
