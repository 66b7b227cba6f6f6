"""GGUF files of small models, expanded to fp32 by transformers."""

from __future__ import annotations

from contextlib import redirect_stderr
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import torch

from lang1.common.errors import ArtefactError

NEEDS = "GGUF files need three libraries: pip install 'lang1[gguf,generalist]'; or import a safetensors folder instead."


def expand_gguf(file: Path, out: Path) -> dict[str, str]:
    """Write a GGUF model as a Hugging Face folder of fp32 safetensors.

    Returns:
        ``quantisation``, how many tensors are stored in which format; ``licence`` where the file states one.

    Raises:
        ArtefactError: a library is missing, or the file is damaged or of an architecture that cannot be read.
    """
    try:
        import gguf
        import transformers
    except ImportError as error:
        raise ArtefactError(f"{file}: {NEEDS}") from error
    if find_spec("accelerate") is None:  # transformers asks for it
        raise ArtefactError(f"{file}: {NEEDS}")
    source, local = str(file.resolve().parent), {"local_files_only": True, "trust_remote_code": False}
    try:
        facts = _facts(gguf.GGUFReader(str(file)))
        with redirect_stderr(StringIO()):  # progress bars, one for each tensor
            tokenizer: Any = transformers.AutoTokenizer.from_pretrained(source, gguf_file=file.name, **local)
            model: Any = transformers.AutoModelForCausalLM.from_pretrained(
                source, gguf_file=file.name, dtype=torch.float32, **local
            )
            # The weights are no longer quantised: what is written must not say that they are.
            if hasattr(model.config, "quantization_config"):
                del model.config.quantization_config
            model.hf_quantizer, model.is_quantized = None, False
            model.save_pretrained(out)
            tokenizer.save_pretrained(out)
    except Exception as error:  # the libraries raise anything, from KeyError to their own
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtefactError(f"{file} cannot be read as a GGUF model ({first}).") from error
    return facts


def _facts(reader: Any) -> dict[str, str]:
    kinds: dict[str, int] = {}
    for tensor in reader.tensors:
        kinds[tensor.tensor_type.name] = kinds.get(tensor.tensor_type.name, 0) + 1
    found = {"quantisation": ", ".join(f"{kind} x {count}" for kind, count in sorted(kinds.items()))}
    licence = reader.get_field("general.license")
    if licence is not None:
        found["licence"] = str(licence.contents())
    return found
