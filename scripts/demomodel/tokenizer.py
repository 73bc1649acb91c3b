"""Byte-level byte-pair encoding (arXiv:1508.07909), as llama.cpp does it for Qwen2.

Text is cut at the special tokens, then into words by Qwen2's pattern; the bytes of each
word are joined in the order in which the merges were learnt.
"""

import re
from collections import Counter, defaultdict

CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
# These are text to the reader of an answer, but one token each to the model.
MARKUP = ["<tool_call>", "</tool_call>"]

# Qwen2's pattern. Python's re has no \p{L} and \p{N}; the classes below are the same for ASCII text.
WORD = re.compile(
    r"'(?:[sStTmMdD]|[rR][eE]|[vV][eE]|[lL][lL])"
    r"|(?:[^\r\n\w]|_)?[^\W\d_]+"
    r"|\d"
    r"| ?(?:[^\s\w]|_)+[\r\n]*"
    r"|\s*[\r\n]+"
    r"|\s+(?!\S)"
    r"|\s+"
)
SPECIAL = re.compile("(" + "|".join(map(re.escape, CONTROL + MARKUP)) + ")")


def byte_characters():
    """GPT-2's printable character for each byte: itself, or one from U+0100 on."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    characters, spare = {}, 256
    for byte in range(256):
        characters[byte] = chr(byte if byte in printable else spare)
        spare += byte not in printable
    return characters


BYTES = byte_characters()


def learn_merges(texts, count):
    """The count most frequent merges of adjacent pieces, in order; ties by spelling."""
    words = Counter(w for text in texts for part in SPECIAL.split(text)[::2] for w in WORD.findall(part))
    pieces = [[BYTES[b] for b in word.encode()] for word in words]
    frequency = list(words.values())
    pairs, where = Counter(), defaultdict(set)
    for i, word in enumerate(pieces):
        for pair in zip(word, word[1:]):
            pairs[pair] += frequency[i]
            where[pair].add(i)
    merges = []
    while len(merges) < count:
        best = max(pairs, key=lambda pair: (pairs[pair], pair))
        if pairs[best] < 2:
            raise ValueError(f"the text has only {len(merges)} pairs that occur twice, not {count}: make the vocabulary smaller")
        merges.append(best)
        for i in sorted(where[best]):
            for pair in zip(pieces[i], pieces[i][1:]):
                pairs[pair] -= frequency[i]
            pieces[i] = merge(pieces[i], best)
            for pair in zip(pieces[i], pieces[i][1:]):
                pairs[pair] += frequency[i]
                where[pair].add(i)
        del pairs[best]
    return merges


def merge(pieces, pair):
    """pieces with each occurrence of pair, from the left, joined."""
    out, i = [], 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            out.append(pieces[i] + pieces[i + 1])
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out


class Tokenizer:
    """Tokens are numbered: bytes, merges in order, markup, control tokens."""

    def __init__(self, merges):
        self.merges = merges
        self.tokens = [BYTES[b] for b in range(256)] + [a + b for a, b in merges] + MARKUP + CONTROL
        self.ids = {token: i for i, token in enumerate(self.tokens)}
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.seen = {}

    def encode(self, text):
        """The ids of text, in which special tokens are recognised."""
        ids = []
        for i, part in enumerate(SPECIAL.split(text)):
            if i % 2:
                ids.append(self.ids[part])
            else:
                for word in WORD.findall(part):
                    ids.extend(self.encode_word(word))
        return ids

    def encode_word(self, word):
        if word not in self.seen:
            pieces = [BYTES[b] for b in word.encode()]
            while len(pieces) > 1:
                best = min(zip(pieces, pieces[1:]), key=lambda pair: self.rank.get(pair, len(self.rank)))
                if best not in self.rank:
                    break
                pieces = merge(pieces, best)
            self.seen[word] = [self.ids[p] for p in pieces]
        return self.seen[word]
