"""The model that training starts from: a model folder of this package, or a folder in the Hugging Face layout."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

import lang1
from lang1.common.artefact import MANIFEST, Folder, Manifest, content_fingerprint, open_folder
from lang1.common.errors import SettingsError
from lang1.common.identity import read_patient_hashes
from lang1.text.tokenizer import Tokenizer

CONFIG = "config.json"


def open_start(path: Path | str) -> Folder:
    """Open the folder of a model to start from.

    A folder without a manifest but with a ``config.json`` is a model from elsewhere: its fingerprint is taken over its
    files, and no patient of this hospital is known to be in it.

    Raises:
        ArtefactError: it is missing, half written, damaged or no model.
    """
    path = Path(path)
    if (path / MANIFEST).exists() or not (path / CONFIG).is_file():
        return open_folder(path, "model")
    extra: dict[str, Any] = {"stage": "imported", "name": path.name}
    print_ = content_fingerprint(path)
    return Folder(path, Manifest(kind="model", lang1_version=lang1.__version__, fingerprint=print_, extra=extra))


def check_same_tokenizer(start: Path, tokenizer: Tokenizer, corpus: Tokenizer, corpus_folder: Path) -> None:
    """Refuse a corpus whose tokens mean something else to the model.

    Raises:
        SettingsError: the corpus was made with another tokenizer.
    """
    if tokenizer.fingerprint != corpus.fingerprint:
        raise SettingsError(
            f"{corpus_folder} was made with another tokenizer than {start} has: make the corpus again with "
            f"tokenizer={start}."
        )


def patients_of(*folders: Path) -> npt.NDArray[np.int64]:
    """The sorted hashes of all patients whose text any of the folders holds."""
    return np.unique(np.concatenate([read_patient_hashes(folder) for folder in folders]))


def latest_cut(*folders: Folder) -> str | None:
    """The latest training cut of the folders that hold patients; None where one of those was not cut, or none does."""
    cuts = [f.manifest.extra.get("cut") for f in folders if len(read_patient_hashes(f.path))]
    known = [cut for cut in cuts if cut is not None]
    return max(known, key=datetime.fromisoformat) if known and len(known) == len(cuts) else None
