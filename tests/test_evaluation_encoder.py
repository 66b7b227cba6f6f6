"""The encoder baseline: learns from labels, repeats, loads a local folder, and refuses what it cannot load."""

from pathlib import Path

import numpy as np
import pytest
from evaluation_toy import make_benchmark, make_records

from lang1.common.errors import ArtefactError
from lang1.evaluation.examples import Asked, asked
from lang1.evaluation.scorers import encoder as room
from lang1.evaluation.settings import EvaluateSettings
from lang1.metrics.auroc import auroc

transformers = pytest.importorskip("transformers")


@pytest.fixture(scope="module")
def chosen(tmp_path_factory: pytest.TempPathFactory) -> Asked:
    place = tmp_path_factory.mktemp("toy")
    bench = make_benchmark(make_records(place / "records", 260), place / "benchmark")
    return asked(bench, EvaluateSettings(tasks=["mortality"]))


def scratch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small enough for a test."""
    for name, value in {"VOCABULARY": 400, "HIDDEN": 32, "LAYERS": 1, "SCRATCH_LR": 3e-3, "EPOCHS": 4}.items():
        monkeypatch.setattr(room, name, value)


def test_from_random_weights_it_learns_and_repeats(chosen: Asked, monkeypatch: pytest.MonkeyPatch) -> None:
    scratch(monkeypatch)
    settings = EvaluateSettings(tasks=["mortality"], note_budget=64, seed=3)
    made, again = room.encoder(chosen, settings), room.encoder(chosen, settings)
    table = made.probabilities["mortality"]
    assert table.shape == (chosen.of("mortality").num_rows, 2) and table.sum(axis=1) == pytest.approx(1)
    assert np.array_equal(table, again.probabilities["mortality"])
    assert auroc(chosen.of("mortality")["label"].to_numpy() == 1, table[:, 1]) > 0.6
    assert "64 tokens a note" in made.chosen["mortality"] and "random weights" in made.about


def test_a_local_folder_is_finetuned(chosen: Asked, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, models, pre_tokenizers, processors, trainers

    inner = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    inner.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
    notes = chosen.of("mortality")["note_id"].to_pylist()
    inner.train_from_iterator(
        room._cleaned(chosen, notes), trainers.WordPieceTrainer(vocab_size=300, special_tokens=specials)
    )
    inner.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    folder = tmp_path / "tiny-bert"
    transformers.PreTrainedTokenizerFast(tokenizer_object=inner, **names).save_pretrained(folder)
    config = transformers.BertConfig(
        vocab_size=inner.get_vocab_size(),
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=64,
        max_position_embeddings=40,
    )
    transformers.BertModel(config).save_pretrained(folder)
    monkeypatch.setattr(room, "PRETRAINED_LR", 3e-3)
    settings = EvaluateSettings(tasks=["mortality"], encoder=folder)
    made = room.encoder(chosen, settings)
    assert "tiny-bert" in made.about and "36 tokens a note" in made.chosen["mortality"]  # what the encoder can read
    assert np.isfinite(made.probabilities["mortality"]).all()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ArtefactError, match="cannot be loaded as an encoder"):
        room.encoder(chosen, settings)
    with pytest.raises(ArtefactError, match=r"config\.json"):
        room.encoder(chosen, settings.model_copy(update={"encoder": tmp_path}))


def test_every_note_once_an_epoch_and_a_schedule_that_ends_at_nought() -> None:
    ids = [[1] * (k % 7 + 1) for k in range(105)]
    seen = np.concatenate(list(room._batches(ids, np.random.default_rng(0))))
    assert sorted(seen) == list(range(105))
    factors = [room._factor(step, 50) for step in range(51)]
    assert max(factors) == 1.0 and factors[0] == pytest.approx(0.2) and factors[-1] == 0.0
