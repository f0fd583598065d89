"""Words and their tokens: bytes that spell a word back, white space, straddling tokens, special tokens."""

import numpy as np
import pytest
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import stabilitykit as sk
from stabilitykit.subjects.tiny import BOS, EOS, byte_tokenizer, tiny
from stabilitykit.subjects.words import Word, tokenise, told_apart

TEXTS = (
    "The quick  brown\tfox,\n\njumps over 12 dogs.",
    " leads and trails \n",
    "日本語 の テスト\u3000全角",
    "a\U0001f600b \U0001f468\u200d\U0001f469\u200d\U0001f467 \u0915\u094d\u0937 e\u0301",
    "<s> </s> <|im_end|> =cmd()",
    "x",
)


def spelled(text):
    """The words of a text by `str.split`, which is not what is under test."""
    return text.split()


@pytest.fixture(scope="module")
def loaded():
    return sk.load("tiny")


@pytest.mark.parametrize("text", TEXTS)
def test_the_bytes_of_a_words_tokens_spell_it(loaded, text):
    """A byte is a token here: what a word's tokens say is exactly the word, also in the middle of a character."""
    found = tokenise(loaded, text)
    assert bytes(found.ids) == text.encode()
    assert [bytes(found.ids[word.first : word.last]).decode() for word in found.words] == spelled(text)
    assert [text[word.start : word.end] for word in found.words] == [word.text for word in found.words] == spelled(text)
    assert found.lead == ()


def test_random_texts_are_told_apart(loaded):
    random = np.random.Generator(np.random.PCG64(3))
    letters = list("ab \t\n\u2003é日\U0001f600<>")
    for _ in range(200):
        text = "".join(random.choice(letters, size=30)) + "end"
        found = tokenise(loaded, text)
        assert [bytes(found.ids[word.first : word.last]).decode() for word in found.words] == spelled(text)


def test_only_whole_words_are_kept_of_a_part(loaded):
    found = tokenise(loaded, "ab cd efg", most=7)
    assert bytes(found.ids) == b"ab cd e"
    assert len(found.offsets) == 7
    assert [word.text for word in found.words] == ["ab", "cd"]
    assert [word.text for word in tokenise(loaded, "ab cd efg", most=9).words] == ["ab", "cd", "efg"]


@pytest.mark.parametrize(
    ("offsets", "words"),
    [
        # a token a word, the space before it its own
        ([(0, 2), (2, 5), (5, 8)], [("ab", 0, 1), ("cd", 1, 2), ("ef", 2, 3)]),
        # offsets that leave the space out, as some tokenizers trim them
        ([(0, 2), (3, 5), (6, 8)], [("ab", 0, 1), ("cd", 1, 2), ("ef", 2, 3)]),
        # the space behind the word
        ([(0, 3), (3, 6), (6, 8)], [("ab", 0, 1), ("cd", 1, 2), ("ef", 2, 3)]),
        # spaces by themselves belong to no word
        ([(0, 2), (2, 3), (3, 5), (5, 6), (6, 8)], [("ab", 0, 1), ("cd", 2, 3), ("ef", 4, 5)]),
        # two tokens that share one character
        ([(0, 1), (0, 1), (1, 2), (2, 5), (5, 8)], [("ab", 0, 3), ("cd", 3, 4), ("ef", 4, 5)]),
        # a token that reaches from one word into the next: they cannot be told apart
        ([(0, 1), (1, 4), (4, 5), (5, 8)], [("ab cd", 0, 3), ("ef", 3, 4)]),
        ([(0, 8)], [("ab cd ef", 0, 1)]),
        ([(0, 1), (1, 4), (4, 7), (7, 8)], [("ab cd ef", 0, 4)]),
        # a token without characters between words belongs to none, inside a word to it
        ([(0, 2), (2, 2), (2, 5), (5, 8)], [("ab", 0, 1), ("cd", 2, 3), ("ef", 3, 4)]),
        ([(0, 2), (2, 4), (4, 4), (4, 5), (5, 8)], [("ab", 0, 1), ("cd", 1, 4), ("ef", 4, 5)]),
        # a word that the tokenizer drops has no token
        ([(0, 2), (6, 8)], [("ab", 0, 1), ("ef", 1, 2)]),
    ],
)
def test_offsets_of_every_kind(offsets, words):
    found = told_apart("ab cd ef", offsets)
    assert [(word.text, word.first, word.last) for word in found] == words
    assert all("ab cd ef"[word.start : word.end] == word.text for word in found)


def adopted(tokenizer):
    return sk.adopt(tiny("llama"), tokenizer)


def test_special_tokens_around_a_text_are_no_words():
    tokenizer = byte_tokenizer()
    template = processors.TemplateProcessing(single="<s> $A </s>", special_tokens=[("<s>", BOS), ("</s>", EOS)])
    tokenizer.backend_tokenizer.post_processor = template
    found = tokenise(adopted(tokenizer), "ab <s> cd")
    assert found.lead == (BOS,)
    assert bytes(found.ids) == b"ab <s> cd"
    assert [word.text for word in found.words] == ["ab", "<s>", "cd"]
    assert tokenizer("<s>").input_ids == [BOS, BOS, EOS]  # asked as before, the tokenizer answers as before
    with pytest.raises(sk.UsageError, match="no token besides special ones"):
        tokenise(adopted(tokenizer), "")


def test_bytes_that_stand_in_for_an_unknown_character():
    """As SentencePiece models do: a space is a letter of the token, and what is not in the vocabulary is its bytes."""
    letters = {"<unk>": 0, "▁": 1, "a": 2, "b": 3, "▁a": 4}
    bytes_ = {f"<0x{byte:02X}>": 5 + byte for byte in range(256)}
    plain = Tokenizer(
        models.BPE(
            vocab={**letters, **bytes_}, merges=[("▁", "a")], byte_fallback=True, unk_token="<unk>", fuse_unk=True
        )
    )
    plain.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    plain.decoder = decoders.ByteFallback()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")
    found = tokenise(adopted(tokenizer), "ab é\U0001f600 a")
    names = [tokenizer.convert_ids_to_tokens(list(found.ids[word.first : word.last])) for word in found.words]
    assert [word.text for word in found.words] == ["ab", "é\U0001f600", "a"]
    assert names[0] == ["▁a", "b"]
    assert names[1][-6:] == ["<0xC3>", "<0xA9>", "<0xF0>", "<0x9F>", "<0x98>", "<0x80>"]
    assert names[2] == ["▁a"]


def test_a_vocabulary_with_spaces_inside_tokens_joins_words():
    plain = Tokenizer(models.WordLevel({"of the": 0, " ": 1, "a": 2, "<unk>": 3}, unk_token="<unk>"))
    plain.pre_tokenizer = pre_tokenizers.Split(Regex("of the|\\s|[^\\s]+"), "isolated")
    found = tokenise(adopted(PreTrainedTokenizerFast(tokenizer_object=plain, unk_token="<unk>")), "a of the a")
    assert found.words == (Word("a", 0, 1, 0, 1), Word("of the", 2, 8, 2, 3), Word("a", 9, 10, 4, 5))


def test_a_tokenizer_without_offsets_is_not_supported():
    class Slow:
        is_fast = False

    with pytest.raises(sk.UnsupportedError, match="keeps no character offsets"):
        tokenise(adopted(Slow()), "ab cd")
    with pytest.raises(sk.UnsupportedError, match="has no tokenizer, so words cannot be told apart"):
        tokenise(adopted(None), "ab cd")


@pytest.mark.model
@pytest.mark.parametrize("text", TEXTS)
def test_smollm2_spells_every_word(text):
    loaded = sk.load("smollm2")
    found = tokenise(loaded, text)
    said = [loaded.tokenizer.decode(list(found.ids[word.first : word.last])).strip() for word in found.words]
    assert said == spelled(text)
