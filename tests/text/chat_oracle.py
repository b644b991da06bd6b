"""What templates write and which characters are answers, said again and independently; and where tokens end."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
from generated import conversations
from tokenizer_folders import TEXTS
from tokenizers import AddedToken, Tokenizer, normalizers

from amberline.text.small_byte_level import save_byte_level, train_byte_level
from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece

Chat = list[tuple[str, str]]  # role as in transformers, and text
Written = list[tuple[str, bool]]  # text, and whether it is an answer

KINDS = ("llama, legacy", "llama", "llama3", "qwen", "olmo")
TEMPLATES = ("vicuna", "chatml", "llama3", "zephyr", "tokenizer")
ADDED = ["<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]

# The kinds' own templates, in the shapes of well-known ones.
OWN = {
    # Llama 2: rounds alternate, each with a beginning and an end of its own.
    "llama, legacy": (
        "{% for message in messages %}"
        "{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('turns must alternate') }}"
        "{% endif %}"
        "{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + message['content'].strip() + ' [/INST]' }}"
        "{% elif message['role'] == 'assistant' %}{{ ' ' + message['content'].strip() + ' ' + eos_token }}"
        "{% else %}{{ raise_exception('only users and assistants') }}{% endif %}{% endfor %}"
    ),
    # With generation blocks, which hold the end.
    "llama": (
        "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'assistant' %}"
        "{{ '<|assistant|>\\n' }}{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}{{ '\\n' }}"
        "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] + '\\n' }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
    # Llama 3: the beginning of sequence is part of the first turn.
    "llama3": (
        "{% for message in messages %}{% if loop.first %}{{ bos_token }}{% endif %}"
        "{{ '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim + "
        "'<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"
    ),
    # Qwen 2.5: a system text of its own where there is none.
    "qwen": (
        "{% if messages[0]['role'] != 'system' %}{{ '<|im_start|>system\\nBe helpful.<|im_end|>\\n' }}{% endif %}"
        "{% for message in messages %}"
        "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
    ),
    # Tülu and OLMo: the last answer has no line end behind it.
    "olmo": (
        "{{ eos_token }}{% for message in messages %}"
        "{% if message['role'] == 'assistant' %}{{ '<|assistant|>\\n' + message['content'] + eos_token }}"
        "{% else %}{{ '<|' + message['role'] + '|>\\n' + message['content'] }}{% endif %}{{ '\\n' }}{% endfor %}"
        "{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% endif %}"
    ),
}
EOS = {
    "llama, legacy": "</s>",
    "llama": "</s>",
    "llama3": "<|end_of_text|>",
    "qwen": "<|endoftext|>",
    "olmo": "<|endoftext|>",
}


def kind_folder(folder: Path, kind: str) -> Path:
    """A small tokenizer of a kind, that has the tokens of all templates, and a template of its own."""
    folder.mkdir()
    if kind.startswith("llama") and kind != "llama3":
        save_llama_tokenizer(train_sentencepiece(TEXTS, 440), folder, 100_000)
        _configure(folder, legacy=kind.endswith("legacy"))
    else:
        save_byte_level(train_byte_level(TEXTS, 440, kind), folder, kind, 100_000)
    encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
    encoder.add_special_tokens([AddedToken(text, normalized=False, special=True) for text in ADDED])
    encoder.save(str(folder / "tokenizer.json"))
    traits = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    special = encoder.get_added_tokens_decoder().items()
    decoder = {str(number): {"content": token.content, **traits} for number, token in special}
    _configure(folder, added_tokens_decoder=decoder, chat_template=OWN[kind])
    (folder / "config.json").write_text('{"model_type": "llama"}')
    return folder


def _configure(folder: Path, **values: object) -> None:
    file = folder / "tokenizer_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def chats(count: int, seed: int) -> list[Chat]:
    """Generated conversations under the roles of transformers, some with system and tool turns."""
    random_ = random.Random(seed)
    made = []
    for row in conversations(count, seed):
        chat: Chat = []
        for turn in row["conversations"]:
            text = turn["value"] if len(turn["value"]) < 400 else turn["value"][:200] + turn["value"][-100:]
            role = "user" if turn["from"] in ("human", "user", "HUMAN") else "assistant"
            chat.append(("system" if turn["from"] == "system" else role, text))
            if role == "assistant" and random_.random() < 0.02:
                chat += [("tool", '{"result": 42}'), ("assistant", f"<think>\n{text[:20]}\n</think>\n\n42")]
        if random_.random() < 0.1:
            chat.insert(0, ("system", random_.choice(["Be brief.", " You are 助手.\n", ""])))
        made.append(chat)
    return made


def written(template: str, kind: str, chat: Chat) -> Written | None:
    """What a template writes; None: it has no place for such a chat."""
    eos = EOS[kind]
    shapes: dict[str, Callable[[Chat, str], Written | None]] = {
        "vicuna": _vicuna,
        "chatml": lambda chat, _: _marked(chat, "<|im_start|>{}\n", "<|im_end|>", "\n"),
        "llama3": lambda chat, _: _llama3(chat),
        "zephyr": lambda chat, eos: None if _has(chat, "tool") else _marked(chat, "<|{}|>\n", eos, "\n"),
        "tokenizer": lambda chat, eos: _own(kind, chat, eos),
    }
    return shapes[template](chat, eos)


def _has(chat: Chat, role: str) -> bool:
    return any(each == role for each, _ in chat)


def _marked(chat: Chat, opening: str, end: str, behind: str) -> Written:
    found: Written = []
    for number, (role, text) in enumerate(chat):
        answer = role == "assistant" and number > 0
        found += [(opening.format(role), False), (text + end, answer), (behind, False)]
    return found


def _llama3(chat: Chat) -> Written:
    renamed = [("ipython" if role == "tool" else role, text.strip()) for role, text in chat]
    return _marked(renamed, "<|start_header_id|>{}<|end_header_id|>\n\n", "<|eot_id|>", "")


def _vicuna(chat: Chat, eos: str) -> Written | None:
    if _has(chat, "tool") or _has(chat[1:], "system"):
        return None
    system = (
        "A chat between a curious user and an artificial intelligence assistant. "
        "The assistant gives helpful, detailed, and polite answers to the user's questions."
    )
    found: Written = [(f"{chat[0][1] if chat[0][0] == 'system' else system} ", False)]
    for number, (role, text) in enumerate(chat):
        if role == "user":
            found.append((f"USER: {text} " if text else "USER:", False))
        elif role == "assistant":
            found += [("ASSISTANT:", False), (f" {text}{eos}" if text else "", number > 0)]
    return found


def _own(kind: str, chat: Chat, eos: str) -> Written | None:
    if kind == "llama, legacy":
        if any(
            (role == "user") != (number % 2 == 0) or role in ("system", "tool") for number, (role, _) in enumerate(chat)
        ):
            return None
        shapes = [("<s>[INST] {} [/INST]", False), (" {} </s>", True)]
        return [(shapes[n % 2][0].replace("{}", text.strip()), shapes[n % 2][1]) for n, (_, text) in enumerate(chat)]
    if kind == "llama":
        found: Written = [("<s>", False)]
        for number, (role, text) in enumerate(chat):
            end = eos if role == "assistant" else ""
            found += [(f"<|{role}|>\n", False), (text + end, role == "assistant" and number > 0), ("\n", False)]
        return found
    if kind == "llama3":
        stripped = [(role, text.strip()) for role, text in chat]
        header = "<|start_header_id|>{}<|end_header_id|>\n\n"
        return [("<|begin_of_text|>", False), *_marked(stripped, header, "<|eot_id|>", "")]
    if kind == "qwen":
        system = [] if chat[0][0] == "system" else [("<|im_start|>system\nBe helpful.<|im_end|>\n", False)]
        return [*system, *_marked(chat, "<|im_start|>{}\n", "<|im_end|>", "\n")]
    found = [(eos, False)]
    for number, (role, text) in enumerate(chat):
        end = eos if role == "assistant" else ""
        found += [(f"<|{role}|>\n", False), (text + end, role == "assistant" and number > 0), ("\n", False)]
    return found


class Ends:
    """Where tokens end, in bytes of the text that they stand for, by what each token is written as."""

    def __init__(self, folder: Path, kind: str) -> None:
        self._llama, self._legacy = kind.startswith("llama") and kind != "llama3", kind.endswith("legacy")
        self._nfc = kind == "qwen"
        encoder = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._special = {number for number, token in encoder.get_added_tokens_decoder().items() if token.special}
        size = encoder.get_vocab_size()
        self._bytes = np.array([self._length(number, encoder.id_to_token(number)) for number in range(size)])
        self._is_special = np.isin(np.arange(size), list(self._special))

    def _length(self, number: int, written_as: str) -> int:
        if number in self._special:
            return len(written_as.encode())
        if self._llama:
            is_byte = written_as.startswith("<0x") and len(written_as) == 6
            return 1 if is_byte else len(written_as.replace("▁", " ").encode())
        return len(written_as)  # a character for each byte

    def content(self, text: str) -> bytes:
        """The bytes that the tokens of a text stand for."""
        text = text.replace("▁", " ") if self._llama else text
        return (normalizers.NFC().normalize_str(text) if self._nfc else text).encode()

    def learnt(self, ids: np.ndarray, parts: Written, bos: bool) -> np.ndarray:
        """For each token whether it ends in an answer; `bos`: the first one stands for no text."""
        ids = ids[int(bos) :]
        lengths, special = self._bytes[ids], self._is_special[ids]
        if self._llama and len(ids):
            behind = np.concatenate([[True], special[:-1] if self._legacy else np.zeros(len(ids) - 1, bool)])
            lengths = lengths - (behind & ~special)  # a space that stands for nothing
        ends = np.cumsum(lengths)
        content = [len(self.content(text)) for text, _ in parts]
        assert ends[-1] == sum(content), "the tokens stand for the text"
        ends = np.maximum(ends, np.concatenate([[0], ends[:-1]]) + 1)
        of_part = np.searchsorted(np.cumsum(content), ends)
        answers = np.array([answer for _, answer in parts])
        return np.concatenate([np.zeros(int(bos), bool), answers[of_part]])
