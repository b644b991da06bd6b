"""Conversations with every oddity that the raw data has, and some that it might."""

import random

WORDS = [
    *("the", "of", "model", "data", "answer", "def", "return", "(", ")", "x=1", "1234", "don't", "a.b.c"),
    *("Ünïcode", "你好", "日本語", "мир", "🙂"),
]
JOINTS = [" ", " ", " ", " ", " ", "  ", "\n", "\n\n", "\n    ", "\t", ", ", ". "]
ODD_TEXTS = [
    "",
    " ",
    "   ",
    "\n",
    "▁",
    "▁ ▁",
    " leading",
    "trailing ",
    "trailing three   ",
    "</s>",
    "an </s> inside",
    "ends with</s>",
    "</s>starts with",
    "<s>",
    "<unk> once",
    "twice <unk><unk>",
    "</s> <s></s>",
    "She said ASSISTANT: hello",
    " ASSISTANT: ",
    "USER: hi ASSISTANT: ho</s>",
    "ASSISTANT:",
    "nul \0 inside",
    "zero\u200bwidth\ufeff and \u3000 and \u00a0",
    "👩‍👩‍👧‍👦",
    "e\u0301 ﬁ",
    "\r\n\r\n",
    "<|im_end|></S></ s>",
]
SPEAKERS = ["user", "chatgpt", "bing", "bard", "system", "HUMAN"]


def text(random_: random.Random, words: int) -> str:
    """Some words, with the joints of prose and code between them."""
    return "".join(random_.choice(WORDS) + random_.choice(JOINTS) for _ in range(words)).rstrip()


def conversation(random_: random.Random, number: int) -> dict:
    """One conversation: most are plain, about a third has something odd."""
    kind = random_.random()
    count = random_.choice([2, 2, 2, 4, 4, 6, 8, 12]) if kind < 0.97 else random_.choice([1, 3, 40, 124])
    if 0.5 < kind < 0.65:
        count += 1
    first = 1 if 0.65 < kind < 0.9 else 0
    size = random_.choice([3, 10, 40, 120, 400]) if count < 40 else 10
    turns = []
    for turn in range(count):
        speaker = ("human", "gpt")[(turn + first) % 2]
        value = text(random_, random_.randint(1, 2 * size))
        if random_.random() < 0.04:
            value = random_.choice(ODD_TEXTS)
        elif random_.random() < 0.03:
            value += random_.choice(ODD_TEXTS)
        if random_.random() < 0.01:
            speaker = random_.choice(SPEAKERS)
        if random_.random() < 0.005:
            value = text(random_, 1500)
        turns.append({"from": speaker, "value": value})
    return {"id": f"generated-{number}", "conversations": turns}


def conversations(count: int, seed: int = 0) -> list[dict]:
    """So many conversations, the same for a seed."""
    random_ = random.Random(seed)
    return [conversation(random_, number) for number in range(count)]
