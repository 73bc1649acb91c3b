"""The transformer: Qwen3's architecture, its loss and its gradient, in NumPy.

Parameters are a dict from the tensor's name in the GGUF file to an array. A weight
matrix has the shape (outputs, inputs), so that its rows are the file's rows, and is
applied as x @ w.T. Every part is a pair of functions: forward gives the output and
what the gradient needs, backward takes the output's gradient and that, and gives the
inputs' gradients. Nothing here keeps state. The number type is that of the parameters:
float32 to train, float64 to check the gradient.

Shapes: B rows, T positions, D width, H query heads, G key-value heads, W head width,
F feed-forward width, V vocabulary.

The architecture is that of Qwen3 (arXiv:2505.09388): RMS norm before attention and
before the feed-forward part, RMS norm of each query and key head, rotary positions in
halves (arXiv:2104.09864), grouped queries, SwiGLU (arXiv:2002.05202), output matrix
tied to the embedding.
"""

from dataclasses import dataclass

import numpy as np

NORM_EPSILON = 1e-6


@dataclass(frozen=True)
class Shape:
    """The sizes of a model."""

    vocabulary: int
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 2
    head_width: int = 32
    feed_forward: int = 384
    context: int = 1024
    rope_base: float = 10000.0


def new_parameters(shape, rng, dtype=np.float32):
    """Random weights: normal, and smaller where a sum over the layers ends."""

    def normal(rows, columns, scale):
        return (rng.standard_normal((rows, columns)) * scale).astype(dtype)

    ones = lambda n: np.ones(n, dtype)
    d, f = shape.width, shape.feed_forward
    q, kv = shape.heads * shape.head_width, shape.kv_heads * shape.head_width
    last = 1 / np.sqrt(2 * shape.layers)
    p = {"token_embd.weight": normal(shape.vocabulary, d, 0.02)}
    for i in range(shape.layers):
        p[f"blk.{i}.attn_norm.weight"] = ones(d)
        p[f"blk.{i}.attn_q.weight"] = normal(q, d, d**-0.5)
        p[f"blk.{i}.attn_k.weight"] = normal(kv, d, d**-0.5)
        p[f"blk.{i}.attn_v.weight"] = normal(kv, d, d**-0.5)
        p[f"blk.{i}.attn_q_norm.weight"] = ones(shape.head_width)
        p[f"blk.{i}.attn_k_norm.weight"] = ones(shape.head_width)
        p[f"blk.{i}.attn_output.weight"] = normal(d, q, q**-0.5 * last)
        p[f"blk.{i}.ffn_norm.weight"] = ones(d)
        p[f"blk.{i}.ffn_gate.weight"] = normal(f, d, d**-0.5)
        p[f"blk.{i}.ffn_up.weight"] = normal(f, d, d**-0.5)
        p[f"blk.{i}.ffn_down.weight"] = normal(d, f, f**-0.5 * last)
    p["output_norm.weight"] = ones(d)
    return p


def norm(x, weight):
    """RMS norm over the last axis."""
    scale = 1 / np.sqrt((x * x).mean(-1, keepdims=True) + NORM_EPSILON)
    unit = x * scale
    return unit * weight, (unit, scale, weight)


def norm_backward(dy, saved):
    unit, scale, weight = saved
    dweight = (dy * unit).reshape(-1, unit.shape[-1]).sum(0)
    dunit = dy * weight
    dx = scale * (dunit - unit * (dunit * unit).mean(-1, keepdims=True))
    return dx, dweight


def linear(x, weight):
    return x @ weight.T


def linear_backward(dy, x, weight):
    """The gradients of x and of the weight, in this order."""
    flat = dy.reshape(-1, dy.shape[-1])
    return dy @ weight, flat.T @ x.reshape(-1, x.shape[-1])


def rotations(shape, length, dtype):
    """Cosines and sines of the rotary angles: (length, W/2) each."""
    half = shape.head_width // 2
    angles = np.outer(np.arange(length), shape.rope_base ** (-np.arange(half) / half))
    return np.cos(angles).astype(dtype), np.sin(angles).astype(dtype)


def rotate(x, cos, sin):
    """Turns the pairs (i, i + W/2) of (..., T, W); with -sin it turns back."""
    a, b = np.split(x, 2, -1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], -1)


def split_heads(x, heads):
    """(B, T, heads * W) to (B, heads, T, W)."""
    b, t, _ = x.shape
    return np.ascontiguousarray(x.reshape(b, t, heads, -1).transpose(0, 2, 1, 3))


def merge_heads(x):
    """(B, heads, T, W) to (B, T, heads * W)."""
    b, h, t, w = x.shape
    return x.transpose(0, 2, 1, 3).reshape(b, t, h * w)


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    x /= x.sum(-1, keepdims=True)
    return x


def attention(x, p, i, shape, cos, sin):
    """Causal self-attention of layer i over (B, T, D), without norm and residual."""
    name = f"blk.{i}.attn_"
    per_group = shape.heads // shape.kv_heads
    q, q_saved = norm(split_heads(linear(x, p[name + "q.weight"]), shape.heads), p[name + "q_norm.weight"])
    k, k_saved = norm(split_heads(linear(x, p[name + "k.weight"]), shape.kv_heads), p[name + "k_norm.weight"])
    v = split_heads(linear(x, p[name + "v.weight"]), shape.kv_heads)
    q, k = rotate(q, cos, sin), rotate(k, cos, sin)

    # The query heads of a group lie one after the other, so a group is one tall matrix.
    b, _, t, w = q.shape
    q = q.reshape(b, shape.kv_heads, per_group * t, w)
    scores = q @ k.transpose(0, 1, 3, 2)
    scores *= x.dtype.type(w**-0.5)
    future = np.triu(np.full((t, t), -np.inf, x.dtype), 1)
    scores += np.tile(future, (per_group, 1))
    weights = softmax(scores)
    mixed = merge_heads((weights @ v).reshape(b, shape.heads, t, w))
    return linear(mixed, p[name + "output.weight"]), (x, q, k, v, q_saved, k_saved, weights, mixed)


def attention_backward(dy, saved, p, i, shape, cos, sin, grads):
    name = f"blk.{i}.attn_"
    x, q, k, v, q_saved, k_saved, weights, mixed = saved
    b, t, _ = x.shape
    w = shape.head_width
    dmixed, grads[name + "output.weight"] = linear_backward(dy, mixed, p[name + "output.weight"])
    dmixed = split_heads(dmixed, shape.heads).reshape(q.shape)

    dv = weights.transpose(0, 1, 3, 2) @ dmixed
    dscores = dmixed @ v.transpose(0, 1, 3, 2)
    dscores -= (dscores * weights).sum(-1, keepdims=True)
    dscores *= weights
    dscores *= x.dtype.type(w**-0.5)
    dq = (dscores @ k).reshape(b, shape.heads, t, w)
    dk = dscores.transpose(0, 1, 3, 2) @ q

    dq, grads[name + "q_norm.weight"] = norm_backward(rotate(dq, cos, -sin), q_saved)
    dk, grads[name + "k_norm.weight"] = norm_backward(rotate(dk, cos, -sin), k_saved)
    dx = 0
    for part, d in ("q", dq), ("k", dk), ("v", dv):
        dpart, grads[f"{name}{part}.weight"] = linear_backward(merge_heads(d), x, p[f"{name}{part}.weight"])
        dx = dx + dpart
    return dx


def feed_forward(x, p, i):
    """SwiGLU of layer i, without norm and residual."""
    name = f"blk.{i}.ffn_"
    gate, up = linear(x, p[name + "gate.weight"]), linear(x, p[name + "up.weight"])
    sigmoid = 1 / (1 + np.exp(-gate))
    inner = gate * sigmoid * up
    return linear(inner, p[name + "down.weight"]), (x, gate, up, sigmoid, inner)


def feed_forward_backward(dy, saved, p, i, grads):
    name = f"blk.{i}.ffn_"
    x, gate, up, sigmoid, inner = saved
    dinner, grads[name + "down.weight"] = linear_backward(dy, inner, p[name + "down.weight"])
    silu = gate * sigmoid
    dgate = dinner * up * (sigmoid + silu * (1 - sigmoid))
    dx_gate, grads[name + "gate.weight"] = linear_backward(dgate, x, p[name + "gate.weight"])
    dx_up, grads[name + "up.weight"] = linear_backward(dinner * silu, x, p[name + "up.weight"])
    return dx_gate + dx_up


def layers(p, shape, x, cos, sin):
    """All layers over x (B, T, D), and what the gradient needs of each."""
    saved = []
    for i in range(shape.layers):
        h, norm1 = norm(x, p[f"blk.{i}.attn_norm.weight"])
        h, attended = attention(h, p, i, shape, cos, sin)
        x = x + h
        h, norm2 = norm(x, p[f"blk.{i}.ffn_norm.weight"])
        h, fed = feed_forward(h, p, i)
        x = x + h
        saved.append((norm1, attended, norm2, fed))
    return x, saved


def layers_backward(dx, saved, p, shape, cos, sin, grads):
    for i in reversed(range(shape.layers)):
        norm1, attended, norm2, fed = saved.pop()
        dh = feed_forward_backward(dx, fed, p, i, grads)
        dh, grads[f"blk.{i}.ffn_norm.weight"] = norm_backward(dh, norm2)
        dx = dx + dh
        dh = attention_backward(dx, attended, p, i, shape, cos, sin, grads)
        dh, grads[f"blk.{i}.attn_norm.weight"] = norm_backward(dh, norm1)
        dx = dx + dh
    return dx


def sum_rows(rows, index, size):
    """Adds each of rows (N, D) to the row of the result (size, D) that index names."""
    order = np.argsort(index, kind="stable")
    index = index[order]
    first = np.flatnonzero(np.r_[True, index[1:] != index[:-1]])
    total = np.zeros((size, rows.shape[1]), rows.dtype)
    total[index[first]] = np.add.reduceat(rows[order], first)
    return total


def cross_entropy(x, embedding, targets):
    """The mean loss of rows x (N, D) against targets (N), and the gradients of both."""
    logits = linear(x, embedding)
    logits -= logits.max(-1, keepdims=True)
    right = logits[np.arange(len(targets)), targets]
    np.exp(logits, out=logits)
    total = logits.sum(-1, keepdims=True)
    loss = float((np.log(total[:, 0]) - right).mean())
    logits /= total
    logits[np.arange(len(targets)), targets] -= 1
    logits /= len(targets)
    dx, dembedding = linear_backward(logits, x, embedding)
    return loss, dx, dembedding


def loss_and_gradient(p, shape, tokens, learn):
    """The mean loss of predicting the tokens that learn marks, and its gradient.

    tokens (B, T) are token ids; learn (B, T) is true where the token is to be learnt
    from those before it. Rows shorter than T are filled up at their end with anything
    that is not learnt: what follows a token can't change what is predicted for it.
    """
    inputs, targets, wanted = tokens[:, :-1], tokens[:, 1:], learn[:, 1:]
    embedding = p["token_embd.weight"]
    cos, sin = rotations(shape, inputs.shape[1], embedding.dtype)
    x, saved = layers(p, shape, embedding[inputs], cos, sin)
    # Only the rows that are learnt need logits.
    x, last = norm(x[wanted], p["output_norm.weight"])
    grads = {}
    loss, dlearnt, dembedding = cross_entropy(x, embedding, targets[wanted])

    dlearnt, grads["output_norm.weight"] = norm_backward(dlearnt, last)
    dx = np.zeros((*inputs.shape, shape.width), embedding.dtype)
    dx[wanted] = dlearnt
    dx = layers_backward(dx, saved, p, shape, cos, sin, grads)
    dembedding += sum_rows(dx.reshape(-1, shape.width), inputs.reshape(-1), shape.vocabulary)
    grads["token_embd.weight"] = dembedding
    return loss, grads


def most_likely(p, shape, tokens):
    """The most likely next token after each of tokens (B, T) but the last: (B, T - 1)."""
    embedding = p["token_embd.weight"]
    cos, sin = rotations(shape, tokens.shape[1] - 1, embedding.dtype)
    x, _ = layers(p, shape, embedding[tokens[:, :-1]], cos, sin)
    x, _ = norm(x, p["output_norm.weight"])
    return linear(x, embedding).argmax(-1)
