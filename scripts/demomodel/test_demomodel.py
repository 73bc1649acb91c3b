"""Tests of the demo model's training: the gradient, the tokenizer, the file, the same seed.

Run by 'make test', or by test.sh beside this.
"""

import io
import struct
import unittest

import numpy as np

import corpus
import gguf
import model
import train
from optimizer import AdamW, Muon, Optimizer, orthogonal
from tokenizer import BYTES, Tokenizer, learn_merges

TINY = dict(width=32, layers=2, heads=4, kv_heads=2, head_width=8, feed_forward=40)


class Gradient(unittest.TestCase):
    def test_is_that_of_finite_differences(self):
        rng = np.random.default_rng(1)
        shape = model.Shape(50, **TINY)
        parameters = model.new_parameters(shape, rng, np.float64)
        for w in parameters.values():  # norms that are not 1, matrices that matter
            w += rng.standard_normal(w.shape) * 0.3
        tokens, learn = rng.integers(0, 50, (3, 11)), rng.random((3, 11)) < 0.6
        _, grads = model.loss_and_gradient(parameters, shape, tokens, learn)
        self.assertEqual(grads.keys(), parameters.keys())
        for name, w in parameters.items():
            flat, got = w.reshape(-1), grads[name].reshape(-1)
            for i in rng.choice(flat.size, min(6, flat.size), replace=False):
                step, kept = 1e-5, flat[i]
                flat[i] = kept + step
                above, _ = model.loss_and_gradient(parameters, shape, tokens, learn)
                flat[i] = kept - step
                below, _ = model.loss_and_gradient(parameters, shape, tokens, learn)
                flat[i] = kept
                want = (above - below) / (2 * step)
                self.assertAlmostEqual(got[i], want, delta=1e-7 + 1e-4 * abs(want), msg=f"{name}[{i}]")

    def test_does_not_see_what_follows(self):
        rng = np.random.default_rng(2)
        shape = model.Shape(50, **TINY)
        parameters = model.new_parameters(shape, rng)
        tokens, learn = rng.integers(0, 50, (1, 12)), np.zeros((1, 12), bool)
        learn[0, 3:6] = True
        before, _ = model.loss_and_gradient(parameters, shape, tokens, learn)
        tokens[0, 6:] = 7
        after, _ = model.loss_and_gradient(parameters, shape, tokens, learn)
        self.assertEqual(before, after)

    def test_of_repeated_rows_is_their_sum(self):
        rows = np.arange(12.0).reshape(4, 3)
        got = model.sum_rows(rows, np.array([2, 0, 2, 2]), 4)
        np.testing.assert_array_equal(got, [rows[1], [0, 0, 0], rows[0] + rows[2] + rows[3], [0, 0, 0]])


class Optimizing(unittest.TestCase):
    def test_finds_the_bottom(self):
        for make, rate, shape in (AdamW, 0.1, 2), (Muon, 0.1, (3, 2)):
            goal = np.arange(1.0, 1 + np.prod(shape)).reshape(shape)
            w = {"w": np.zeros(shape)}
            part = make(w)
            for step in range(400):
                part.update({"w": w["w"] - goal}, rate * (1 - step / 400))
            np.testing.assert_allclose(w["w"], goal, atol=0.1)

    def test_orthogonal_keeps_directions_and_evens_sizes(self):
        rng = np.random.default_rng(1)
        for shape in (12, 8), (8, 12):
            g = rng.standard_normal(shape)
            sizes = np.linalg.svd(orthogonal(g))[1]
            self.assertTrue((0.6 < sizes).all() and (sizes < 1.3).all(), sizes)
            self.assertGreater(np.vdot(orthogonal(g), g), 0)

    def test_rate_rises_stays_and_falls_to_zero(self):
        optimizer = Optimizer({}, 1000)
        rates = []
        for optimizer.step in (0, 30, 60, 400, 700, 1000):
            rates.append(round(optimizer.schedule(), 3))
        self.assertEqual(rates, [0, 0.5, 1, 1, 0.5, 0])

    def test_every_parameter_has_one_part(self):
        parameters = model.new_parameters(model.Shape(50, **TINY), np.random.default_rng(1))
        parts = [name for part, _ in Optimizer(parameters, 10).parts for name in part.parameters]
        self.assertEqual(sorted(parts), sorted(parameters))


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
            p, shape, tokenizer = train.train(entries, 3, seed, lambda _: None, vocabulary=512, **TINY)
            return gguf.encode(train.metadata(shape, tokenizer), p)

        one = made(1)
        self.assertEqual(one, made(1))
        self.assertNotEqual(one, made(2))

    def test_learns_by_heart(self):
        entries = [corpus.Entry("a.b", ["What is it?"], "It is a test."), corpus.Entry("unknown.x", ["Why?"], "Nobody knows.")]
        rng = np.random.default_rng(1)
        texts = [[("user", e.questions[0]), ("assistant", e.answer)] for e in entries]
        tokenizer = Tokenizer(learn_merges([corpus.text_of(t) for t in texts] * 3, 20))
        shape = model.Shape(len(tokenizer.tokens), **TINY)
        p = model.new_parameters(shape, rng)
        optimizer = Optimizer(p, 250)
        tokens, learn = train.pad([train.encode(tokenizer, t) for t in texts])
        for _ in range(250):
            loss, grads = model.loss_and_gradient(p, shape, tokens, learn)
            optimizer.update(grads)
        self.assertLess(loss, 0.05)
        self.assertEqual(train.share_right(p, shape, tokenizer, entries), 1)


if __name__ == "__main__":
    unittest.main()
