"""The programs of the text layer, run as a user runs them, on generated rows."""

import json
import re
from pathlib import Path

import pytest
from generated import conversations
from tokenizer_folders import llama_folder

import chunk_conversations
import make_tiny_model
import tokenize_conversations
import tokenize_pairs
from amberline.core.manifests import read_manifest, write_manifest
from amberline.data import streams
from amberline.data.conversations import parse_conversation
from amberline.data.row_sources import FEWEST, sources_file, write_sources
from amberline.data.streams import write_array
from amberline.data.tokens import open_tokens
from amberline.text.masks import IGNORED, fastchat_mask
from amberline.text.small_tokenizer import SmallTokenizerError, save_llama_tokenizer, train_sentencepiece
from amberline.text.tokenizers import load_tokenizer

TINY = {
    "tokenizer": None,
    "architecture": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "layers": 2,
    "heads": 4,
    "context": 128,
    "seed": 1,
}


def describe(made: Path, kind: str, files: list[Path], **facts) -> Path:
    write_manifest(made, kind=kind, files=files, inputs={}, settings={}, facts=facts)
    return made


def rows_file(path: Path, rows: list) -> Path:
    with write_array(path) as written:
        for row in rows:
            written.write(row)
    write_sources(path, [0] * len(rows))
    return describe(path, "conversations", [path, sources_file(path)], rows=len(rows))


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = llama_folder(tmp_path_factory.mktemp("models") / "base", legacy=True)
    return describe(folder, "model", list(folder.iterdir()))


@pytest.fixture(scope="module")
def mix(tmp_path_factory) -> Path:
    return rows_file(tmp_path_factory.mktemp("data") / "mix.json", conversations(120, seed=5))


def run_chunk(mix: Path, model: Path, out: Path, mode: str = "fastchat", processes: int = 1) -> Path:
    settings = {"mode": mode, "max_length": 512, "keep_leading_answer": mode == "lossless", "template": "vicuna"}
    chunk_conversations.main(
        conversations=mix,
        model=model,
        settings=json.dumps(settings),
        processes=processes,
        chunks=out / "chunks.json",
        funnel=out / "chunk.json",
        rejects=out / "chunk.jsonl",
        comparison=out / "comparison.json",
    )
    return out / "chunks.json"


def run_tokenize(
    chunks: Path, model: Path, out: Path, mode: str = "fastchat", processes: int = 1, template: str = "vicuna"
) -> Path:
    tokenize_conversations.main(
        rows=chunks,
        model=model,
        settings=json.dumps({"template": template, "loss_on": "answers", "mode": mode, "max_length": 512}),
        processes=processes,
        tokens=out / "tokens",
        funnel=out / "tokens.json",
        rejects=out / "tokens.jsonl",
    )
    return out / "tokens"


def counts(funnel: Path, unit: str) -> dict:
    return next(count for count in json.loads(funnel.read_text())["counts"] if count["unit"] == unit)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def content(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


@pytest.mark.parametrize("mode", ["fastchat", "lossless"])
def test_the_number_of_processes_changes_nothing(mix, model, tmp_path, mode, monkeypatch):
    monkeypatch.setattr(streams, "WORK_BYTES", 20_000)
    for processes in (1, 3):
        out = tmp_path / str(processes)
        run_tokenize(run_chunk(mix, model, out, mode, processes), model, out, mode, processes)
    assert content(tmp_path / "1") == content(tmp_path / "3")


def test_chunking_says_what_became_of_every_row(mix, model, tmp_path):
    chunks = json.loads(run_chunk(mix, model, tmp_path).read_text())
    assert set(chunks[0]) == {"id", "model", "conversations"}
    assert counts(tmp_path / "chunk.json", "conversations")["in"] == 120
    both = json.loads((tmp_path / "comparison.json").read_text())
    assert both["fastchat"] == json.loads((tmp_path / "chunk.json").read_text())
    assert both["fastchat"]["notes"]["chunks"] == len(chunks)
    for mode in both:
        for count in both[mode]["counts"]:
            assert count["in"] == count["out"] + sum(count["rejected"].values())
    kept = {mode: next(c["out"] for c in both[mode]["counts"] if c["unit"] == "rounds") for mode in both}
    assert kept["lossless"] > kept["fastchat"]
    facts = read_manifest(tmp_path / "chunks.json")["facts"]
    assert facts["rows"] == len(chunks)
    lost = [reject for reject in lines(tmp_path / "chunk.jsonl") if not reject["kept"]]
    whole = counts(tmp_path / "chunk.json", "conversations")
    assert len({reject["row"] for reject in lost}) == whole["in"] - whole["out"]


def test_what_chunking_puts_out_tokenizing_takes_in(model, tmp_path):
    """FastChat keeps an answer without text, and learns nothing from it."""
    silent = [{"from": speaker, "value": "text" * (speaker == "human")} for speaker in ("human", "gpt")]
    rows = [*conversations(60, seed=6), {"id": "silent", "conversations": silent}]
    chunks = run_chunk(rows_file(tmp_path / "mix.json", rows), model, tmp_path)
    run_tokenize(chunks, model, tmp_path)
    chunked, tokenized = tmp_path / "chunk.json", tmp_path / "tokens.json"
    assert counts(tokenized, "rounds")["in"] == counts(chunked, "rounds")["out"]
    assert counts(tokenized, "rounds")["rejected"]["empty_answer"] == 1
    assert counts(tokenized, "chunks")["in"] == json.loads(chunked.read_text())["notes"]["chunks"]


@pytest.mark.parametrize("lost", [FEWEST - 1, FEWEST])
def test_the_loss_of_a_source_stops_chunking(model, tmp_path, lost):
    """FastChat drops conversations of other speakers than human and gpt."""
    turns = [{"from": "user", "value": "question"}, {"from": "chatgpt", "value": "answer"}]
    rows = [{"id": f"lost{number}", "conversations": turns} for number in range(lost)]
    good = conversations(20, seed=5)
    made = rows_file(tmp_path / "mix.json", [*good, *rows])
    write_sources(made, [0] * 20 + [1] * lost)
    sources = {name: rows_file(tmp_path / f"{name}.json", []) for name in ("good", "other")}
    files = [made, sources_file(made)]
    write_manifest(made, kind="conversations", files=files, inputs=sources, settings={}, facts={"rows": 20 + lost})
    if lost < FEWEST:
        run_chunk(made, model, tmp_path)
        return
    reason = "because of roles_do_not_alternate, first in row 21: turns 1, 2 of 2"
    with pytest.raises(SystemExit, match=rf"nothing .* is left of the {lost} rows of other, most often .* {reason}"):
        run_chunk(made, model, tmp_path)
    assert not (tmp_path / "chunks.json").exists()
    run_chunk(made, model, tmp_path, "lossless")


def test_rows_that_are_no_conversations_are_counted_and_listed(model, tmp_path):
    good = {"id": "a", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}
    bad = [{"id": "b"}, {"id": "c", "conversations": []}, {"id": "d", "conversations": [{"from": "human", "value": 3}]}]
    run_chunk(rows_file(tmp_path / "mix.json", [good, *bad]), model, tmp_path)
    expected = {"conversations_missing": 1, "conversations_empty": 1, "turn_wrong_type": 1}
    assert counts(tmp_path / "chunk.json", "conversations")["rejected"] == expected
    assert [reject["row"] for reject in lines(tmp_path / "chunk.jsonl")] == [2, 3, 4]


def test_a_file_without_rows_gives_a_file_without_rows(model, tmp_path):
    tokens = run_tokenize(run_chunk(rows_file(tmp_path / "mix.json", []), model, tmp_path), model, tmp_path)
    assert len(open_tokens(tokens)) == 0
    assert read_manifest(tokens)["facts"]["rows"] == 0


def stage_stops(run, *given, reason: str, out: Path) -> None:
    """That a stage stops with this reason, and leaves nothing behind."""
    with pytest.raises(SystemExit, match=reason):
        run(*given, out)
    assert not [path for path in out.rglob("*") if path.is_file()]


def test_chunking_that_loses_all_stops_with_the_commonest_reason(model, tmp_path):
    lost = [{"id": f"{n}", "conversations": [{"from": "tom", "value": "q"}]} for n in range(3)]
    mix = rows_file(tmp_path / "mix.json", lost)
    reason = r"mix.json: nothing to learn from is left of its 3 rows, most often \(3 times\) because of odd_last_turn"
    stage_stops(run_chunk, mix, model, reason=f"{reason}, first in row 1: turns 1 of 1", out=tmp_path / "out")


def test_what_is_learnt_without_being_an_answer_is_noted(model, tmp_path):
    """Special tokens that somebody wrote out, answers of which there is but the end, and chunks without any answer."""
    turns = [[("human", "q"), ("gpt", "see </s>")], [("human", "q"), ("gpt", "")], [("human", "q"), ("human", "r")]]
    rows = [
        {"id": str(number), "conversations": [{"from": who, "value": text} for who, text in each]}
        for number, each in enumerate(turns)
    ]
    run_tokenize(rows_file(tmp_path / "chunks.json", rows), model, tmp_path, "lossless", template="zephyr")
    found = json.loads((tmp_path / "tokens.json").read_text())
    assert counts(tmp_path / "tokens.json", "chunks") == {
        "unit": "chunks",
        "in": 3,
        "out": 2,
        "rejected": {"no_answer": 1},
    }
    assert found["notes"]["chunks with the text of a special token, which is read as that token"] == 1
    assert found["notes"]["empty answers, of which the end alone is learnt"] == 1


def test_tokens_without_any_loss_stop_the_stage(model, tmp_path):
    """FastChat would train on chunks that it has masked whole; where there are no others, nothing is learnt."""
    masked = {"id": "a", "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": ""}]}
    other = {"id": "b", "conversations": [{"from": "tom", "value": "q"}]}
    chunks = rows_file(tmp_path / "chunks.json", [masked, other, other])
    reason = "nothing to learn from is left of its 3 rows, .*speaker_unknown, first in row 2: the speaker 'tom'"
    stage_stops(run_tokenize, chunks, model, reason=reason, out=tmp_path / "out")


@pytest.mark.parametrize("responses", [None, "chosen"])
def test_pairs_that_are_all_rejected_stop_the_stage(model, tmp_path, responses):
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps({"And this?": PAIRS["And this?"]}))
    describe(pairs, "preference-pairs", [pairs])
    with pytest.raises(SystemExit, match=r"of its 1 prompts, .*end_of_sequence_in_text, first in row 1"):
        run_pairs(pairs, model, tmp_path / "out", responses)


def test_every_program_ends_with_a_line_of_counts(mix, model, tmp_path, capsys):
    chunks = run_chunk(mix, model, tmp_path)
    assert capsys.readouterr().err.splitlines()[-1].startswith("chunk_conversations: 120 conversations in, ")
    run_tokenize(chunks, model, tmp_path)
    assert capsys.readouterr().err.splitlines()[-1].startswith("tokenize_conversations: ")
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps(PAIRS))
    run_pairs(describe(pairs, "preference-pairs", [pairs]), model, tmp_path, None)
    expected = "tokenize_pairs: 4 pairs in, 3 out, 1 rejected (end_of_sequence_in_text 1); noted: pairs: "
    assert capsys.readouterr().err.splitlines()[-1].startswith(expected)


def test_a_changed_input_is_refused_and_nothing_is_written(model, tmp_path, capsys):
    mix = rows_file(tmp_path / "mix.json", conversations(3))
    mix.write_bytes(mix.read_bytes().replace(b"human", b"HUMAN"))
    with pytest.raises(SystemExit, match=r"chunk_conversations: .*mix\.json is not the file"):
        run_chunk(mix, model, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_refused_tokenizer_stops_the_stage_with_its_reason(mix, tmp_path):
    folder = llama_folder(tmp_path / "base", add_bos_token=False)
    describe(folder, "model", list(folder.iterdir()))
    with pytest.raises(SystemExit, match="this tokenizer is refused"):
        run_chunk(mix, folder, tmp_path / "out")
    assert not (tmp_path / "out/chunks.json").exists()


def test_token_rows_are_the_masked_chunks(mix, model, legacy, tmp_path):
    chunks = run_chunk(mix, model, tmp_path)
    tokens = open_tokens(run_tokenize(chunks, model, tmp_path))
    values = json.loads(chunks.read_text())
    assert tokens["id"][:] == [chunk["id"] for chunk in values]
    loss_tokens = 0
    for row, chunk in zip(tokens, values, strict=True):
        sample = fastchat_mask(legacy, parse_conversation(chunk).turns, 512)
        assert row["input_ids"] == sample.input_ids.tolist()
        assert row["labels"] == sample.labels.tolist()
        assert row["length"] == len(sample.input_ids)
        loss_tokens += sum(label != IGNORED for label in row["labels"])
    facts = read_manifest(tmp_path / "tokens")["facts"]
    assert (facts["rows"], facts["loss_tokens"]) == (len(values), loss_tokens)
    assert facts["tokens"] == sum(tokens["length"])
    assert facts["length"]["max"] == max(tokens["length"])
    masked = [reject for reject in lines(tmp_path / "tokens.jsonl") if reject["reason"] == "masked_whole"]
    assert len(masked) == facts["notes"]["chunks masked whole, as FastChat does"] > 0


def test_lossless_rows_all_bear_a_loss(mix, model, tmp_path):
    tokens = open_tokens(run_tokenize(run_chunk(mix, model, tmp_path, "lossless"), model, tmp_path, "lossless"))
    assert all(any(label != IGNORED for label in row["labels"]) for row in tokens)
    funnel = counts(tmp_path / "tokens.json", "chunks")
    assert set(funnel["rejected"]) <= {"no_answer_before_max_length"}


PAIRS = {
    "Is it safe?": {"responses": ["Yes.", "No!", "Ask.", "Run"], "pairs": [[0, 1], [2, 3]], "sft_target": "Ask."},
    "And this?": {"responses": ["It ends </s> here", "x"], "pairs": [[0, 1]], "sft_target": "It ends </s> here"},
    "long " * 100: {"responses": ["word " * 100, "y"], "pairs": [[0, 1]], "sft_target": "word " * 100},
}


def run_pairs(
    pairs: Path, model: Path, out: Path, responses: str | None, template: str = "none", empty: str = "keep"
) -> Path:
    settings = {"responses": responses, "template": template, "max_length": 96, "max_prompt_length": 48}
    name = "sft" if responses else "dpo"
    tokenize_pairs.main(
        rows=pairs,
        model=model,
        settings=json.dumps(settings | {"truncation": "keep_start", "empty_responses": empty}),
        tokens=out / name,
        funnel=out / f"{name}.json",
        rejects=out / f"{name}.jsonl",
        processes=1,
    )
    return out / name


@pytest.mark.parametrize("template", ["none", "vicuna"])
def test_preferences_become_pairs_and_targets(model, legacy, tmp_path, template):
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps(PAIRS))
    describe(pairs, "preference-pairs", [pairs])
    pair_rows = open_tokens(run_pairs(pairs, model, tmp_path, None, template))
    targets = open_tokens(run_pairs(pairs, model, tmp_path, "chosen", template))
    assert pair_rows["id"][:] == ["0-0", "0-1", "2-0"]
    assert targets["id"][:] == ["0", "2"]
    first = pair_rows[0]
    assert first["length"] == len(first["chosen_input_ids"]) + len(first["rejected_input_ids"])
    for kind in ("chosen", "rejected"):
        prompt = first["prompt_length"]
        assert first[f"{kind}_labels"][:prompt] == [IGNORED] * prompt
        assert first[f"{kind}_labels"][prompt:] == first[f"{kind}_input_ids"][prompt:]
        assert first[f"{kind}_input_ids"][-1] == legacy.eos_id
    # The reference stops at a text with the end token in it; here it is rejected and counted.
    for unit, name in (("pairs", "dpo"), ("targets", "sft")):
        assert counts(tmp_path / f"{name}.json", unit)["rejected"] == {"end_of_sequence_in_text": 1}
        units = [count["unit"] for count in json.loads((tmp_path / f"{name}.json").read_text())["counts"]]
        assert units == [unit, f"tokens in {unit}"], "nothing else is counted"
    assert pair_rows[2]["prompt_length"] == 48
    assert len(pair_rows[2]["chosen_input_ids"]) == 96


EMPTY = {
    "q": {"responses": ["", "b", "a", "b"], "pairs": [[0, 1], [2, 3]], "sft_target": ""},
    "": {"responses": ["", "x", "a", "b"], "pairs": [[0, 1], [2, 3]], "sft_target": ""},
    " ": {"responses": [" ", "x"], "pairs": [[0, 1]], "sft_target": "x"},
}


@pytest.mark.parametrize(
    ("template", "empty", "kept", "kept_targets", "rejected"),
    [
        ("none", "keep", ["0-0", "0-1", "1-1", "2-0"], ["0", "2"], {"nothing_to_learn": 1}),
        ("vicuna", "keep", ["0-1", "1-1", "2-0"], ["2"], {"empty_response": 2}),
        ("none", "reject", ["0-1", "1-1"], ["2"], {"empty_response": 3}),
        ("vicuna", "reject", ["0-1", "1-1"], ["2"], {"empty_response": 3}),
    ],
)
def test_empty_responses(model, legacy, tmp_path, template, empty, kept, kept_targets, rejected):
    pairs = tmp_path / "pairs.json"
    pairs.write_text(json.dumps(EMPTY))
    describe(pairs, "preference-pairs", [pairs])
    rows = open_tokens(run_pairs(pairs, model, tmp_path, None, template, empty))
    assert rows["id"][:] == kept
    assert counts(tmp_path / "dpo.json", "pairs")["rejected"] == rejected
    listed = [row for row in lines(tmp_path / "dpo.jsonl") if not row["kept"]]
    assert len(listed) == sum(rejected.values())
    assert open_tokens(run_pairs(pairs, model, tmp_path, "chosen", template, empty))["id"][:] == kept_targets
    if "0-0" in kept:
        prompt = rows[0]["prompt_length"]
        assert rows[0]["chosen_input_ids"][prompt:] == [legacy.eos_id], "as published"
    for row in rows:
        assert any(label != IGNORED for label in row["chosen_labels"][1:]), "something is learnt of every row"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("[]", "not a JSON object"),
        ("{", "cannot be read as JSON"),
        ('{"p": {"responses": ["a"], "pairs": [[0, 1]], "sft_target": "a"}}', "row 1"),
        ('{"p": {"responses": ["a"]}}', "not whole"),
    ],
)
def test_pairs_of_another_shape_are_named(model, tmp_path, text, why):
    pairs = tmp_path / "pairs.json"
    pairs.write_text(text)
    with pytest.raises(SystemExit, match=why):
        run_pairs(describe(pairs, "preference-pairs", [pairs]), model, tmp_path, "chosen")
    assert not (tmp_path / "sft").exists()


def make_base(mix: Path, out: Path, vocabulary: int) -> Path:
    settings = {"tiny": TINY | {"vocabulary": vocabulary}, "formats": ["sharegpt"]}
    make_tiny_model.main(conversations=[mix], settings=json.dumps(settings), output=out)
    return out


def test_the_small_model_is_the_same_twice_and_works(mix, tmp_path):
    from transformers import AutoModelForCausalLM

    first, second = (make_base(mix, tmp_path / name, 400) for name in ("first", "second"))
    assert read_manifest(first) == read_manifest(second)
    assert AutoModelForCausalLM.from_pretrained(first).config.vocab_size == 400
    run_tokenize(run_chunk(mix, first, tmp_path), first, tmp_path)


FEW = ["Hello there."] * 3
CHINESE = ["".join(chr(0x4E00 + 40 * line + place) for place in range(40)) for line in range(40)]


@pytest.mark.parametrize(
    ("texts", "vocabulary", "why"),
    [
        (
            FEW,
            1024,
            r"tiny.vocabulary is 1024, but this text fills no more than (\d+) entries. Fix: set it to \1 or less",
        ),
        (
            CHINESE,
            1024,
            r"1024, but this text has characters for no fewer than (\d+) entries. Fix: set it to \1 or more",
        ),
    ],
)
def test_a_vocabulary_that_does_not_fit_the_text_is_refused_with_one_that_does(texts, vocabulary, why, tmp_path):
    with pytest.raises(SmallTokenizerError) as refusal:
        train_sentencepiece(texts, vocabulary)
    assert "INTERNAL" not in str(refusal.value)
    works = int(re.search(why, str(refusal.value))[1])
    save_llama_tokenizer(train_sentencepiece(texts, works), tmp_path, 128)
    assert load_tokenizer(tmp_path).largest_id() == works - 1


def test_no_text_to_train_a_tokenizer_on_is_a_refusal():
    with pytest.raises(SmallTokenizerError, match=r"is empty\. Fix: "):
        train_sentencepiece(["", "\n"], 300)


def test_a_vocabulary_that_the_text_cannot_fill_leaves_nothing(mix, tmp_path):
    with pytest.raises(SystemExit, match=r"tiny\.vocabulary is 30000, but this text fills no more than"):
        make_base(mix, tmp_path / "base", 30_000)
    assert not (tmp_path / "base").exists()


def test_settings_that_are_wrong_are_named(mix, model, tmp_path):
    with pytest.raises(SystemExit, match="max_length"):
        tokenize_conversations.main(
            rows=mix,
            model=model,
            settings='{"template": "vicuna", "loss_on": "answers", "mode": "fastchat", "max_length": 0}',
            processes=1,
            tokens=tmp_path / "tokens",
            funnel=tmp_path / "tokens.json",
            rejects=tmp_path / "tokens.jsonl",
        )
    assert "keep_leading_answer works with mode: lossless alone" in refused_chunking(mix, model, tmp_path)


def refused_chunking(mix: Path, model: Path, out: Path) -> str:
    with pytest.raises(SystemExit) as stop:
        chunk_conversations.main(
            conversations=mix,
            model=model,
            settings='{"mode": "fastchat", "template": "vicuna", "max_length": 9, "keep_leading_answer": true}',
            processes=1,
            chunks=out / "chunks.json",
            funnel=out / "chunk.json",
            rejects=out / "chunk.jsonl",
            comparison=out / "comparison.json",
        )
    return str(stop.value)
