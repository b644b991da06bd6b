"""Ids are exact, or the tokenizer is refused."""

import json

import numpy as np
import pytest
from generated import ODD_TEXTS
from hypothesis import given, settings
from hypothesis import strategies as st
from sentencepiece import sentencepiece_model_pb2
from slow_llama import SlowLlama
from tokenizer_folders import MODEL, TEXTS, byte_level_folder, llama_folder
from tokenizers import normalizers

from amberline.text.small_tokenizer import save_llama_tokenizer, train_sentencepiece
from amberline.text.tokenizers import TRICKY_TEXTS, TokenizerRefused, load_tokenizer

PIECES = ["a", "Hello", " ", "  ", "\n", "▁", "</s>", "<s>", "<unk>", "<", "你", "é", "🙂", "\0", ":", "x=1", "."]
glued = st.lists(st.sampled_from(PIECES), max_size=12).map("".join)
any_text = st.one_of(glued, st.text(st.characters(exclude_categories=["Cs"]), max_size=30))


@pytest.fixture(scope="module", params=["legacy", "modern"])
def pair(request):
    return SlowLlama(MODEL, request.param == "legacy"), request.getfixturevalue(request.param)


def test_ids_are_those_of_the_slow_tokenizer(pair):
    slow, tokenizer = pair
    for text in [*TEXTS, *ODD_TEXTS, *TRICKY_TEXTS]:
        assert tokenizer.encode(text).tolist() == slow(text).input_ids, text
        assert tokenizer.count(text) == len(slow(text).input_ids) - 1


@settings(derandomize=True, max_examples=500, deadline=None)
@given(any_text)
def test_any_text_has_the_slow_tokenizers_ids(pair, text):
    slow, tokenizer = pair
    assert tokenizer.encode(text).tolist() == slow(text).input_ids


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(st.tuples(any_text, any_text), min_size=1, max_size=4))
def test_parts_joined_are_the_whole(pair, rounds):
    slow, tokenizer = pair
    parts = [part for question, answer in rounds for part in (f"{question} ASSISTANT:", f" {answer}</s>")]
    encoded = tokenizer.encode_parts(parts)
    assert [len(parts)] == [len(encoded)]
    assert np.concatenate(encoded).tolist() == slow("".join(parts)).input_ids


def test_a_text_behind_an_end_is_counted_as_it_stands_there(pair):
    slow, tokenizer = pair
    for text in [*TEXTS[:50], *ODD_TEXTS]:
        assert tokenizer.count_following(text) == len(slow(f"x</s>{text}").input_ids) - len(slow("x</s>").input_ids)


def test_a_token_belongs_to_the_part_that_it_ends_in(legacy):
    pieces = [
        [legacy._whole.id_to_piece(id_) for id_ in ids.tolist()] for ids in legacy.encode_parts(["hel", "lo 𝄞", "\n"])
    ]
    assert pieces == [["<s>"], ["▁hell", "o", "▁", "<0xF0>", "<0x9D>", "<0x84>", "<0x9E>"], ["<0x0A>"]]


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.lists(any_text, min_size=1, max_size=6))
def test_parts_that_meet_anywhere_joined_are_the_whole(pair, parts):
    slow, tokenizer = pair
    encoded = tokenizer.encode_parts(parts)
    assert np.concatenate(encoded).tolist() == slow("".join(parts)).input_ids
    # Where the quick way is taken, the other one cuts at the same tokens.
    across = tokenizer._encode_across(parts, with_bos=True)
    if all(parts):
        assert [ids.tolist() for ids in across] == [ids.tolist() for ids in encoded]
    apart = tokenizer.encode_parts(parts, with_bos=False)
    assert np.concatenate(apart).tolist() == slow("".join(parts)).input_ids[1:]


class TestLlamaRefused:
    """A tokenizer.model whose ids could not be shown to be exact."""

    @pytest.mark.parametrize(
        ("config", "why"),
        [
            ({"tokenizer_class": "T5Tokenizer"}, "T5Tokenizer"),
            ({"add_bos_token": False}, "add_bos_token"),
            ({"add_eos_token": True}, "add_eos_token"),
            ({"add_prefix_space": False}, "add_prefix_space"),
            ({"eos_token": "<|end|>"}, "eos_token"),
            ({"added_tokens_decoder": {"32000": {"content": "<pad>", "lstrip": True}}}, "<pad>"),
        ],
    )
    def test_by_its_configuration(self, tmp_path, config, why):
        with pytest.raises(TokenizerRefused, match=f"refused.*{why}" if "|" not in why else "refused"):
            load_tokenizer(llama_folder(tmp_path / "t", **config))

    @pytest.mark.parametrize(
        ("change", "why"),
        [
            (lambda proto: setattr(proto.trainer_spec, "model_type", 1), "not a BPE"),
            (lambda proto: setattr(proto.normalizer_spec, "remove_extra_whitespaces", True), "removes spaces"),
            (lambda proto: setattr(proto.normalizer_spec, "add_dummy_prefix", False), "put a space in front"),
            (lambda proto: setattr(proto.pieces[31999], "piece", "of▁the"), "space behind"),
        ],
    )
    def test_by_its_model(self, tmp_path, change, why):
        folder = llama_folder(tmp_path / "t")
        proto = sentencepiece_model_pb2.ModelProto()
        proto.ParseFromString(MODEL.read_bytes())
        change(proto)
        (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
        with pytest.raises(TokenizerRefused, match=why):
            load_tokenizer(folder)

    def test_when_the_model_is_damaged(self, tmp_path):
        folder = llama_folder(tmp_path / "t")
        (folder / "tokenizer.model").write_bytes(b"no model")
        with pytest.raises(TokenizerRefused, match="cannot be read"):
            load_tokenizer(folder)

    def test_when_there_is_no_tokenizer(self, tmp_path):
        with pytest.raises(TokenizerRefused, match="neither"):
            load_tokenizer(tmp_path)


def test_a_vocabulary_with_line_ends_inside_is_cut_at_spaces_alone(tmp_path):
    folder = llama_folder(tmp_path / "t")
    proto = sentencepiece_model_pb2.ModelProto()
    proto.ParseFromString(MODEL.read_bytes())
    proto.pieces[31998].piece, proto.pieces[31999].piece = "\n", ":\n"
    (folder / "tokenizer.model").write_bytes(proto.SerializeToString())
    tokenizer, slow = load_tokenizer(folder), SlowLlama(folder / "tokenizer.model", legacy=True)
    assert 31999 in tokenizer.encode("end:\nnew line")
    for text in TEXTS[:100]:
        assert tokenizer.encode(text).tolist() == slow(text).input_ids


def test_added_tokens_are_one_id_each(tmp_path):
    folder = llama_folder(tmp_path / "t", added_tokens_decoder={"32000": {"content": "<|im_end|>"}})
    assert load_tokenizer(folder).encode("a<|im_end|>").tolist() == [1, 264, 32000]


class TestByteLevel:
    def test_parts_joined_are_the_whole(self, byte_level):
        for text in [*TEXTS[:100], *ODD_TEXTS]:
            parts = [f"USER: {text} ASSISTANT:", f" {text}{byte_level.eos}", f"USER: {text} ASSISTANT:", f" {text}"]
            encoded = byte_level.encode_parts(parts)
            assert np.concatenate(encoded).tolist() == byte_level.encode("".join(parts)).tolist()
            decoded = [byte_level._encoder.decode(ids.tolist(), skip_special_tokens=False) for ids in encoded]
            assert decoded == parts

    def test_a_beginning_of_sequence_token_belongs_to_the_first_part(self, tmp_path):
        tokenizer = load_tokenizer(byte_level_folder(tmp_path / "t", bos="<s>"))
        first, second = tokenizer.encode_parts(["USER: q ASSISTANT:", " a"])
        assert first[0] == tokenizer._bos_ids[0]
        assert tokenizer.encode_apart(" a").tolist() == second.tolist()
        assert tokenizer.count_following("USER:") == tokenizer.count("USER:")

    @pytest.mark.parametrize(
        ("normalizer", "text"),
        [(normalizers.NFC(), "Café e\u0301\u0301 가"), (normalizers.Lowercase(), "İstanbul ÄÖ")],
    )
    def test_one_that_normalises_is_cut_where_the_text_is_cut(self, tmp_path, normalizer, text):
        tokenizer = load_tokenizer(byte_level_folder(tmp_path / "t", normalizer=normalizer))
        assert tokenizer.changed(text)
        assert not tokenizer.changed("plain text")
        for cut in range(len(text) + 1):
            parts = [f"{text[:cut]}{tokenizer.eos}", text[cut:]]
            encoded = tokenizer.encode_parts(parts)
            assert np.concatenate(encoded).tolist() == tokenizer.encode("".join(parts)).tolist()
            decoded = [tokenizer._encoder.decode(ids.tolist(), skip_special_tokens=False) for ids in encoded]
            assert decoded == [
                normalizer.normalize_str(text[:cut]) + tokenizer.eos,
                normalizer.normalize_str(text[cut:]),
            ]

    def test_a_composed_character_belongs_to_the_part_that_its_mark_is_in(self, tmp_path):
        tokenizer = load_tokenizer(byte_level_folder(tmp_path / "t", normalizer=normalizers.NFC()))
        first, second = tokenizer.encode_parts(["Cafe", "\u0301 X"])
        assert first.tolist() == tokenizer.encode("Caf").tolist()
        assert second.tolist() == tokenizer.encode("é X").tolist()

    def test_spaces_in_front_of_a_token_are_in_its_offsets(self, tmp_path):
        folder = byte_level_folder(tmp_path / "t")
        content = json.loads((folder / "tokenizer.json").read_text())
        content["post_processor"] = {
            "type": "ByteLevel",
            "add_prefix_space": False,
            "trim_offsets": True,
            "use_regex": True,
        }
        (folder / "tokenizer.json").write_text(json.dumps(content))
        tokenizer = load_tokenizer(folder)
        assert [tokenizer._encoder.decode(ids.tolist()) for ids in tokenizer.encode_parts(["a:", "  b", " c "])] == [
            *("a:", "  b", " c ")
        ]

    def test_one_that_drops_text_is_refused(self, tmp_path):
        with pytest.raises(TokenizerRefused, match=r"no token stands for|changes the text"):
            load_tokenizer(byte_level_folder(tmp_path / "t", normalizer=normalizers.Strip()))

    def test_one_without_an_end_of_sequence_is_refused(self, tmp_path):
        folder = byte_level_folder(tmp_path / "t")
        (folder / "tokenizer_config.json").write_text("{}")
        with pytest.raises(TokenizerRefused, match="eos_token"):
            load_tokenizer(folder)

    def test_a_damaged_file_is_refused(self, tmp_path):
        folder = byte_level_folder(tmp_path / "t")
        (folder / "tokenizer.json").write_text("{")
        with pytest.raises(TokenizerRefused, match="cannot be read"):
            load_tokenizer(folder)


@pytest.fixture(scope="module")
def small_model():
    return train_sentencepiece(TEXTS, 500)


class TestSmallTokenizer:
    def test_the_same_text_gives_the_same_model(self, small_model):
        assert train_sentencepiece(TEXTS, 500) == small_model

    def test_both_files_give_sentencepieces_ids(self, small_model, tmp_path):
        save_llama_tokenizer(small_model, tmp_path, context=256)
        from_model = load_tokenizer(tmp_path)
        slow = SlowLlama(tmp_path / "tokenizer.model", legacy=True)
        (tmp_path / "tokenizer.model").unlink()
        from_json = load_tokenizer(tmp_path)
        assert (from_model.eos_id, from_json.eos_id, from_json.legacy) == (2, 2, True)
        for text in [*TEXTS[:200], *ODD_TEXTS]:
            expected = slow(text).input_ids
            assert from_model.encode(text).tolist() == expected
            assert from_json.encode(text).tolist() == expected, text

    def test_transformers_reads_it(self, small_model, tmp_path):
        from transformers import AutoTokenizer

        save_llama_tokenizer(small_model, tmp_path, context=256)
        tokenizer = AutoTokenizer.from_pretrained(tmp_path)
        assert tokenizer.convert_tokens_to_ids(["<unk>", "<s>", "</s>"]) == [0, 1, 2]
        assert tokenizer("the model").input_ids == load_tokenizer(tmp_path).encode("the model").tolist()
