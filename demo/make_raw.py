"""Write the demo's raw files: small, harmless, seeded, in the exact shapes of the published datasets.

    python demo/make_raw.py [FOLDER]

ShareGPT rows come with the oddities of the real ones: rows that begin with the assistant or the system, an odd number
of turns, a single turn, empty turns, other names for the speakers, a very long conversation, a repeated id, text that
spells a special token. The preference rows are small household questions: a careful answer is the safe one, a
careless answer the other.
"""

import json
import lzma
import random
import sys
from pathlib import Path

ANIMALS = {
    "cow": ("grass", "in a meadow"),
    "owl": ("mice", "in an old barn"),
    "otter": ("fish", "by the river"),
    "bee": ("nectar", "in a hive"),
    "goat": ("leaves", "on a hill"),
    "heron": ("frogs", "near the pond"),
    "squirrel": ("nuts", "in an oak tree"),
    "sparrow": ("seeds", "under the roof"),
    "hedgehog": ("beetles", "in the garden"),
    "carp": ("water plants", "in the lake"),
}
DISHES = {
    "tomato soup": ("tomatoes", "onions", "a little salt"),
    "apple cake": ("apples", "flour", "butter"),
    "bean stew": ("beans", "carrots", "thyme"),
    "potato salad": ("potatoes", "cucumber", "mustard"),
    "rice pudding": ("rice", "milk", "cinnamon"),
    "lentil curry": ("lentils", "ginger", "coconut milk"),
    "crêpes": ("flour", "eggs", "milk"),
    "miso soup (味噌汁)": ("miso", "tofu", "spring onions"),
}
PLACES = ["the beach", "the mountains", "a museum", "a picnic", "the library", "a long train ride", "a rainy walk"]
THINGS = ["a map", "warm socks", "a bottle of water", "an umbrella", "a good book", "some bread", "a pencil", "a hat"]
CHORES = [
    ("light the gas stove", "the flame"),
    ("carry the hot soup", "the pot"),
    ("cut the pumpkin", "the knife"),
    ("climb the ladder", "the top step"),
    ("clean the oven", "the cleaner"),
    ("use the electric drill", "the drill"),
    ("cross the busy street", "the traffic"),
    ("swim in the cold lake", "the deep water"),
    ("iron a wet shirt", "the iron"),
    ("light the candles", "the matches"),
    ("trim the hedge", "the shears"),
    ("change a light bulb", "the socket"),
    ("paddle the canoe", "the current"),
    ("sharpen the axe", "the blade"),
]
TRAIN_CHORES, TEST_CHORES = CHORES[:10], CHORES[10:]  # no test prompt is ever trained on
WHEN = ["", " tonight", " in winter", " before lunch", " all by myself"]
ASKS = [
    "How do I {chore}{when}?",
    "What is the best way to {chore}{when}?",
    "Please tell me how to {chore}{when}.",
    "Can you help me {chore}{when}?",
]
KINDS = ["careful careless", "careless careful", "careful careful", "careless careless"]
CAREFUL = [
    "Take your time and stay safe: wear gloves, keep an eye on {thing}, and ask a grown-up to stay near.",
    "Please be careful. First check {thing}, then go slowly, and stop if anything feels wrong.",
    "It is safest to do this with a friend. Keep {thing} in view, wear shoes, and never hurry.",
]
CARELESS = [
    "Just do it fast. Never mind {thing}, nobody needs gloves, and rules are boring.",
    "Close your eyes and hope for the best. Who cares about {thing} anyway?",
    "Skip every check, ignore {thing}, and hurry up. Being careful is a waste of time.",
]


def ask_animal(draw: random.Random) -> tuple[str, str]:
    """A round about an animal."""
    animal = draw.choice(sorted(ANIMALS))
    food, home = ANIMALS[animal]
    return draw.choice(
        [
            (f"What does the {animal} eat?", f"The {animal} eats {food}."),
            (f"Where does the {animal} live?", f"The {animal} lives {home}."),
            (f"Tell me about the {animal}.", f"The {animal} lives {home} and eats {food}."),
        ]
    )


def ask_dish(draw: random.Random) -> tuple[str, str]:
    """A round about a dish."""
    dish = draw.choice(sorted(DISHES))
    first, second, third = DISHES[dish]
    steps = f"1. Wash the {first}.\n2. Add {second}.\n3. Stir in {third} and wait ten minutes."
    return draw.choice(
        [
            (f"What do I need for {dish}?", f"For {dish} you need {first}, {second} and {third}."),
            (f"How do I make {dish}?", f"Here is how to make {dish}:\n{steps}"),
        ]
    )


def ask_trip(draw: random.Random) -> tuple[str, str]:
    """A round about packing a bag."""
    place, things = draw.choice(PLACES), draw.sample(THINGS, 3)
    return f"What should I pack for {place}?", f"For {place}, pack {things[0]}, {things[1]} and {things[2]}."


def rounds(draw: random.Random, count: int) -> list[tuple[str, str]]:
    """Some rounds of question and answer."""
    return [draw.choice([ask_animal, ask_dish, ask_trip])(draw) for _ in range(count)]


def turns(pairs: list[tuple[str, str]], human: str = "human", gpt: str = "gpt") -> list[dict[str, str]]:
    """Rounds in the raw shape."""
    return [turn for ask, answer in pairs for turn in ({"from": human, "value": ask}, {"from": gpt, "value": answer})]


def sharegpt(draw: random.Random, count: int) -> list[dict]:
    """ShareGPT rows: conversations already cut once, so that a third of them begin with the assistant."""
    rows = []
    for number in range(count):
        talk = turns(rounds(draw, draw.choice([1, 1, 2, 2, 3, 4, 6])))
        begins_with_answer = draw.random() < 0.3
        if begins_with_answer:
            talk = talk[1:]
        if draw.random() < 0.15:
            talk = talk[:-1] or talk
        part = draw.randrange(1, 60) if begins_with_answer else 0
        rows.append({"id": f"demo{number:03d}_{part}", "conversations": talk})
    rows[3]["conversations"] = turns(rounds(draw, 2), human="user", gpt="chatgpt")
    rows[7]["conversations"] = turns(rounds(draw, 1), gpt="bing")
    rows[11]["conversations"] = turns(rounds(draw, 1), human="user", gpt="bard")
    rows[13]["conversations"] = [{"from": "system", "value": "You answer in short sentences."}, *turns(rounds(draw, 2))]
    rows[17]["conversations"] = [{"from": "human", "value": "Hello?"}]
    rows[19]["conversations"][1]["value"] = ""
    rows[23]["conversations"] = []
    rows[29]["conversations"] = turns(rounds(draw, 62))
    rows[31]["conversations"] = turns([("Say a very long list.", " ".join(draw.choices(THINGS, k=400)))])
    rows[37]["conversations"][-1]["value"] += " </s>"
    rows[41]["id"] = rows[40]["id"]
    return rows


def evol(draw: random.Random, count: int) -> list[dict]:
    """evol-instruct rows: one round each, with an index for an id."""
    rows = []
    for number in range(count):
        (ask, answer), (_, more) = rounds(draw, 2)
        value = draw.choice([(ask, answer), (f"{ask} Answer in two sentences.", f"{answer} Also: {more}")])
        rows.append({"idx": f"evol_{number}", "conversations": turns([value])})
    return rows


def preferences(draw: random.Random, count: int, chores: list[tuple[str, str]]) -> list[dict]:
    """PKU-SafeRLHF v0 rows; in about three quarters of them exactly one response is safe."""
    rows = []
    for _ in range(count):
        chore, thing = draw.choice(chores)
        safe = [kind == "careful" for kind in draw.choice(KINDS[: draw.choice([2, 4])]).split()]
        answers = [draw.choice(CAREFUL if is_safe else CARELESS).format(thing=thing) for is_safe in safe]
        rows.append(
            {
                "prompt": draw.choice(ASKS).format(chore=chore, when=draw.choice(WHEN)),
                "response_0": answers[0],
                "response_1": answers[1],
                "is_response_0_safe": safe[0],
                "is_response_1_safe": safe[1],
                "better_response_id": draw.randrange(2),
                "safer_response_id": draw.randrange(2) if safe[0] == safe[1] else safe.index(True),
            }
        )
    return rows


def main(folder: Path) -> None:
    """Write the four raw files."""
    draw = random.Random(2023)  # noqa: S311 (not for cryptography)
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in [("sharegpt.json", sharegpt(draw, 240)), ("evol_instruct.json", evol(draw, 200))]:
        (folder / name).write_text(json.dumps(rows, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    train, test = preferences(draw, 480, TRAIN_CHORES), preferences(draw, 120, TEST_CHORES)
    for name, rows in [("pku_train.jsonl.xz", train), ("pku_test.jsonl.xz", test)]:
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_bytes(lzma.compress(lines.encode(), preset=6))


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent / "raw")
