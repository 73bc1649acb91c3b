"""Tests of the demo model's training: the gradient, the tokenizer, the file, the same seed.

Run by 'make test', or by test.sh beside this.
"""

import io
import re
import struct
import unittest
import unittest.mock

import numpy as np

import corpus
import gguf
import train
import transformer
from optimizer import AdamW, Muon, Optimizer
from tokenizer import BYTES, Tokenizer, learn_merges

TINY = dict(width=32, layers=2, heads=4, kv_heads=2, head_width=16, feed_forward=48)


def random_rows(rng, lengths, vocabulary=64):
    return [(list(rng.integers(0, vocabulary, n)), rng.random(n) < 0.6) for n in lengths]


class Gradient(unittest.TestCase):
    def test_is_that_of_finite_differences(self):
        rng = np.random.default_rng(1)
        shape = transformer.Shape(64, **TINY)
        parameters = transformer.new_parameters(shape, rng, np.float64)
        parameters.flat += rng.standard_normal(parameters.flat.size) * 0.3  # norms that are not 1, matrices that matter
        # Lengths below, at and above the number of lanes, and more rows than shards.
        rows = random_rows(rng, (11, 5, 17, 30, 8, 9, 2))
        gradient, ignored = transformer.Parameters(shape, np.float64), transformer.Parameters(shape, np.float64)
        transformer.loss_and_gradient(parameters, rows, gradient)
        for name, w in parameters.named.items():
            flat, got = w.reshape(-1), gradient[name].reshape(-1)
            for i in rng.choice(flat.size, min(6, flat.size), replace=False):
                step, kept = 1e-5, flat[i]
                flat[i] = kept + step
                above = transformer.loss_and_gradient(parameters, rows, ignored)
                flat[i] = kept - step
                below = transformer.loss_and_gradient(parameters, rows, ignored)
                flat[i] = kept
                want = (above - below) / (2 * step)
                self.assertAlmostEqual(got[i], want, delta=1e-7 + 1e-4 * abs(want), msg=f"{name}[{i}]")

    def test_in_float_is_near_that_in_double(self):
        shape = transformer.Shape(64, **TINY)
        found = []
        for dtype in np.float32, np.float64:
            parameters, gradient = transformer.new_parameters(shape, np.random.default_rng(1), dtype), transformer.Parameters(shape, dtype)
            loss = transformer.loss_and_gradient(parameters, random_rows(np.random.default_rng(2), (40, 3, 21)), gradient)
            found.append(np.r_[loss, gradient.flat])
        np.testing.assert_allclose(*found, atol=2e-6, rtol=1e-4)

    def test_does_not_see_what_follows_or_other_rows(self):
        rng = np.random.default_rng(2)
        parameters = transformer.new_parameters(transformer.Shape(64, **TINY), rng)
        ids, marks = list(rng.integers(0, 64, 12)), np.arange(12) // 3 == 1
        gradient = transformer.Parameters(parameters.shape)
        before = transformer.loss_and_gradient(parameters, [(ids, marks)], gradient)
        other = (list(rng.integers(0, 64, 12)), np.zeros(12, bool))
        after = transformer.loss_and_gradient(parameters, [other, (ids[:6] + [7] * 6, marks), other], gradient)
        self.assertEqual(before, after)

    @unittest.skipUnless("-march=x86-64-v4" in transformer.target(), "this CPU has no AVX-512 to compare AVX2 with")
    def test_is_the_same_to_the_last_bit_with_smaller_registers(self):
        shape = transformer.Shape(512)
        rows = random_rows(np.random.default_rng(1), (40, 3, 21, 16, 33), 512)
        found = []
        for target in transformer.target(), ["-march=x86-64-v3"]:
            with unittest.mock.patch.object(transformer, "LIBRARY", transformer.library(target)):
                parameters, gradient = transformer.new_parameters(shape, np.random.default_rng(1)), transformer.Parameters(shape)
                optimizer = Optimizer(parameters, 10)
                losses = [transformer.loss_and_gradient(parameters, rows, gradient)]
                optimizer.update(gradient)
                losses.append(transformer.loss_and_gradient(parameters, rows, gradient))
                found.append(np.r_[losses, parameters.flat, gradient.flat])
        np.testing.assert_array_equal(*found)

    def test_sizes_that_do_not_fit_the_vectors_are_refused(self):
        with self.assertRaisesRegex(ValueError, "24 in .* is not a multiple of 16"):
            transformer.Shape(64, width=24)

    def test_exp_is_that_of_numpy(self):
        x = np.linspace(-86, 88, 16 * 4096).astype(np.float32)
        y = np.empty_like(x)
        transformer.LIBRARY.exp_float(transformer.pointer(x), transformer.pointer(y), transformer.ctypes.c_int64(x.size))
        np.testing.assert_allclose(y, np.exp(x.astype(np.float64)), rtol=2e-7)


class Optimizing(unittest.TestCase):
    def test_finds_the_bottom(self):
        shape = transformer.Shape(16, width=16, layers=1, heads=1, kv_heads=1, head_width=16, feed_forward=32)
        rng = np.random.default_rng(1)
        for make, name in (AdamW, "output_norm"), (Muon, "blk.0.ffn_up"), (Muon, "blk.0.ffn_down"):
            p, goal, gradient = (transformer.Parameters(shape) for _ in range(3))
            goal[name][:] = rng.standard_normal(goal[name].shape)
            part = make(p, [name])
            for step in range(400):
                gradient.flat[:] = p.flat - goal.flat
                part.update(gradient, 0.1 * (1 - step / 400))
            np.testing.assert_allclose(p[name], goal[name], atol=0.1)

    def test_muon_keeps_directions_and_evens_sizes(self):
        shape = transformer.Shape(16, width=16, layers=1, heads=1, kv_heads=1, head_width=16, feed_forward=32)
        rng = np.random.default_rng(1)
        names = ["blk.0.ffn_up", "blk.0.ffn_down", "blk.0.attn_q"]
        p, means, gradient = (transformer.Parameters(shape) for _ in range(3))
        gradient.flat[:] = rng.standard_normal(gradient.flat.size)
        transformer.muon_step(p, means, gradient, names, momentum=0.9, rate=1, decay=0)
        for name in names:
            rows, columns = p[name].shape
            step = -p[name] / max(1, rows / columns) ** 0.5
            sizes = np.linalg.svd(step)[1]
            self.assertTrue((0.6 < sizes).all() and (sizes < 1.3).all(), sizes)
            self.assertGreater(np.vdot(step, gradient[name]), 0)

    def test_rate_rises_stays_and_falls_to_zero(self):
        optimizer = Optimizer(transformer.Parameters(transformer.Shape(64, **TINY)), 1000)
        rates = []
        for optimizer.step in (0, 30, 60, 400, 700, 1000):
            rates.append(round(optimizer.schedule(), 3))
        self.assertEqual(rates, [0, 0.5, 1, 1, 0.5, 0])

    def test_every_parameter_has_one_part(self):
        parameters = transformer.Parameters(transformer.Shape(64, **TINY))
        parts = [name for part, _ in Optimizer(parameters, 10).parts for name in part.names]
        self.assertEqual(sorted(parts), sorted(parameters.named))


class Text(unittest.TestCase):
    def setUp(self):
        self.tokenizer = Tokenizer(learn_merges(["the cat and the hat, the cat's 12 tests\n\nthe end"] * 9, 15))

    def test_comes_back_from_its_tokens(self):
        character = {c: b for b, c in BYTES.items()}
        for text in ["the cat", "Zoë's 1234 \t tests\n\n  x", "a_b __c", "", "<|im_start|>user\nhi<|im_end|>"]:
            joined = "".join(self.tokenizer.tokens[i] for i in self.tokenizer.encode(text))
            for special in ("<|im_start|>", "<|im_end|>"):
                joined = joined.replace(special, "".join(BYTES[b] for b in special.encode()))
            self.assertEqual(bytes(character[c] for c in joined).decode(), text)

    def test_special_tokens_are_one_token(self):
        self.assertEqual(len(self.tokenizer.encode("<|im_end|><tool_call>")), 2)

    def test_frequent_words_are_one_token(self):
        self.assertEqual(len(self.tokenizer.encode(" the")), 1)

    def test_a_vocabulary_that_the_text_does_not_fill_is_refused(self):
        with self.assertRaisesRegex(ValueError, "make the vocabulary smaller"):
            learn_merges(["ab ab"], 5)


class Corpus(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.corpus = corpus.Corpus()

    def test_conversations_take_turns_and_are_ascii(self):
        rng = corpus.new_rng(1)
        for _ in range(2000):
            conversation = self.corpus.conversation(rng)
            roles = [role for role, _ in conversation]
            if roles[0] == "system":
                roles = roles[1:]
            self.assertTrue(all(r in ("user", "tool") for r in roles[::2]), roles)
            self.assertTrue(all(r == "assistant" for r in roles[1::2]) and len(roles) % 2 == 0, roles)
            self.assertTrue(corpus.text_of(conversation).isascii())
            for role, text in conversation:
                self.assertNotRegex(text, r"\{(name|word2?|city|number2?)\}")
                self.assertTrue(text.strip(), conversation)

    def test_what_was_told_is_asked_back(self):
        rng = corpus.new_rng(2)
        seen = 0
        for _ in range(1000):
            said = self.corpus.conversation(rng)
            for (_, text), (_, name) in zip(said, said[1:]):
                if name.startswith("Your name is "):
                    seen += 1
                    self.assertIn(name.removeprefix("Your name is ").rstrip("."), " ".join(t for r, t in said if r == "user"))
        self.assertGreater(seen, 20)

    def test_answers_are_learnt_whole_with_bars_too(self):
        (entry,) = [e for e in self.corpus.entries if e.id == "cmd.runpipe"]
        self.assertIn(" | cllm run ", entry.answer)
        answers = [text for d in self.corpus.dialogues for key, texts in d if key == "B" for text in texts]
        self.assertIn(entry.answer, answers)

    def test_a_question_has_one_answer(self):
        seen = {}
        for e in self.corpus.entries:
            for q in e.questions:
                words = q.lower().rstrip("?.! ")
                self.assertEqual(seen.setdefault(words, e.id), e.id, q)

    def test_variations_stay_questions(self):
        rng = corpus.new_rng(3)
        for _ in range(2000):
            self.assertTrue(self.corpus.varier.vary("How do I delete a model?", rng).strip())

    def test_a_line_that_is_none_is_an_error_with_its_number(self):
        folder, corpus.FOLDER = corpus.FOLDER, FakeFolder("[a]\nQ: one\nnonsense\n")
        try:
            with self.assertRaisesRegex(ValueError, "x.txt:3"):
                corpus.read_blocks("x")
        finally:
            corpus.FOLDER = folder


class FakeFolder:
    def __init__(self, text):
        self.text = text

    def __truediv__(self, _):
        return self

    def read_text(self):
        return self.text


class File(unittest.TestCase):
    def test_q8_0_keeps_numbers_within_half_a_step(self):
        rows = np.random.default_rng(1).standard_normal((8, 64)).astype(np.float32)
        rows[3] = 0
        blocks = np.frombuffer(gguf.quantize(rows), np.dtype([("scale", "<f2"), ("numbers", "i1", 32)]))
        back = (blocks["scale"].astype(np.float32)[:, None] * blocks["numbers"]).reshape(rows.shape)
        step = np.abs(rows.reshape(-1, 32)).max(1) / 127
        self.assertTrue((np.abs(back - rows).reshape(-1, 32) <= 0.52 * step[:, None] + 0.001 * np.abs(rows).reshape(-1, 32)).all())

    def test_begins_and_is_aligned_as_gguf(self):
        data = gguf.encode({"a": "b", "n": 3, "list": ["x", "y"], "ids": [1, 2]}, {"m": np.ones((2, 32), np.float32), "v": np.ones(5, np.float32)})
        f = io.BytesIO(data)
        self.assertEqual(struct.unpack("<4sIQQ", f.read(24)), (b"GGUF", 3, 2, 4))
        self.assertEqual(len(data) % gguf.ALIGNMENT, 0)
        with self.assertRaises(TypeError):
            gguf.value(None)


class Training(unittest.TestCase):
    def test_the_same_seed_gives_the_same_file(self):
        def made(seed):
            entries = [corpus.Entry("a.b", ["What is it?", "what"], "It is a test."), corpus.Entry("unknown.x", ["Why?"], "Nobody knows.")]
            p, tokenizer = train.train(entries, 3, seed, lambda _: None, vocabulary=512, **TINY)
            return gguf.encode(train.metadata(p.shape, tokenizer), p.tensors())

        one = made(1)
        self.assertEqual(one, made(1))
        self.assertNotEqual(one, made(2))

    def test_learns_by_heart(self):
        entries = [corpus.Entry("a.b", ["What is it?"], "It is a test."), corpus.Entry("unknown.x", ["Why?"], "Nobody knows.")]
        rng = np.random.default_rng(1)
        texts = [[("user", e.questions[0]), ("assistant", e.answer)] for e in entries]
        tokenizer = Tokenizer(learn_merges([corpus.text_of(t) for t in texts] * 3, 20))
        p = transformer.new_parameters(transformer.Shape(-(-len(tokenizer.tokens) // 16) * 16, **TINY), rng)
        optimizer, gradient = Optimizer(p, 250), transformer.Parameters(p.shape)
        rows = [train.encode(tokenizer, t) for t in texts]
        for _ in range(250):
            loss = transformer.loss_and_gradient(p, rows, gradient)
            optimizer.update(gradient)
        self.assertLess(loss, 0.05)
        self.assertEqual(train.share_right(p, tokenizer, entries), 1)


if __name__ == "__main__":
    unittest.main()
