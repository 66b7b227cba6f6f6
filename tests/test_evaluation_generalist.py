"""A tiny Hugging Face Llama with a real tokenizer: equal to the project's own scorer, cut rightly, refused clearly."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

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
WINDOWS = ["sliding_attention", "full_attention"]
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


def without_merges(folder: Path, out: Path) -> Path:
    """The same model with a vocabulary of single bytes, in which " A" is two tokens."""
    out.mkdir()
    for file in folder.iterdir():
        (out / file.name).write_bytes(file.read_bytes())
    content = json.loads((out / "tokenizer.json").read_text())
    content["model"]["merges"] = []
    content["model"]["vocab"] = {k: v for k, v in content["model"]["vocab"].items() if len(k) == 1 or v < 2}
    (out / "tokenizer.json").write_text(json.dumps(content))
    return out


def test_letters_of_several_tokens_are_scored_by_their_sum(folder: Path, tmp_path: Path) -> None:
    model = Generalist(without_merges(folder, tmp_path / "bytes"), device="cpu", precision="fp32")
    questions = {"readmission": render_question("readmission", ["No", "Yes"])}
    answers = model.answer_ids(questions["readmission"], 2)
    assert [len(answer) for answer in answers] == [2, 2]
    found = model.answer([Prompted("Fall.", "readmission")] * 2, questions, {"readmission": 2}, 8)
    prompt, _ = model.prompt("Fall.", questions["readmission"], 8)
    for option, answer in enumerate(answers):
        with torch.no_grad():
            logits = model.model(torch.tensor([prompt + answer])).logits[0].log_softmax(-1)
        right = sum(float(logits[len(prompt) - 1 + i, token]) for i, token in enumerate(answer))
        assert found[0].log_probabilities[option] == pytest.approx(right, abs=1e-4)
        assert found[1].log_probabilities[option] == pytest.approx(right, abs=1e-4)


def test_an_answer_that_melts_into_the_question_is_refused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = Generalist(folder, device="cpu", precision="fp32")
    plain = model._bare
    monkeypatch.setattr(model, "_bare", lambda text: [*plain(text)[:-2], 7] if text.endswith(" A") else plain(text))
    with pytest.raises(ArtefactError, match="no tokens of its own for ' A'"):
        model.answer([Prompted("x", "readmission")], QUESTIONS, N_OPTIONS, 8)


SHAPES: dict[str, dict[str, Any]] = {
    "Llama": {"num_key_value_heads": 2},
    "GPT2": {},
    "GPTNeoX": {},
    "Gemma3": {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 16, "layer_types": WINDOWS},
    "Mistral": {"num_key_value_heads": 2, "sliding_window": 24},
    "Qwen3": {"num_key_value_heads": 2, "head_dim": 8},
    "Mamba": {"state_size": 4},
}


@pytest.mark.parametrize("kind", SHAPES)
def test_a_shared_note_gives_what_each_question_gets_alone(kind: str, folder: Path, tmp_path: Path) -> None:
    shape = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 4}
    name = "Gemma3Text" if kind == "Gemma3" else kind
    config = getattr(transformers, f"{name}Config")(
        **shape,
        vocab_size=600,
        max_position_embeddings=256,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **SHAPES[kind],
    )
    torch.manual_seed(1)
    network = getattr(transformers, f"{kind}LMHeadModel" if kind == "GPT2" else f"{kind}ForCausalLM")(config)
    with torch.no_grad():
        for weight in network.parameters():
            if weight.dim() > 1:
                weight.mul_(4)
    network.save_pretrained(tmp_path)
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (tmp_path / file).write_bytes((folder / file).read_bytes())
    model = Generalist(tmp_path, device="cpu", precision="fp32")
    texts = [NOTES[1], "Fall at home. " * 12, NOTES[1] + " Again."]
    examples = [Prompted(text, task) for text in texts for task in QUESTIONS]
    shared = model.answer(examples, QUESTIONS, N_OPTIONS, 100)
    tokens, model.tokens = model.tokens, 0
    assert model.shared is not None and model.shared.usable is (kind != "Mamba")
    model.shared = None
    alone = model.answer(examples, QUESTIONS, N_OPTIONS, 100, tokens_per_batch=64)
    for one, other in zip(shared, alone, strict=True):
        assert one.log_probabilities == pytest.approx(other.log_probabilities, abs=1e-4)
        assert one.truncated == other.truncated
    assert np.ptp([a.log_probabilities[0] for a in alone]) > 1e-3
    assert tokens < 0.8 * model.tokens or kind == "Mamba"
