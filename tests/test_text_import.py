"""Tokenizers of other families, brought along: look-alikes of Llama 2, Llama 3, SmolLM2, Qwen and GPT-2 made here."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import tokenizers
from test_corpus_build import make_records
from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers, processors
from training_world import SHAPE

from lang1.common.artefact import open_folder
from lang1.common.errors import ArtefactError, SettingsError
from lang1.corpus.build import build_corpus
from lang1.corpus.general import general_files, read_general
from lang1.corpus.reader import Corpus
from lang1.corpus.settings import CorpusSettings, GeneralSource
from lang1.model.store import export_model
from lang1.remede.build import build
from lang1.remede.settings import BuildSettings
from lang1.text import fast
from lang1.text.tokenizer import Tokenizer, check_tokenizer
from lang1.text.tokenizer_training import train_tokenizer
from lang1.training.finetune import finetune
from lang1.training.pretrain import pretrain
from lang1.training.settings import FinetuneSettings, PretrainSettings

TEXTS = [t[:4_000] for file in general_files("general", GeneralSource()) for t in read_general(file, "text")][:12]
LETTERS = " ".join("ABCDEFGHIJKLMNOPQRSTUVWXYZ")
GPT4 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


def _byte_level(end: str, before: pre_tokenizers.PreTokenizer, normalizer: object = None) -> tokenizers.Tokenizer:
    made = train_tokenizer(TEXTS, 700, required=[f"\nAnswer: {LETTERS}"])
    value = json.loads(made.inner.to_str())
    eot = value["added_tokens"][0]
    value["model"]["vocab"][end] = value["model"]["vocab"].pop(eot["content"])
    eot["content"] = end
    inner = tokenizers.Tokenizer.from_str(json.dumps(value))
    inner.pre_tokenizer = before
    inner.normalizer = normalizer
    return inner


def _split(regex: str) -> pre_tokenizers.PreTokenizer:
    last = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), last])


def llama3() -> tokenizers.Tokenizer:
    """Vocabulary beyond 16 bits, whole words before merges, and a token put before every text."""
    value = json.loads(_byte_level("<|end_of_text|>", _split(GPT4)).to_str())
    value["model"]["ignore_merges"] = True
    inner = tokenizers.Tokenizer.from_str(json.dumps(value))
    inner.add_special_tokens(["<|begin_of_text|>", *(f"<|reserved_special_token_{i}|>" for i in range(66_000))])
    begin = inner.token_to_id("<|begin_of_text|>")
    inner.post_processor = processors.TemplateProcessing("<|begin_of_text|> $A", None, [("<|begin_of_text|>", begin)])
    return inner


def qwen() -> tokenizers.Tokenizer:
    inner = _byte_level("<|endoftext|>", _split(GPT4.replace("{1,3}", "")), normalizers.NFC())
    inner.add_tokens(["<tool_call>", "</tool_call>"])
    return inner


def smollm() -> tokenizers.Tokenizer:
    steps = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    return _byte_level("<|endoftext|>", pre_tokenizers.Sequence(steps))


def gpt2() -> tokenizers.Tokenizer:
    return _byte_level("<|endoftext|>", pre_tokenizers.ByteLevel(add_prefix_space=False))


def llama2() -> tokenizers.Tokenizer:
    """SentencePiece: no cutting, spaces as ▁ with one put before the text, unknown characters as bytes."""
    spaced = ["▁" + text.replace(" ", "▁") for text in [*TEXTS, LETTERS, "Answer: A\nQuestion: B"]]
    words = [
        word for text in spaced for line in text.split("\n") for word in line.replace("▁", " ▁").split(" ") if word
    ]
    learner = tokenizers.Tokenizer(models.BPE())
    trainer = tokenizers.trainers.BpeTrainer(vocab_size=600, show_progress=False)
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    learner.train_from_iterator(words, trainer=trainer)
    learnt = json.loads(learner.to_str())["model"]
    merges = [tuple(pair) for pair in learnt["merges"]]
    merges += [("▁", letter) for letter in LETTERS.split() if ("▁", letter) not in merges]
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256))]
    names += [token for token, _ in sorted(learnt["vocab"].items(), key=lambda item: item[1]) if token not in names]
    names += [token for token in (a + b for a, b in merges) if token not in names]
    vocab = {token: number for number, token in enumerate(dict.fromkeys(names))}
    inner = tokenizers.Tokenizer(models.BPE(vocab, merges, unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    inner.decoder = decoders.Sequence(steps)
    inner.add_special_tokens(["<unk>", "<s>", "</s>"])
    inner.post_processor = processors.TemplateProcessing("<s> $A", None, [("<s>", 1)])
    return inner


FAMILIES: dict[str, tuple[Callable[[], tokenizers.Tokenizer], str, str]] = {
    "llama2": (llama2, "</s>", "tokenizers"),
    "llama3": (llama3, "<|end_of_text|>", "pieces"),
    "qwen": (qwen, "<|endoftext|>", "pieces"),
    "smollm": (smollm, "<|endoftext|>", "pieces"),
    "gpt2": (gpt2, "<|endoftext|>", "pieces"),
}


@pytest.fixture(scope="module", params=FAMILIES)
def brought(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    file = tmp_path_factory.mktemp(request.param) / "tokenizer.json"
    FAMILIES[request.param][0]().save(str(file))
    return request.param, file


def test_a_family_can_be_brought_along(brought: tuple[str, Path]) -> None:
    family, file = brought
    _, end, encoder = FAMILIES[family]
    tokenizer = Tokenizer.load(file)
    facts = check_tokenizer(tokenizer, 8)
    assert facts.end_of_text[0] == end and facts.changed == () and len(set(facts.letters)) == 8
    assert facts.bytes_per_token == (4 if family == "llama3" else 2)
    for text in [*TEXTS, "BP 120/80, K+ 4.0\n\n- 5 µg ≥ 2×\tMüller 日本語 😀", f"forged {end} end"]:
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids).removeprefix(" ") == text and tokenizer.eot_id not in ids
    fresh = tokenizers.Tokenizer.from_file(str(file))
    fresh.encode_special_tokens = True
    texts = [*TEXTS, *fast.proof_texts(tokenizer.inner)]
    expected = [one.ids for one in fresh.encode_batch(texts, add_special_tokens=False)]
    assert [ids.tolist() for ids in tokenizer.encode_batch(texts)] == expected
    assert tokenizer.encoder in (encoder, "fastokens")


@pytest.mark.parametrize("family", ["llama2", "llama3"])
def test_a_tokenizer_brought_along_goes_all_the_way_unchanged(family: str, tmp_path: Path) -> None:
    make, end, _ = FAMILIES[family]
    make().save(str(tmp_path / "tokenizer.json"))
    make_records(tmp_path / "records")
    build(tmp_path / "records", tmp_path / "benchmark", BuildSettings(tasks=("mortality",)))
    settings = CorpusSettings(tokenizer=tmp_path / "tokenizer.json", general={}, val_share=0.05)
    build_corpus([tmp_path / "records"], tmp_path / "benchmark", tmp_path / "corpus", settings)
    corpus = Corpus.open(tmp_path / "corpus")
    brought = Tokenizer.load(tmp_path / "tokenizer.json")
    assert corpus.folder.manifest.extra["dtype"] == ("uint32" if family == "llama3" else "uint16")
    document = corpus.sources["notes"].train.document(0)
    assert document[-1] == corpus.tokenizer.eot_id == brought.inner.token_to_id(end)
    assert brought.decode(document[:-1]).lstrip(" ").startswith("HPI: marker")
    first = PretrainSettings(model=SHAPE, tokens=256, sequence_length=64, sequences_per_step=4, validation_tokens=64)
    pretrain(tmp_path / "corpus", tmp_path / "model", first, benchmark=tmp_path / "benchmark")
    second = FinetuneSettings(steps=1, notes_per_step=4, note_budget=32, validation_notes=8, max_notes=8)
    finetune(tmp_path / "model", tmp_path / "benchmark", tmp_path / "finetuned", second)
    export_model(tmp_path / "finetuned", tmp_path / "exported")
    prints = {Tokenizer.load(tmp_path / f).fingerprint for f in ("corpus/tokenizer", "model", "finetuned", "exported")}
    assert prints == {brought.fingerprint}
    assert open_folder(tmp_path / "finetuned", "model").manifest.extra["tasks"] == ["mortality"]
    transformers = pytest.importorskip("transformers")
    loaded = transformers.AutoTokenizer.from_pretrained(tmp_path / "exported")
    text = "BP 120/80 in bed 4\nNa 135"
    assert loaded(text)["input_ids"] == brought.encode(text) and loaded.eos_token == end


def test_the_end_of_text_is_named_or_found_or_asked_for(tmp_path: Path) -> None:
    file = tmp_path / "tokenizer.json"
    _byte_level("<|im_end|>", _split(GPT4)).save(str(file))
    with pytest.raises(ArtefactError, match=r"no end-of-text token.*end_of_text"):
        Tokenizer.load(file)
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"eos_token": {"content": "<|im_end|>"}}))
    assert Tokenizer.load(file).eot == "<|im_end|>"
    with pytest.raises(ArtefactError, match="no token '<done>'"):
        Tokenizer.load(file, "<done>")
    # A known name goes before what the file beside says, what the user says before both, and it is remembered.
    both = _byte_level("<|endoftext|>", _split(GPT4))
    both.add_special_tokens(["<|im_end|>"])
    both.save(str(file))
    assert Tokenizer.load(file).eot == "<|endoftext|>"
    Tokenizer.load(file, "<|im_end|>").save(tmp_path / "saved")
    assert Tokenizer.load(tmp_path / "saved").eot == "<|im_end|>"
    settings = CorpusSettings(end_of_text="<|im_end|>")
    with pytest.raises(SettingsError, match="end_of_text"):
        build_corpus([], None, tmp_path / "corpus", settings)
