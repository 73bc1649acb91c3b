"""Trains the demo model and writes it as a GGUF file.

    train.py OUTPUT.gguf [--steps N] [--seed N] [--keep-out]

The same seed and the same versions of Python, NumPy and OpenBLAS give the same file.
train.sh sets what else that needs.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

import corpus
import gguf
import transformer
from optimizer import Optimizer
from tokenizer import CONTROL, MARKUP, Tokenizer, learn_merges

VOCABULARY = 2048
BATCH = 3072  # tokens of a step
BEGINNING = 8  # tokens of an answer that short conversations keep
EARLY = 0.45  # share of the steps in which all conversations are short, and questions much varied
LATE_SHORT = 0.6  # share of short conversations, by tokens, after those
LATE_NOISE = 0.1  # how much questions are varied then
REPORT = 100  # steps between two lines of progress
CHECKPOINT = 1000  # steps after which the file is written anew

CHAT_TEMPLATE = (
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n'}}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)


def encode(tokenizer, conversation):
    """Token ids, and which of them are learnt: the assistant's, and the end of each turn of his."""
    ids, learn = [], []
    for role, text in conversation:
        head = tokenizer.encode(f"<|im_start|>{role}\n")
        body = tokenizer.encode(f"{text}<|im_end|>")
        tail = tokenizer.encode("\n")
        ids += head + body + tail
        learn += [False] * len(head) + [role == "assistant"] * len(body) + [False] * len(tail)
    return ids, learn


def shorten(row):
    """A conversation without the end of its answer.

    Which answer it is shows in its beginning, and is much harder to learn than the rest.
    """
    ids, learn = row
    end = learn.index(True) + BEGINNING
    return ids[:end], learn[:end]


def batches(texts, tokenizer, rng, context, early):
    """Endless batches of encoded conversations, BATCH tokens or a little more each.

    First short conversations in many words, while early() is true: which words speak for
    which answer. Then those of all kinds as well, closer to the corpus' own words.
    """
    while True:
        texts.noise = 1 if early() else LATE_NOISE
        batch, size, shorts = [], 0, 0
        while size < BATCH:
            if early() or shorts <= LATE_SHORT * size:
                conversation, cut = texts.short(rng)
                row = encode(tokenizer, conversation)
                if cut:
                    row = shorten(row)
                shorts += len(row[0])
            else:
                row = encode(tokenizer, texts.conversation(rng))
            if len(row[0]) <= context:
                batch.append(row)
                size += len(row[0])
        yield batch


def share_right(parameters, tokenizer, entries):
    """The share of the questions whose whole answer is the most likely one, word for word."""
    rows = [encode(tokenizer, [("user", q), ("assistant", e.answer)]) for e in entries for q in e.questions]
    right = sum(transformer.all_right(parameters, rows[i : i + 128]).sum() for i in range(0, len(rows), 128))
    return right / len(rows)


def meanings(entries, tokenizer, width):
    """A vector for each token, alike for tokens of the same entries.

    Latent semantic analysis: the singular vectors of the matrix that counts how often a
    token stands in an entry, rare tokens weighing more. A corpus as small as this does
    not teach otherwise that words which never meet in one question mean the same.
    """
    counts = np.zeros((len(tokenizer.tokens), len(entries)))
    for i, e in enumerate(entries):
        for text in [*e.questions, *e.patterns, e.answer]:
            # With a space before it the first word is the token that it is elsewhere.
            np.add.at(counts[:, i], tokenizer.encode(" " + text) + tokenizer.encode(text.lower()), 1)
    rarity = np.log((1 + len(entries)) / (1 + (counts > 0).sum(1, keepdims=True)))
    left, size, _ = np.linalg.svd(np.log1p(counts) * rarity, full_matrices=False)
    vectors = left[:, :width] * np.sqrt(size[:width])
    vectors = np.pad(vectors, ((0, 0), (0, width - vectors.shape[1])))
    return vectors / vectors.std()


def metadata(shape, tokenizer):
    control = len(tokenizer.tokens) - len(CONTROL)
    return {
        "general.architecture": "qwen3",
        "general.type": "model",
        "general.name": "demo",
        "general.description": "Answers questions about cllm in plain English.",
        "general.license": "mit",
        "general.file_type": 7,  # mostly Q8_0
        "general.quantization_version": 2,
        "qwen3.context_length": shape.context,
        "qwen3.embedding_length": shape.width,
        "qwen3.block_count": shape.layers,
        "qwen3.feed_forward_length": shape.feed_forward,
        "qwen3.attention.head_count": shape.heads,
        "qwen3.attention.head_count_kv": shape.kv_heads,
        "qwen3.attention.key_length": shape.head_width,
        "qwen3.attention.value_length": shape.head_width,
        "qwen3.attention.layer_norm_rms_epsilon": transformer.NORM_EPSILON,
        "qwen3.rope.freq_base": shape.rope_base,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "qwen2",
        "tokenizer.ggml.tokens": tokenizer.tokens,
        # 1 is a normal token, 3 a control token, 4 one that users may write.
        "tokenizer.ggml.token_type": [1] * (control - len(MARKUP)) + [4] * len(MARKUP) + [3] * len(CONTROL),
        "tokenizer.ggml.merges": [f"{a} {b}" for a, b in tokenizer.merges],
        "tokenizer.ggml.bos_token_id": tokenizer.ids["<|endoftext|>"],
        "tokenizer.ggml.eos_token_id": tokenizer.ids["<|im_end|>"],
        "tokenizer.ggml.padding_token_id": tokenizer.ids["<|endoftext|>"],
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": CHAT_TEMPLATE,
    }


def train(entries, steps, seed, report, save=None, vocabulary=VOCABULARY, **sizes):
    """Trains for so many steps and returns parameters and tokenizer.

    report takes a line of text. save takes what is returned, now and then before the end.
    """
    texts = corpus.Corpus(entries)
    special = 256 + len(MARKUP) + len(CONTROL)
    tokenizer = Tokenizer(learn_merges(texts.texts(corpus.new_rng(seed)), vocabulary - special))
    shape = transformer.Shape(vocabulary, **sizes)
    parameters = transformer.new_parameters(shape, np.random.default_rng(seed))
    embedding = parameters["token_embd"]
    embedding += (embedding.std() * meanings(texts.entries, tokenizer, shape.width)).astype(embedding.dtype)
    report(f"{len(texts.entries)} questions in {sum(len(e.questions) for e in texts.entries)} phrasings, {len(texts.dialogues)} dialogues")
    report(f"{parameters.flat.size:,} parameters, {steps} steps")

    optimizer = Optimizer(parameters, steps)
    early = lambda: optimizer.step < EARLY * steps
    source = batches(texts, tokenizer, corpus.new_rng(seed + 1), shape.context, early)
    gradient = transformer.Parameters(shape)
    start, seen, losses = time.monotonic(), 0, []
    while optimizer.step < steps:
        rows = next(source)
        losses.append(transformer.loss_and_gradient(parameters, rows, gradient))
        optimizer.update(gradient)
        seen += sum(len(ids) for ids, _ in rows)
        if optimizer.step % REPORT == 0 or optimizer.step in (1, 10, steps):
            passed = time.monotonic() - start
            left = passed / optimizer.step * (steps - optimizer.step)
            report(f"step {optimizer.step:5}  loss {np.mean(losses):.4f}  {seen / passed:,.0f} tokens/s  {left / 60:.1f} min left")
            losses = []
        if save and optimizer.step % CHECKPOINT == 0:
            save(parameters, tokenizer)
    return parameters, tokenizer


def main():
    arguments = argparse.ArgumentParser(description="Train the demo model.")
    arguments.add_argument("output")
    arguments.add_argument("--steps", type=int, default=10500)
    arguments.add_argument("--seed", type=int, default=1)
    arguments.add_argument("--keep-out", action="store_true", help="learn without some phrasings, and tell how many of those are answered right")
    options = arguments.parse_args()

    entries, kept_out = corpus.read_entries(), []
    if options.keep_out:
        for e in entries[::3]:
            kept_out.append(corpus.Entry(e.id, e.questions[1::4], e.answer))
            e.questions = [q for q in e.questions if q not in kept_out[-1].questions]
    report = lambda line: print(line, flush=True)

    def save(parameters, tokenizer):
        Path(options.output).write_bytes(gguf.encode(metadata(parameters.shape, tokenizer), parameters.tensors()))

    parameters, tokenizer = train(entries, options.steps, options.seed, report, save)
    save(parameters, tokenizer)
    report(f"right answers to the corpus' own questions: {share_right(parameters, tokenizer, entries):.1%}")
    if kept_out:
        report(f"right answers to the kept out phrasings: {share_right(parameters, tokenizer, kept_out):.1%}")


if __name__ == "__main__":
    sys.exit(main())
