"""Conversations to learn from: read from corpus/, varied, put together at random.

A conversation is a list of (role, text) in the order in which the model reads it. What
the assistant says is learnt; the rest is given. Its text form is ChatML, and what
modelstore/demo's template makes of the same messages.
"""

import json
import math
import random
import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).parent
FOLDER = HERE / "corpus"
ENTRIES = ["concepts", "commands", "api", "smalltalk", "unknown"]

# What the model can't know, but a tool may.
TOOLS_KNOW = {"unknown.knowledge", "unknown.live", "unknown.math"}

# Questions of unknown.txt, of which each entry has many, come up this much more often.
UNKNOWN_WEIGHT = 6


@dataclass
class Entry:
    """A question in several phrasings and its answer. Patterns are phrasings with placeholders."""

    id: str
    questions: list
    answer: str
    patterns: list = field(default_factory=list)


@dataclass
class Block:
    """A block of a corpus file: its [id] and its lines, each a key and a value."""

    id: str
    lines: list = field(default_factory=list)

    def all(self, key):
        return [v for k, v in self.lines if k == key]

    def line(self, key):
        """The one line with this key."""
        (line,) = self.all(key)
        return line

    def one(self, key):
        """The alternatives of the one line with this key."""
        return alternatives(self.line(key))

    def has(self, key):
        return any(k == key for k, _ in self.lines)


def alternatives(line):
    return [a.strip() for a in line.split(" | ")]


def read_blocks(name):
    blocks = []
    for number, line in enumerate((FOLDER / f"{name}.txt").read_text().splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if found := re.fullmatch(r"\[([a-z0-9._-]+)\]", line):
            blocks.append(Block(found[1]))
            continue
        key, colon, value = line.partition(":")
        if not blocks or not colon or not re.fullmatch("[A-Z]+", key):
            raise ValueError(f"{name}.txt:{number}: not a line 'KEY: text' within an [id]: {line}")
        blocks[-1].lines.append((key, value.strip()))
    return blocks


def read_lines(name):
    lines = (FOLDER / f"{name}.txt").read_text().splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def read_entries(names=ENTRIES):
    return [Entry(b.id, b.all("Q"), b.line("A"), b.all("P")) for name in names for b in read_blocks(name)]


def text_of(conversation):
    """The conversation in ChatML."""
    return "".join(f"<|im_start|>{role}\n{text}<|im_end|>\n" for role, text in conversation)


class Varier:
    """Says a question in other words, spellings and punctuation, as people type."""

    BEFORE = ["Please tell me: ", "Hi, ", "Hello, ", "Hey, ", "A question: ", "Quick question: ", "I wonder: ", "Sorry, ", "Um, ", "So, ", "And "]
    AFTER = [" please", " Thanks.", " thanks", " Please help.", " I am new to this.", " Tell me."]
    SMALL = {"the", "a", "an", "my", "of", "some", "do", "to", "i", "it", "is", "for", "in", "me", "this", "that", "please"}

    def __init__(self, synonyms):
        self.group = {phrase: group for group in synonyms for phrase in group}
        phrases = sorted(self.group, key=len, reverse=True)
        self.phrase = re.compile(r"\b(" + "|".join(map(re.escape, phrases)) + r")\b", re.IGNORECASE)

    def vary(self, question, rng, noise=1.0):
        """question in other words; noise, 0 to 1, says how often its words are changed."""
        if rng.random() < 0.5 * noise:
            question = self.phrase.sub(lambda m: self.other(m[0], rng), question)
        if rng.random() < 0.35 * noise:
            question = blur(question, rng)
        if rng.random() < 0.2 * noise:
            question = self.without_small_word(question, rng)
        if rng.random() < 0.15 * noise:
            question = misspell(question, rng)
        if rng.random() < 0.12:
            question = rng.choice(self.BEFORE) + question
        if rng.random() < 0.08:
            question += rng.choice(self.AFTER)
        if rng.random() < 0.45:
            question = question.rstrip("?.! ") or question
        if rng.random() < 0.45:
            question = question.lower()
        elif rng.random() < 0.5:
            question = question[:1].upper() + question[1:]
        return question

    def other(self, phrase, rng):
        if rng.random() < 0.6:
            return phrase
        other = rng.choice(self.group[phrase.lower()])
        return other.capitalize() if phrase[0].isupper() else other

    def without_small_word(self, question, rng):
        words = question.split(" ")
        small = [i for i, w in enumerate(words) if w.lower() in self.SMALL]
        if small and len(words) > 3:
            del words[rng.choice(small)]
        return " ".join(words)


def blur(question, rng):
    """Leaves out words at random, or changes their order: no word and no order is to be relied on."""
    words = question.split(" ")
    if rng.random() < 0.4:
        rng.shuffle(words)
    kept = [w for w in words if rng.random() < 0.75]
    return " ".join(kept if len(kept) > 1 else words)


def misspell(question, rng):
    """Drops, doubles or swaps a letter of one longer word."""
    words = question.split(" ")
    long = [i for i, w in enumerate(words) if len(w) > 4 and w.isalpha()]
    if not long:
        return question
    at = rng.choice(long)
    w = words[at]
    i = rng.randrange(1, len(w) - 1)
    words[at] = rng.choice([w[:i] + w[i + 1 :], w[:i] + w[i] + w[i:], w[:i] + w[i + 1] + w[i] + w[i + 2 :]])
    return " ".join(words)


class Corpus:
    """All that can be said, and the choice among it.

    noise, 0 to 1, says how often questions are put in other words than the corpus' own.
    """

    OPENINGS = ["how do I ", "how can I ", "what is ", "what does ", "can I ", "why is ", "is there a ", "where is ", "which ", "the "]

    def __init__(self, entries=None):
        self.entries = entries or read_entries()
        self.weights = [UNKNOWN_WEIGHT if e.id.startswith("unknown.") else 1 for e in self.entries]
        # An answer stands alone, and may have a bar in it.
        self.dialogues = [[(k, alternatives(v) if k == "U" else [v]) for k, v in b.lines] for b in read_blocks("dialogues")]
        self.facts = read_blocks("facts")
        self.tools = read_blocks("tools")
        self.systems = read_lines("systems")
        self.values = {kind: read_lines(file) for kind, file in [("name", "names"), ("word", "words"), ("city", "cities")]}
        self.words = word_pools(self.entries)
        self.noise = 1.0
        self.varier = Varier([line.split(" | ") for line in read_lines("synonyms")])

    def texts(self, rng):
        """What the tokenizer learns from: every text once, and some made-up conversations."""
        yield from (q for e in self.entries for q in e.questions)
        yield from (e.answer for e in self.entries)
        yield from (text for d in self.dialogues for _, texts in d for text in texts)
        yield from self.systems
        for _ in range(1000):
            yield text_of(self.conversation(rng))

    def short(self, rng):
        """A conversation of few words to begin with, and whether the beginning of its answer will do."""
        kind = rng.choices(["entry", "memory", "tools"], [0.83, 0.11, 0.06])[0]
        if kind == "entry":
            return self.ask(rng), True
        if kind == "tools":
            return self.with_tools(rng, most=1), False
        fact = rng.choice([f for f in self.facts if f.has("T")])
        values = self.fill(rng)
        return self.tell(fact, values, rng) + self.recall(fact, values, rng), False

    def conversation(self, rng):
        """A conversation of one turn, or a few, or now and then as many as the context holds."""
        kind = rng.choices(["tools", "memory", "talk"], [0.08, 0.14, 0.78])[0]
        if kind == "tools":
            return self.with_tools(rng)
        turns = rng.choices([1, rng.randint(2, 4), rng.randint(5, 12)], [0.65, 0.30, 0.05])[0]
        conversation, told = [], {}
        system = [rng.choice(self.systems)] if rng.random() < 0.2 else []
        if rng.random() < 0.03:
            fact = rng.choice([f for f in self.facts if f.has("S")])
            told[fact.id] = self.fill(rng)
            system.append(put(rng.choice(fact.one("S")), told[fact.id]))
        if system:
            conversation.append(("system", " ".join(system)))
        if kind == "memory":
            return conversation + self.memory(rng, told)
        while sum(role == "user" for role, _ in conversation) < turns:
            conversation += self.part(rng, told)
        return conversation

    def memory(self, rng, told):
        """Facts told, other parts between, and the facts asked for."""
        facts = rng.sample([f for f in self.facts if f.has("T")], rng.choice([1, 1, 2, 3]))
        parts = []
        for fact in facts:
            told[fact.id] = self.fill(rng)
            parts.append(self.tell(fact, told[fact.id], rng))
            parts += [self.part(rng, told) for _ in range(rng.choice([0, 0, 1, 1, 2]))]
        for fact in rng.sample(facts, len(facts)):
            parts.append(self.recall(fact, told[fact.id], rng))
        return sum(parts, [])

    def part(self, rng, told):
        """A question and its answer, or a dialogue, or a fact told or asked for."""
        kind = rng.choices(["entry", "dialogue", "fact"], [0.72, 0.15, 0.13])[0]
        if kind == "entry":
            return self.ask(rng)
        if kind == "dialogue":
            part = []
            dialogue = rng.choice(self.dialogues)
            for (_, asked), (_, answered) in zip(dialogue[::2], dialogue[1::2]):
                part += self.turn(rng.choice(asked), answered[0], rng)
            return part
        fact = rng.choice(self.facts)
        if fact.id not in told and fact.has("T") and rng.random() < 0.7:
            told[fact.id] = self.fill(rng)
            return self.tell(fact, told[fact.id], rng)
        question = rng.choice(fact.one("R"))
        return self.turn(question, put(fact.one("A" if fact.id in told else "N")[0], told.get(fact.id, {})), rng)

    def ask(self, rng, without=()):
        """A question of an entry, not of those without, and its answer."""
        (entry,) = rng.choices(self.entries, self.weights)
        while entry.id in without:
            (entry,) = rng.choices(self.entries, self.weights)
        if entry.patterns and rng.random() < 0.5:
            return self.turn(put(rng.choice(entry.patterns), self.fill(rng)), entry.answer, rng)
        if rng.random() < 0.35 * self.noise:
            return [("user", self.scatter(entry, rng)), ("assistant", entry.answer)]
        question = rng.choice(entry.questions)
        if rng.random() < 0.12 * self.noise:  # asked twice, in other words
            question += " " + rng.choice(entry.questions)
        return self.turn(question, entry.answer, rng)

    def scatter(self, entry, rng):
        """A few words of all its phrasings, in no order, perhaps behind the beginning of one.

        It teaches what each word speaks for, so that words of different phrasings add up.
        """
        words, weights = self.words[entry.id]
        question = " ".join(dict.fromkeys(rng.choices(words, weights, k=rng.randint(3, 6))))
        kind = rng.random()
        if kind < 0.3:
            question = rng.choice(self.OPENINGS) + question
        elif kind < 0.5:
            begin = rng.choice(entry.questions).split(" ")
            question = " ".join(begin[: rng.randint(1, len(begin))]) + " " + question
        if rng.random() < 0.4:
            question = question[:1].upper() + question[1:]
        return question + rng.choice(["", "", "?"])

    def tell(self, fact, values, rng):
        # What is told is not misspelt: the answer repeats it.
        return [("user", put(rng.choice(fact.one("T")), values)), ("assistant", put(fact.one("B")[0], values))]

    def recall(self, fact, values, rng):
        return self.turn(rng.choice(fact.one("R")), put(fact.one("A")[0], values), rng)

    def turn(self, question, answer, rng):
        return [("user", self.varier.vary(question, rng, self.noise)), ("assistant", answer)]

    def fill(self, rng):
        """A value for each placeholder. Some names are made up: what counts is to repeat them."""
        number = lambda: str(rng.randrange(10 ** rng.randint(1, 4)))
        values = {"number": number(), "number2": number(), "word2": rng.choice(self.values["word"])}
        for kind, known in self.values.items():
            values[kind] = rng.choice(known) if rng.random() < 0.6 else made_up(rng, kind != "word")
        return values

    def with_tools(self, rng, most=3):
        """One tool or a few on offer, a question for one of them or for none, perhaps the tool's answer."""
        offered = rng.sample(self.tools, min(most, rng.choice([1, 1, 2, 3])))
        functions = [self.function(tool, rng) for tool in offered]
        system = rng.choice(self.systems) + "\n\n" if rng.random() < 0.3 else ""
        conversation = [("system", system + "Tools:" + "".join("\n" + compact(f) for f in functions))]
        if rng.random() < 0.35:
            conversation += self.ask(rng, TOOLS_KNOW)
            if rng.random() < 0.5:
                return conversation
        tool, function = offered[0], functions[0]
        values = self.fill(rng)
        question = rng.choice(tool.one("U"))
        parameters = list(function["parameters"]["properties"])
        if len(parameters) == 2:
            arguments = dict(zip(parameters, [int(values["number"]), int(values["number2"])]))
        else:
            argument = " ".join(re.findall(r"\{\w+\}", question))
            arguments = {parameters[0]: put(argument, values)}
        question = put(question, values)
        if rng.random() < 0.4:
            question = question.rstrip("?.")
        call = "<tool_call>" + compact({"name": function["name"], "arguments": arguments}) + "</tool_call>"
        conversation += [("user", question), ("assistant", call)]
        if rng.random() < 0.6:
            said = put(rng.choice(tool.one("O")), values if rng.random() < 0.5 else self.fill(rng))
            conversation += [("tool", said), ("assistant", "The tool says: " + said)]
        return conversation

    def function(self, tool, rng):
        """A function as Ollama writes it into a prompt: keys in its order, empty ones left out."""
        (line,) = tool.all("P")
        names, *kinds = re.split(r" (?=string|integer|number)", line)
        kind = rng.choice(kinds)
        properties = {}
        for name in rng.choice(names.split(", ")).split("+"):
            properties[name] = {"type": kind}
            if rng.random() < 0.5:
                properties[name]["description"] = rng.choice(["The " + name, "the " + name + " to use", "Name of the " + name])
        function = {"name": rng.choice(tool.one("NAME"))}
        if about := rng.choice(tool.one("ABOUT")):
            function["description"] = about
        function["parameters"] = {"type": "object"}
        if rng.random() < 0.7:
            function["parameters"]["required"] = list(properties)
        function["parameters"]["properties"] = properties
        return function


def word_pools(entries):
    """For each entry's id the words of its questions, and weights: how often they stand there, and how seldom elsewhere."""
    counts = {e.id: Counter(w for q in e.questions for w in re.findall(r"[a-z0-9_/'-]+", q.lower())) for e in entries}
    spread = Counter(w for words in counts.values() for w in words)
    rarity = {w: math.log((len(entries) + 1) / n) for w, n in spread.items()}
    return {i: (list(words), [math.log1p(n) * rarity[w] for w, n in words.items()]) for i, words in counts.items()}


def compact(value):
    return json.dumps(value, separators=(",", ":"))


def put(text, values):
    """text with its placeholders filled in; other braces stay."""
    return re.sub(r"\{(name|word2?|city|number2?)\}", lambda m: values[m[1]], text)


def made_up(rng, capital):
    syllables = [rng.choice("bdfghklmnprstvz") + rng.choice("aeiou") + rng.choice(["", "", "n", "r", "l", "s"]) for _ in range(rng.randint(2, 3))]
    word = "".join(syllables)
    return word.capitalize() if capital else word


def new_rng(seed):
    """The source of all choices. Python keeps its sequence for a seed the same in every version."""
    return random.Random(seed)
