"""Import of open models, to go on training them or to finetune them: a Hugging Face folder or a GGUF file."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import torch

from lang1.common.artefact import InputRef, file_sha256, new_folder
from lang1.common.errors import ArtefactError
from lang1.common.progress import say
from lang1.model.config import ImportSettings
from lang1.model.store import load_model, save_model
from lang1.model.weights import INDEX, WEIGHTS, stored_dtype
from lang1.text.tokenizer import check_tokenizer

LICENCES = ("LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*")
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


def import_model(source: Path, out: Path, settings: ImportSettings | None = None) -> Path:
    """Check a model that others made and write it as a model folder, from which training and evaluation can start.

    Args:
        source: a folder with ``config.json``, safetensors weights and ``tokenizer.json``; or a ``.gguf`` file, or a
            folder that holds one. Quantised GGUF weights are expanded: a little worse than the model they came from.
        out: the model folder to write.
        settings: name and stored dtype.

    Returns:
        ``out``.

    Raises:
        ArtefactError: a file is missing or damaged, the architecture or tokenizer cannot be used, a library is not
            installed, or ``out`` exists.
    """
    settings = settings or ImportSettings()
    source, out = Path(source), Path(out)
    gguf = find_gguf(source)
    fingerprint = _fingerprint(source, gguf)
    inputs = {"source": InputRef(path=str(source.resolve()), kind="gguf" if gguf else "hf", fingerprint=fingerprint)}
    with new_folder(out, "model", inputs=inputs, settings=settings) as draft:
        if gguf is not None:
            from lang1.model.gguf import expand_gguf

            with tempfile.TemporaryDirectory(dir=draft.path, prefix=".gguf-") as scratch:
                facts = expand_gguf(gguf, Path(scratch))
                loaded = load_model(scratch, "cpu")
            dtype = torch.float32
        else:
            facts = {}
            loaded = load_model(source, "cpu")
            dtype = stored_dtype(source)
        dtype = dtype if settings.dtype == "stored" else DTYPES[settings.dtype]
        tokens = check_tokenizer(loaded.tokenizer, settings.options)
        loaded.model.name = settings.name or _name(source, gguf)
        save_model(draft.path, loaded.model, loaded.tokenizer, dtype)
        licence = facts.get("licence") or copy_licence(source if source.is_dir() else source.parent, draft.path)
        if licence is None:
            say(f"{source} states no licence: look up the terms before you share what is made from it.")
        draft.counts = {"parameters": loaded.model.parameter_count, "vocabulary": loaded.model.vocab_size}
        draft.extra = {
            "stage": "imported",
            "name": loaded.model.name,
            "architecture": loaded.model.architecture,
            "parameters": loaded.model.parameter_count,
            "tokens_seen": 0,  # of this project's; what the source was trained on is its makers' to say
            "tasks": [],
            "dtype": str(dtype).removeprefix("torch."),
            "licence": licence,
            "tokenizer_changes": list(tokens.changed),
            **({"quantisation": facts["quantisation"]} if "quantisation" in facts else {}),
        }
    return out


def find_gguf(source: Path) -> Path | None:
    """The GGUF file that a source is or holds; None for a Hugging Face folder.

    Raises:
        ArtefactError: nothing is there, or a folder without safetensors that holds several GGUF files.
    """
    if source.is_file():
        if source.suffix.lower() != ".gguf":
            raise ArtefactError(f"{source} is a file; expected a Hugging Face folder or a .gguf file.")
        return source
    if not source.is_dir():
        raise ArtefactError(f"{source} does not exist; expected a Hugging Face folder or a .gguf file.")
    if any(source.glob("*.safetensors")) or (source / INDEX).is_file():
        return None
    found = sorted(source.glob("*.gguf"))
    if len(found) > 1:
        raise ArtefactError(f"{source} holds {len(found)} .gguf files; name the one to import, {found[0].name} say.")
    if not found and any(source.glob("*.bin")):
        raise ArtefactError(
            f"{source} holds pickled weights (*.bin) only, which can run code: convert them to safetensors first, "
            "on a machine where that is safe."
        )
    return found[0] if found else None


def copy_licence(folder: Path, out: Path) -> str | None:
    """Copy licence files along; returns what the folder says of its licence, in a few words, or None."""
    copied = []
    for pattern in LICENCES:
        for file in sorted(folder.glob(pattern)):
            if file.is_file():
                shutil.copyfile(file, out / file.name)
                copied.append(file.name)
    stated = _card_field(folder / "README.md", "license_name") or _card_field(folder / "README.md", "license")
    if stated and copied:
        return f"{stated} ({', '.join(copied)})"
    return stated or (", ".join(copied) or None)


def _card_field(card: Path, field: str) -> str | None:
    """A field of the header (between two lines of dashes) of a Hugging Face card."""
    import yaml

    if not card.is_file():
        return None
    parts = card.read_text(encoding="utf-8", errors="replace").split("---", 2)
    if len(parts) < 3 or parts[0].strip():
        return None
    try:
        header: Any = yaml.safe_load(parts[1])
    except yaml.YAMLError:
        return None
    value = header.get(field) if isinstance(header, dict) else None
    return str(value) if value else None


def _name(source: Path, gguf: Path | None) -> str:
    return gguf.stem if gguf is not None else source.resolve().name


def _fingerprint(source: Path, gguf: Path | None) -> str:
    """SHA-256 of the weights: of the one file, or of the index that names the shards."""
    files = [gguf] if gguf is not None else [source / WEIGHTS, source / INDEX]
    found = next((file for file in files if file is not None and file.is_file()), None)
    return file_sha256(found) if found is not None else ""
