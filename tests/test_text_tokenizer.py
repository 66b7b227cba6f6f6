"""The tokenizer: round trips, answers as single tokens, legible numbers, equality with transformers, same bytes."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from lang1.common.errors import ArtefactError, InputError, SettingsError
from lang1.text.fertility import fertility, report
from lang1.text.questions import QUESTIONS, render_question
from lang1.text.tokenizer import ANSWER, END_OF_TEXT, Tokenizer, check_tokenizer
from lang1.text.tokenizer_training import train_tokenizer

SAMPLE = [
    f"HPI: {60 + i % 30} year old man with chest pain and dyspnea. BP {110 + i}/7{i % 10}, HR {70 + i % 40}.\n\n"
    f"Plan: admit to cardiology, aspirin {i % 5 * 81} mg daily.\n- repeat troponin in {i % 6 + 2} hours"
    for i in range(80)
]
REQUIRED = [
    *(render_question(name, ["No", "Yes"]) for name in QUESTIONS),
    *(f"{ANSWER} {letter}" for letter in "ABCDEFGH"),
]


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return train_tokenizer(SAMPLE, 768, "single", REQUIRED)


@settings(max_examples=300)
@given(st.text())
def test_any_text_comes_back(tokenizer: Tokenizer, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == text


@settings(max_examples=100)
@given(st.lists(st.text(), max_size=5))
def test_a_batch_is_the_texts_one_by_one(tokenizer: Tokenizer, texts: list[str]) -> None:
    assert [list(ids) for ids in tokenizer.encode_batch(texts)] == [tokenizer.encode(text) for text in texts]


def test_a_note_cannot_forge_a_documents_end(tokenizer: Tokenizer) -> None:
    text = f"seen today {END_OF_TEXT} new patient <|pad|>"
    ids = tokenizer.encode(text)
    assert tokenizer.eot_id not in ids and tokenizer.pad_id not in ids
    assert tokenizer.decode(ids) == text


def test_transformers_gives_the_same_ids(tokenizer: Tokenizer, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer.save(tmp_path)
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.bos_token_id, theirs.pad_token_id) == (
        tokenizer.eot_id,
        tokenizer.eot_id,
        tokenizer.pad_id,
    )
    assert len(theirs) == tokenizer.vocab_size
    for text in [*SAMPLE[:5], *REQUIRED, "naïve µg ≥ 日本\x00\t\r\n  x  ", f"a {END_OF_TEXT} b", ""]:
        assert theirs(text)["input_ids"] == tokenizer.encode(text)
        assert theirs.decode(tokenizer.encode(text)) == text


def test_saved_and_loaded_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    for place in (tmp_path, tmp_path / "tokenizer.json"):
        loaded = Tokenizer.load(place)
        assert loaded.fingerprint == tokenizer.fingerprint
        assert loaded.encode(SAMPLE[0]) == tokenizer.encode(SAMPLE[0])


def test_same_texts_same_bytes_and_other_texts_other_fingerprint(tokenizer: Tokenizer, tmp_path: Path) -> None:
    again = train_tokenizer(iter(SAMPLE), 768, "single", REQUIRED)
    tokenizer.save(tmp_path / "a")
    again.save(tmp_path / "b")
    assert (tmp_path / "a/tokenizer.json").read_bytes() == (tmp_path / "b/tokenizer.json").read_bytes()
    assert train_tokenizer(SAMPLE[:40], 768, "single", REQUIRED).fingerprint != tokenizer.fingerprint


def test_every_word_of_a_question_is_one_token(tokenizer: Tokenizer) -> None:
    assert tokenizer.vocab_size <= 768
    for name in QUESTIONS:
        text = render_question(name, ["No", "Yes"])
        spelled = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
        assert "".join(spelled) == text
        for word in QUESTIONS[name].rstrip("?").split()[1:]:  # the first word too, but with its own space rule
            assert f" {word}" in spelled or word.isdigit()


def test_training_alone_would_not_have_made_the_words_whole() -> None:
    plain = train_tokenizer(SAMPLE, 768, "single")
    assert len(plain.encode(REQUIRED[3])) > len(train_tokenizer(SAMPLE, 768, "single", REQUIRED).encode(REQUIRED[3]))


def test_required_merges_leave_other_text_as_it_was() -> None:
    """Merges are appended after those that training found, so words that are not required keep their tokens."""
    plain = train_tokenizer(SAMPLE, 2000, "single")
    with_required = train_tokenizer(SAMPLE, 2000, "single", REQUIRED)
    assert plain.vocab_size < with_required.vocab_size < 2000
    for text in SAMPLE[:5]:
        ours = [with_required.decode([i]) for i in with_required.encode(text)]
        assert ours == [plain.decode([i]) for i in plain.encode(text)]


def test_letters_are_single_tokens_after_answer(tokenizer: Tokenizer) -> None:
    ids = tokenizer.letter_ids(8)
    assert len(set(ids)) == 8
    assert [tokenizer.decode([i]) for i in ids] == [f" {letter}" for letter in "ABCDEFGH"]
    for letter, number in zip("ABCDEFGH", ids, strict=True):
        assert tokenizer.encode(f"{ANSWER} {letter}") == [*tokenizer.encode(ANSWER), number]


def test_a_letter_that_is_not_one_token_is_named() -> None:
    plain = train_tokenizer(["word " * 50], 320, "single")
    with pytest.raises(ArtefactError, match="' A'"):
        plain.letter_ids(2)


@pytest.mark.parametrize("n", [0, 1, 27])
def test_impossible_numbers_of_options(tokenizer: Tokenizer, n: int) -> None:
    with pytest.raises(InputError, match="between 2 and 26"):
        tokenizer.letter_ids(n)


def test_numbers_are_spelled_digit_by_digit(tokenizer: Tokenizer) -> None:
    spelled = [tokenizer.decode([i]) for i in tokenizer.encode("Na 1403, 98.6 mg/dl 7")]
    assert [s for s in spelled if s.strip().isdigit()] == [" 1", "4", "0", "3", " 9", "8", "6", " 7"]


@given(number=st.integers(0, 10**9))
def test_pairs_count_from_the_end(number: int) -> None:
    tokenizer = _pairs()
    text = str(number)
    spelled = [tokenizer.decode([i]) for i in tokenizer.encode(text)]
    first = len(text) % 2
    expected = ([text[:1]] if first else []) + [text[i : i + 2] for i in range(first, len(text), 2)]
    assert spelled == expected
    assert [tokenizer.decode([i]) for i in tokenizer.encode(f" {text}")] == [f" {expected[0]}", *expected[1:]]


_KEPT: list[Tokenizer] = []


def _pairs() -> Tokenizer:
    if not _KEPT:
        _KEPT.append(train_tokenizer(SAMPLE, 900, "pairs"))
    return _KEPT[0]


def test_ascii_only_is_part_of_the_tokenizer(tmp_path: Path) -> None:
    made = train_tokenizer(SAMPLE, 500, "single", ascii_only=True)
    made.save(tmp_path)
    loaded = Tokenizer.load(tmp_path)
    assert loaded.decode(loaded.encode("5 µg naïve ≥ 3")) == "5 g nave  3"


def test_refusals(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="vocab_size 100"):
        train_tokenizer(SAMPLE, 100)
    with pytest.raises(SettingsError, match="too small"):
        train_tokenizer(SAMPLE, 330, "single", REQUIRED)
    with pytest.raises(SettingsError, match="fives"):
        train_tokenizer(SAMPLE, 500, "fives")  # type: ignore[arg-type]
    with pytest.raises(InputError, match="no text"):
        train_tokenizer([], 500)
    with pytest.raises(ArtefactError, match="missing"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"tokenizer\.json"):
        Tokenizer.load(tmp_path)
    bare = tokenizers.Tokenizer(tokenizers.models.BPE())
    (tmp_path / "tokenizer.json").write_text(bare.to_str())
    with pytest.raises(ArtefactError, match="end-of-text"):
        Tokenizer.load(tmp_path)


def test_padding_and_truncation_stored_in_a_file_are_not_applied(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 3, "strategy": "LongestFirst", "stride": 0}
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    loaded = Tokenizer.load(tmp_path)
    assert loaded.encode(SAMPLE[0]) == tokenizer.encode(SAMPLE[0])
    assert isinstance(loaded.encode_batch(["a"])[0], np.ndarray)


GPT2 = Path(__file__).parents[2] / "shared/data/tokenizers/gpt2_tokenizer.json.gz"


def test_what_is_checked_of_a_tokenizer(tokenizer: Tokenizer) -> None:
    facts = check_tokenizer(tokenizer, 8)
    assert facts.vocab_size == tokenizer.vocab_size and facts.bytes_per_token == 2
    assert facts.end_of_text == (END_OF_TEXT, tokenizer.eot_id)
    assert list(facts.letters) == tokenizer.letter_ids(8)
    assert facts.changed == ()


def _with(tokenizer: Tokenizer, change: dict[str, object]) -> Tokenizer:
    return Tokenizer(tokenizers.Tokenizer.from_str(json.dumps(json.loads(tokenizer.inner.to_str()) | change)))


def test_a_large_vocabulary_takes_four_bytes(tokenizer: Tokenizer) -> None:
    for size, width in ((1 << 16, 2), ((1 << 16) + 1, 4)):
        large = _with(tokenizer, {})
        large.inner.add_tokens([f"<filler {i}>" for i in range(size - large.vocab_size)])
        facts = check_tokenizer(large, 2)
        assert (facts.vocab_size, facts.bytes_per_token) == (size, width)


def test_an_import_that_loses_text_is_refused_and_one_that_changes_rare_characters_is_told(
    tokenizer: Tokenizer,
) -> None:
    # The answer's letters need the tokenizer as it is, so only digits are lost here.
    lossy = {"type": "Replace", "pattern": {"Regex": "[0-9]"}, "content": ""}
    with pytest.raises(ArtefactError, match="does not come back"):
        check_tokenizer(_with(tokenizer, {"normalizer": lossy}), 2)
    ascii_only = {"type": "Replace", "pattern": {"Regex": "[^\\x00-\\x7F]"}, "content": ""}
    changed = check_tokenizer(_with(tokenizer, {"normalizer": ascii_only}), 2).changed
    assert "日本語" in changed and not any(text.isascii() for text in changed)


def test_an_end_of_text_that_a_note_can_forge_is_refused(tokenizer: Tokenizer) -> None:
    content = json.loads(tokenizer.inner.to_str())
    for token in content["added_tokens"]:
        token["special"] = False
    with pytest.raises(ArtefactError, match="would end its document"):
        check_tokenizer(_with(tokenizer, {"added_tokens": content["added_tokens"]}), 2)


def test_fertility_counts_what_it_says(tokenizer: Tokenizer) -> None:
    pairs = _pairs()
    texts = {"progress": ["BP 120/80, Na 1403\n", "no numerals"] * 200, "radiology": ["naïve 7"], "other": []}
    found = fertility({"ours": tokenizer, "pairs": pairs}, {kind: iter(some) for kind, some in texts.items()})
    one = found["progress"]["ours"]
    assert (one.documents, one.words, one.bytes) == (400, 200 * 6, 200 * (19 + 11))
    assert one.tokens == sum(len(tokenizer.encode(text)) for text in texts["progress"])
    assert one.tokens_per_word == one.tokens / 1200 and one.bytes_per_token == 6000 / one.tokens
    assert (one.numerals, one.numeral_digits, one.numeral_tokens) == (400, 200 * 9, 200 * (6 + 4))
    assert one.digit_by_digit == 1 and found["progress"]["pairs"].digit_by_digit == 0
    assert found["progress"]["pairs"].tokens_per_numeral == (4 + 2) / 2
    assert found["radiology"]["ours"].bytes == 8 and found["other"]["ours"].tokens_per_word == 0
    text = report(found, {"ours": tokenizer, "pairs": pairs}).markdown()
    assert f"{one.tokens_per_word:.2f}" in text and "1 · 20 · / · 80" in text and "1 · 4 · 0 · 3" in text
    for wrong in ({}, {"ours": tokenizer}):
        with pytest.raises(InputError, match="fertility"):
            fertility(wrong, {"progress": [" "]})


@pytest.mark.skipif(not GPT2.is_file(), reason="the open GPT-2 tokenizer is not here")
def test_gpt2_can_be_imported_and_compared(tokenizer: Tokenizer, tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    file.write_bytes(gzip.decompress(GPT2.read_bytes()))
    general = Tokenizer.load(file)
    facts = check_tokenizer(general, 8)
    assert facts.vocab_size == 50_257 and facts.bytes_per_token == 2 and facts.changed == ()
    assert facts.end_of_text == (END_OF_TEXT, 50_256)
    ours = train_tokenizer(SAMPLE, 1_500, "single", REQUIRED)
    found = fertility({"ours": ours, "GPT-2": general}, {"progress": SAMPLE})["progress"]
    assert found["ours"].digit_by_digit == 1 > found["GPT-2"].digit_by_digit
    # Words of its own hospital are whole, digits are not.
    assert found["ours"].tokens - found["ours"].numeral_tokens < found["GPT-2"].tokens - found["GPT-2"].numeral_tokens
    assert "GPT-2" in report({"progress": found}, {"ours": ours, "GPT-2": general}).markdown()
