"""Writes a GGUF version 3 file (https://github.com/ggml-org/ggml/blob/master/docs/gguf.md).

Matrices are stored as Q8_0: blocks of 32 numbers of a row, each a half-precision scale
and 32 signed bytes. Vectors stay float32.
"""

import struct

import numpy as np

ALIGNMENT = 32
F32, Q8_0 = 0, 8
UINT32, INT32, FLOAT32, BOOL, STRING, ARRAY = 4, 5, 6, 7, 8, 9


def string(s):
    data = s.encode()
    return struct.pack("<Q", len(data)) + data


def value(v):
    """A metadata value with its type: the list's elements are all str or all int."""
    match v:
        case bool():
            return struct.pack("<I?", BOOL, v)
        case int():
            return struct.pack("<II", UINT32, v)
        case float():
            return struct.pack("<If", FLOAT32, v)
        case str():
            return struct.pack("<I", STRING) + string(v)
        case [str(), *_]:
            return struct.pack("<IIQ", ARRAY, STRING, len(v)) + b"".join(map(string, v))
        case [int(), *_]:
            return struct.pack("<IIQ", ARRAY, INT32, len(v)) + np.array(v, "<i4").tobytes()
    raise TypeError(f"no GGUF type for {v!r}")


def quantize(rows):
    """Q8_0 of (rows, columns); columns is a multiple of 32."""
    blocks = rows.reshape(-1, 32).astype(np.float32)
    scale = np.abs(blocks).max(1, keepdims=True) / 127
    inverse = np.divide(1, scale, out=np.zeros_like(scale), where=scale > 0)
    out = np.empty(len(blocks), np.dtype([("scale", "<f2"), ("numbers", "i1", 32)]))
    out["scale"] = scale[:, 0]
    out["numbers"] = np.rint(blocks * inverse)
    return out.tobytes()


def padding(size):
    return b"\0" * (-size % ALIGNMENT)


def encode(metadata, tensors):
    """The file's bytes. tensors is a dict from names to matrices and vectors."""
    head = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(metadata))
    for key, v in metadata.items():
        head += string(key) + value(v)
    data = b""
    for name, tensor in tensors.items():
        kind, stored = (Q8_0, quantize(tensor)) if tensor.ndim == 2 else (F32, tensor.astype("<f4").tobytes())
        # GGUF names the fastest axis first.
        head += string(name) + struct.pack("<I", tensor.ndim) + struct.pack(f"<{tensor.ndim}Q", *tensor.shape[::-1])
        head += struct.pack("<IQ", kind, len(data))
        data += stored + padding(len(stored))
    return head + padding(len(head)) + data
