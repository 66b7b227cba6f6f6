"""A small BERT-type encoder finetuned on each task: from a local folder, or a tiny one from scratch.

The folder lies on this machine: nothing is fetched, only safetensors are read, and no code that a folder brings is
run. Without a folder a two-layer encoder with random weights reads byte-level BPE pieces learnt from the train notes:
it says what a small encoder gets out of the labelled notes alone, without pretraining. Needs the transformers library.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from lang1.common.errors import ArtefactError
from lang1.common.progress import Meter
from lang1.evaluation.examples import NOTES_AT_A_TIME, Asked, note_texts
from lang1.evaluation.scorers.linear import Ints
from lang1.evaluation.scorers.trained import TaskRows, Trained, trainable
from lang1.evaluation.settings import DEFAULT_NOTE_BUDGET, EvaluateSettings
from lang1.metrics.auroc import Floats, task_auroc
from lang1.metrics.probability import log_loss_rows
from lang1.model.precision import pick_device
from lang1.text.clean import clean_note
from lang1.text.tokenizer_training import train_tokenizer

# Of the encoder from scratch.
VOCABULARY, VOCABULARY_NOTES = 4_096, 5_000
HIDDEN, LAYERS, HEADS = 128, 2, 2
# Learning rates: of pretrained weights as in Devlin et al. 2019, of random ones larger.
PRETRAINED_LR, SCRATCH_LR = 5e-5, 5e-4
BATCH, EPOCHS, WARMUP = 16, 3, 0.1
WEIGHT_DECAY = 0.01
MOST_TRAIN_ROWS = 20_000


def encoder(asked: Asked, settings: EvaluateSettings) -> Trained:
    """Finetune an encoder a task; the epoch with the best validation AUROC answers.

    Notes are cut to the note budget (512 tokens where none is set, or what the encoder can read) from the head. Train
    is cut to 20,000 rows by a stride, which the manifest says.

    Raises:
        ArtefactError: transformers is missing, or the folder cannot be loaded as an encoder.
    """
    transformers = _transformers()
    folder = settings.encoder
    device = pick_device(settings.device)
    about = f"{folder.name}, finetuned" if folder is not None else f"{LAYERS}-layer encoder from random weights"
    trained = Trained(f"{about}; a classification head a task, epoch by validation AUROC")
    shared = None if folder is not None else _Pieces.learnt(asked)
    for rows in trainable(asked, trained):
        torch.manual_seed(settings.seed)
        if folder is not None:
            tokenizer, model = _loaded(transformers, folder, rows.n_classes)
            pieces, rate = _Pieces(tokenizer), PRETRAINED_LR
        else:
            assert shared is not None
            pieces, rate = shared, SCRATCH_LR
            model = _fresh(transformers, shared, rows.n_classes)
        longest = int(getattr(model.config, "max_position_embeddings", DEFAULT_NOTE_BUDGET))
        budget = min(settings.note_budget or DEFAULT_NOTE_BUDGET, longest - 4)
        table, told = _finetuned(model.to(device), pieces, rows, asked, budget, rate, settings.seed)
        trained.probabilities[rows.task] = table
        trained.chosen[rows.task] = told
    return trained


class _Pieces:
    """Notes to ids: a Hugging Face tokenizer with its own special tokens, or pieces learnt from train notes."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.pad = int(getattr(tokenizer, "pad_token_id", None) or 0)

    @classmethod
    def learnt(cls, asked: Asked) -> _Pieces:
        notes = sorted(set(asked.benchmark.examples(list(asked.tasks), ["train"])["note_id"].to_pylist()))
        stride = max(1, -(-len(notes) // VOCABULARY_NOTES))
        return cls(train_tokenizer(_cleaned(asked, notes[::stride]), VOCABULARY))

    def encode(self, texts: Sequence[str], budget: int) -> list[list[int]]:
        """At most ``budget`` ids a note, the head of it; never empty."""
        if hasattr(self.tokenizer, "encode_batch"):
            return [[int(i) for i in ids[:budget]] or [self.pad] for ids in self.tokenizer.encode_batch(texts)]
        found = self.tokenizer(list(texts), truncation=True, max_length=budget)["input_ids"]
        return [list(ids) for ids in found]

    @property
    def size(self) -> int:
        """Ids that there are."""
        return int(self.tokenizer.vocab_size)


def _finetuned(
    model: Any, pieces: _Pieces, rows: TaskRows, asked: Asked, budget: int, rate: float, seed: int
) -> tuple[Floats, str]:
    stride = max(1, -(-rows.train.num_rows // MOST_TRAIN_ROWS))
    labels = rows.train_labels[::stride]
    train = pieces.encode(list(_cleaned(asked, rows.train["note_id"].to_pylist()[::stride])), budget)
    val = pieces.encode(list(_cleaned(asked, rows.val["note_id"].to_pylist())), budget)
    steps = EPOCHS * -(-len(train) // BATCH)
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _factor(step, steps))
    rng = np.random.default_rng(seed)
    best: tuple[tuple[float, float], dict[str, Any], str] | None = None
    with Meter(f"encoder, {rows.task}", steps, "steps") as meter:
        for epoch in range(1, EPOCHS + 1):
            model.train()
            for batch in _batches(train, rng):
                ids, mask = _padded([train[i] for i in batch], pieces.pad, model.device)
                target = torch.as_tensor(labels[batch], device=model.device)
                logits = model(input_ids=ids, attention_mask=mask).logits.float()
                loss: Any = torch.nn.functional.cross_entropy(logits, target)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                optimizer.step()
                schedule.step()
                meter.add(1)
            area, rank = float("nan"), (0.0, float(epoch))
            if len(rows.val_labels):
                said = _answers(model, val, pieces.pad)
                area = task_auroc(rows.val_labels, said)
                rank = (0.0 if np.isnan(area) else area, -float(log_loss_rows(rows.val_labels, said).mean()))
            if best is None or rank > best[0]:
                told = f"epoch {epoch} of {EPOCHS}, validation AUROC {area:.4f}"
                best = (rank, copy.deepcopy(model.state_dict()), told)
    assert best is not None
    model.load_state_dict(best[1])
    scored = pieces.encode(list(_cleaned(asked, rows.scored["note_id"].to_pylist())), budget)
    cut = f", every {stride}th train row" if stride > 1 else ""
    return _answers(model, scored, pieces.pad), f"{best[2]}, {budget} tokens a note{cut}"


def _factor(step: int, steps: int) -> float:
    """Linear warm-up, then linear decay to 0."""
    warm = max(1, round(WARMUP * steps))
    return (step + 1) / warm if step < warm else max(0.0, (steps - step) / max(1, steps - warm))


def _batches(ids: Sequence[Sequence[int]], rng: np.random.Generator) -> Iterator[Ints]:
    """Batches of like length in random order: little padding, and every note once an epoch."""
    order = rng.permutation(len(ids))
    for start in range(0, len(order), 50 * BATCH):
        pool = order[start : start + 50 * BATCH]
        pool = pool[np.argsort([len(ids[i]) for i in pool], kind="stable")]
        cuts = [pool[k : k + BATCH] for k in range(0, len(pool), BATCH)]
        for place in rng.permutation(len(cuts)):
            yield cuts[place]


def _padded(ids: Sequence[Sequence[int]], pad: int, device: Any) -> tuple[torch.Tensor, torch.Tensor]:
    width = max(len(one) for one in ids)
    table = torch.full((len(ids), width), pad, dtype=torch.long)
    mask = torch.zeros((len(ids), width), dtype=torch.long)
    for row, one in enumerate(ids):
        table[row, : len(one)] = torch.tensor(one)
        mask[row, : len(one)] = 1
    return table.to(device), mask.to(device)


@torch.inference_mode()
def _answers(model: Any, ids: Sequence[Sequence[int]], pad: int) -> Floats:
    model.eval()
    order = np.argsort([len(one) for one in ids], kind="stable")
    found = np.zeros((len(ids), int(model.config.num_labels)))
    for start in range(0, len(order), 4 * BATCH):
        batch = order[start : start + 4 * BATCH]
        tokens, mask = _padded([ids[i] for i in batch], pad, model.device)
        logits = model(input_ids=tokens, attention_mask=mask).logits
        found[batch] = torch.softmax(logits.double(), dim=-1).cpu().numpy()
    return np.asarray(found / found.sum(axis=1, keepdims=True))


def _cleaned(asked: Asked, notes: Sequence[str]) -> Iterator[str]:
    for start in range(0, len(notes), NOTES_AT_A_TIME):
        yield from map(clean_note, note_texts(asked.benchmark, notes[start : start + NOTES_AT_A_TIME]))


def _transformers() -> Any:
    try:
        import transformers
    except ImportError as error:
        raise ArtefactError(
            "the encoder baseline needs the transformers library: pip install 'lang1[generalist]', or leave it out."
        ) from error
    return transformers


def _loaded(transformers: Any, folder: Path, n_classes: int) -> tuple[Any, Any]:
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise ArtefactError(f"{folder}: expected a Hugging Face folder with config.json and *.safetensors.")
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), **local)
        model = transformers.AutoModelForSequenceClassification.from_pretrained(
            str(folder), use_safetensors=True, num_labels=n_classes, ignore_mismatched_sizes=True, **local
        )
    except Exception as error:  # the library raises anything, from KeyError to its own
        line = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtefactError(f"{folder} cannot be loaded as an encoder ({line}).") from error
    return tokenizer, model


def _fresh(transformers: Any, pieces: _Pieces, n_classes: int) -> Any:
    config = transformers.BertConfig(
        vocab_size=pieces.size,
        hidden_size=HIDDEN,
        num_hidden_layers=LAYERS,
        num_attention_heads=HEADS,
        intermediate_size=4 * HIDDEN,
        max_position_embeddings=DEFAULT_NOTE_BUDGET + 4,
        num_labels=n_classes,
        pad_token_id=pieces.pad,
    )
    return transformers.BertForSequenceClassification(config)
