"""A tiny Hugging Face Llama with a real tokenizer: equal to the project's own scorer, cut rightly, refused clearly."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch

from lang1.common.errors import ArtefactError, InputError
from lang1.evaluation.scorers.generalist import Generalist, softmax
from lang1.evaluation.scorers.prompts import Prompted
from lang1.model.answering import score_groups
from lang1.model.store import load_model
from lang1.text.questions import render_question
from lang1.text.tokenizer_training import train_tokenizer

transformers = pytest.importorskip("transformers")

QUESTIONS = {
    "readmission": render_question("readmission", ["No", "Yes"]),
    "length_of_stay": render_question("length_of_stay", ["0 to 2 days", "3 days", "4 to 5 days", "more than 5 days"]),
}
N_OPTIONS = {"readmission": 2, "length_of_stay": 4}
NOTES = [
    "Admitted with chest pain. BP 140/90, creatinine 1.9. Home on aspirin 81 mg.",
    "Fever and cough for 3 days, oxygen at 2 L. <|endoftext|> Discharged to rehab after antibiotics. " * 3,
    "Fall at home.",
]


@dataclass
class Item:
    example_id: str
    task: str
    label: int = 0


@dataclass
class Group:
    note_id: str
    text: str
    items: list[Item]


def groups() -> list[Group]:
    return [Group(str(i), t, [Item(f"{q}:{i}", q) for q in QUESTIONS]) for i, t in enumerate(NOTES)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("generalist") / "tiny"
    tokenizer = train_tokenizer([*NOTES, *QUESTIONS.values()] * 3, 512, required=[*QUESTIONS.values(), " A B C D"])
    torch.manual_seed(0)
    config = transformers.LlamaConfig(
        vocab_size=tokenizer.vocab_size,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=256,
        initializer_range=0.3,
        bos_token_id=tokenizer.eot_id,
        eos_token_id=tokenizer.eot_id,
    )
    transformers.LlamaForCausalLM(config).save_pretrained(out)
    tokenizer.save(out)
    return out


def test_equals_the_own_scorer_with_the_same_weights(folder: Path) -> None:
    own = load_model(folder, device="cpu")
    expected = score_groups(own.model, own.tokenizer, groups(), QUESTIONS, N_OPTIONS, note_budget=24)
    examples = [Prompted(g.text.strip(), item.task) for g in groups() for item in g.items]
    for tokens_per_batch in (64, 4096):
        found = Generalist(folder, device="cpu", precision="fp32").answer(
            examples, QUESTIONS, N_OPTIONS, note_budget=24, tokens_per_batch=tokens_per_batch
        )
        assert [a.truncated for a in found] == expected.truncated
        assert max(expected.truncated) > 0
        for row, answer in enumerate(found):
            assert answer.log_probabilities == pytest.approx(expected.log_probabilities[row], abs=2e-5)
            assert softmax(answer.log_probabilities) == pytest.approx(expected.probabilities(row), abs=1e-5)
    assert np.ptp([a.log_probabilities[0] for a in found]) > 1e-3  # the answers do depend on the notes


@pytest.mark.parametrize("policy", ["head", "tail", "head+tail"])
def test_the_note_is_cut_and_never_the_question(folder: Path, policy: str) -> None:
    model = Generalist(folder, device="cpu", precision="fp32")
    question = QUESTIONS["readmission"]
    ids, cut = model.prompt(NOTES[1], question, 10, policy)  # type: ignore[arg-type]
    text = model.tokenizer.decode(ids)
    assert text.endswith(question)
    bare = model.tokenizer(NOTES[1], add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert cut == len(bare) - 10
    assert text.startswith("Fever") == (policy != "tail")
    assert ("after antibiotics." in text) == (policy != "head")
    whole, none = model.prompt(NOTES[2], question, 100)
    assert none == 0 and model.tokenizer.decode(whole) == NOTES[2] + question


def test_positions_bound_the_note(folder: Path) -> None:
    long = "word " * 2000
    model = Generalist(folder, device="cpu", precision="fp32")
    found = model.answer([Prompted(long, "readmission")], QUESTIONS, N_OPTIONS, note_budget=1000)
    ids, _ = model.prompt(long, QUESTIONS["readmission"], model.budget(QUESTIONS["readmission"], 1000))
    assert len(ids) <= 256 and found[0].truncated > 1000
    model.longest = 10
    with pytest.raises(InputError, match="10 positions"):
        model.answer([Prompted(long, "readmission")], QUESTIONS, N_OPTIONS, note_budget=1000)


def test_folders_that_cannot_be_used_are_refused_in_one_line(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ArtefactError, match=r"config\.json"):
        Generalist(tmp_path / "nothing")
    pickled = tmp_path / "pickled"
    pickled.mkdir()
    (pickled / "config.json").write_text((folder / "config.json").read_text())
    (pickled / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(ArtefactError, match="safetensors"):
        Generalist(pickled)
    remote = tmp_path / "remote"
    remote.mkdir()
    config = json.loads((folder / "config.json").read_text())
    config.update(model_type="own_kind", auto_map={"AutoConfig": "code.Config", "AutoModelForCausalLM": "code.Model"})
    (remote / "config.json").write_text(json.dumps(config))
    (remote / "code.py").write_text("raise SystemExit('code of a model folder was run')")
    for file in ("model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        (remote / file).write_bytes((folder / file).read_bytes())
    with pytest.raises(ArtefactError, match="cannot be loaded") as refused:
        Generalist(remote)
    assert "\n" not in str(refused.value)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(ArtefactError, match="pip install"):
        Generalist(folder)


def test_letters_that_are_not_single_tokens_are_refused(folder: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in folder.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    content = json.loads((broken / "tokenizer.json").read_text())
    content["model"]["merges"] = []
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if len(k) == 1 or v < 2}
    (broken / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(ArtefactError, match="no single token"):
        Generalist(broken, device="cpu").answer([Prompted("x", "readmission")], QUESTIONS, N_OPTIONS, 8)
