"""Numbers that must not move: thirty losses of a model of a million weights, and the order of its data.

``python tests/test_training_golden.py`` writes the losses anew, after a change that is meant to move them.
"""

from __future__ import annotations

import hashlib
import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch
from test_corpus_order import make_corpus
from test_training_runs import PRETRAIN

from lang1.corpus.order import BatchOrder
from lang1.corpus.reader import Corpus
from lang1.model.attention import build_layout
from lang1.model.config import ModelSettings
from lang1.model.llama import Llama
from lang1.training.distributed import Processes
from lang1.training.loop import METRICS
from lang1.training.packing import flatten
from lang1.training.pretrain import Pretraining, pretrain
from lang1.training.settings import PretrainSettings

GOLDEN = Path(__file__).parent / "golden" / "pretrain_1m.json"
# Other processors add up in another order; what differs by more than this was computed otherwise.
TOLERANCE = 2e-4
SHAPE = ModelSettings(
    name="golden", hidden_size=128, layers=4, heads=4, kv_heads=2, head_dim=32, intermediate_size=512, context=128
)


def golden_corpus(folder: Path) -> Corpus:
    """Two sources: one that counts, from different numbers and in different steps, and one of pairs."""
    rng = np.random.default_rng(3)
    counting = [
        [int(x) for x in (rng.integers(0, 200) + int(rng.integers(1, 4)) * np.arange(rng.integers(20, 90))) % 240 + 5]
        for _ in range(60)
    ]
    pairs = [[int(x) for x in np.repeat(rng.integers(5, 245, 30), 2)] for _ in range(30)]
    return make_corpus(folder / "corpus", {"counting": counting, "pairs": pairs}, {"counting": counting[:4]})


def hash_of_order(order: BatchOrder) -> str:
    """Of the pieces of documents of the first ten thousand rows."""
    return hashlib.sha256(json.dumps(order.documents(np.arange(10_000))).encode()).hexdigest()[:16]


def golden_losses(folder: Path) -> list[float]:
    corpus = golden_corpus(folder)
    settings = PretrainSettings.model_validate(
        PRETRAIN.model_dump()
        | {"model": SHAPE, "tokens": 30 * 4 * 128, "sequence_length": 128, "log_every": 1, "validate_every": 30}
        | {"weights": {"counting": 3, "pairs": 1}, "checkpoint_every": 100}
    )
    out = pretrain(corpus.folder.path, folder / "m", settings)
    records = [json.loads(line) for line in (out / METRICS).open()]
    return [r["loss"] for r in records if r["kind"] == "train"]


def test_thirty_losses_of_a_model_of_a_million_weights_are_what_they_were(tmp_path: Path) -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    losses = golden_losses(tmp_path)
    assert losses == pytest.approx(golden["losses"], abs=TOLERANCE)
    assert 0.9e6 < golden["parameters"] < 1.1e6 and losses[-1] < losses[0] - 1


def test_the_order_and_its_shares_do_not_depend_on_how_many_processes_read_it(tmp_path: Path) -> None:
    corpus = golden_corpus(tmp_path)
    rows, seen = 6, []
    for size in (1, 2, 4):
        # Each process has an order of its own, as it would have, and asks for its own rows alone.
        orders = [BatchOrder(corpus, {"counting": 3, "pairs": 1}, 128, rows, 11) for _ in range(size)]
        digests = [hashlib.sha256(), hashlib.sha256()]
        for step in range(100):
            numbers = np.arange(step * rows, (step + 1) * rows)
            for rank, order in enumerate(orders):
                for digest, part in zip(digests, order.rows(numbers[Processes(rank, size).mine(rows)]), strict=True):
                    digest.update(part.tobytes())
        seen.append(tuple(digest.hexdigest() for digest in digests))
    assert len(set(seen)) == 1
    shares = {name: source["share"] for name, source in orders[0].realised(100).items()}
    assert shares == pytest.approx({"counting": 0.75, "pairs": 0.25}, abs=1 / 600)
    assert hash_of_order(orders[0]) == json.loads(GOLDEN.read_text(encoding="utf-8"))["order"]


def test_packed_rows_have_the_loss_and_gradient_of_their_documents_one_by_one(tmp_path: Path) -> None:
    corpus = golden_corpus(tmp_path)
    order = BatchOrder(corpus, None, 128, 4, 0)
    settings = PRETRAIN.model_copy(update={"sequence_length": 128, "sequences_per_step": 4})
    model = Llama(SHAPE.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size}))
    model.initialise(0)
    work = Pretraining(model, corpus, order, settings)
    packed = 0.0
    for loss, _ in work.losses(0):
        loss.backward()  # type: ignore[no-untyped-call]
        packed += float(loss.detach())
    gradients = {name: weight.grad.clone() for name, weight in model.named_parameters() if weight.grad is not None}
    model.zero_grad()
    tokens, documents = order.step(0)
    stream = flatten(tokens, documents)
    assert stream is not None
    total, ends = torch.zeros(()), np.cumsum(stream.lengths)
    for end, length in zip(ends, stream.lengths, strict=True):
        alone = torch.from_numpy(stream.tokens[end - length : end])
        logits = model.logits(model(alone[:-1], build_layout([length - 1])))
        total = total + torch.nn.functional.cross_entropy(logits, alone[1:], reduction="sum")
    (total / len(stream.read)).backward()  # type: ignore[no-untyped-call]
    assert packed == pytest.approx(float(total.detach()) / len(stream.read), abs=1e-5)
    for name, weight in model.named_parameters():
        assert weight.grad is not None
        torch.testing.assert_close(weight.grad, gradients[name], atol=2e-6, rtol=1e-4)


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        losses = golden_losses(Path(place))
        corpus = golden_corpus(Path(place) / "again")
        order = BatchOrder(corpus, {"counting": 3, "pairs": 1}, 128, 6, 11)
        shape = SHAPE.model_copy(update={"vocab_size": corpus.tokenizer.vocab_size})
    about = {"losses": losses, "parameters": shape.parameters, "order": hash_of_order(order)}
    GOLDEN.write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
    sys.stdout.write(f"{losses[0]} to {losses[-1]}, {shape.parameters} weights\n")
