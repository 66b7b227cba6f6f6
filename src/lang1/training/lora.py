"""Low-rank adapters (LoRA, Hu et al. 2021): a few trained weights beside frozen ones.

For models of this family they are written out here; for other architectures they are put in by peft (extra
``adapters``). Either way they are stored in peft's format, so that ``peft.PeftModel.from_pretrained`` loads them onto
the start model, and merged into a plain model for everything else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from lang1.common.artefact import write_json
from lang1.common.errors import ArtefactError, SettingsError
from lang1.model.decoder import Decoder
from lang1.model.llama import Linear, Llama
from lang1.model.store import load_model
from lang1.training.settings import LoraSettings

WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


class Adapter(nn.Module):
    """``alpha / r · B · A`` on the dropped-out input; zero at the start, since B is.

    Shapes: ``lora_A`` (r, inside), ``lora_B`` (outside, r), both fp32.
    """

    def __init__(self, inside: int, outside: int, settings: LoraSettings) -> None:
        super().__init__()
        self.scaling, self.dropout = settings.alpha / settings.r, settings.dropout
        self.lora_A = nn.Parameter(torch.empty(settings.r, inside))
        self.lora_B = nn.Parameter(torch.zeros(outside, settings.r))

    def forward(self, x: Tensor) -> Tensor:
        dropped = F.dropout(x, self.dropout, self.training)
        return F.linear(F.linear(dropped, self.lora_A.to(x.dtype)), self.lora_B.to(x.dtype)) * self.scaling

    def delta(self) -> Tensor:
        """What it adds to the weight (outside, inside), in fp32."""
        return self.scaling * (self.lora_B.detach() @ self.lora_A.detach())


def add_adapters(model: Decoder, settings: LoraSettings, seed: int) -> int:
    """Freeze a model and put adapters beside the linear maps that ``settings.targets`` names; returns their number.

    Frozen matrices are kept in the format of the products where ``settings.frozen`` is ``auto``.

    Raises:
        ArtefactError: a model of another architecture, and peft is not installed.
        SettingsError: a name in ``targets`` that no linear map of the model has.
    """
    for weight in model.parameters():
        weight.requires_grad_(False)
    if settings.frozen == "auto":
        for weight in model.parameters():
            if weight.dim() > 1:  # norms compute in fp32
                weight.data = weight.data.to(model.dtype)
    if not isinstance(model, Llama):
        return _with_peft(model, settings, seed)
    names = {n: m for n, m in model.named_modules() if isinstance(m, Linear) and ".layers." in n}
    known = sorted({n.rpartition(".")[2] for n in names})
    _check_targets(settings, known)
    generator = torch.Generator().manual_seed(seed)
    count = 0
    for name, linear in names.items():
        if name.rpartition(".")[2] not in settings.targets:
            continue
        outside, inside = linear.weight.shape
        adapter = Adapter(inside, outside, settings)
        with torch.no_grad():  # as peft does: uniform within 1 / sqrt(inside)
            adapter.lora_A.uniform_(-(inside**-0.5), inside**-0.5, generator=generator)
        linear.adapter = adapter.to(linear.weight.device)
        count += 1
    return count


def set_dropout(model: Decoder, on: bool) -> None:
    """Switch the dropout of the adapters, and of nothing else."""
    for module in model.modules():
        if isinstance(module, Adapter):
            module.train(on)
    if not isinstance(model, Llama):
        for layer in _peft_layers(model).values():
            layer.lora_dropout.train(on)


def trainable(model: nn.Module) -> int:
    """Number of weights that training changes."""
    return sum(weight.numel() for weight in model.parameters() if weight.requires_grad)


def merged(model: Decoder, start: Path) -> Decoder:
    """The start model in fp32 on the CPU with what the adapters of ``model`` add to it."""
    whole = load_model(start, "cpu").model
    with torch.no_grad():
        for name, delta in _deltas(model).items():
            weight = whole.get_submodule(name).weight
            assert isinstance(weight, Tensor)
            weight += delta.to("cpu", torch.float32)
    return whole


def save_adapters(model: Decoder, settings: LoraSettings, start: Path, folder: Path) -> None:
    """Write the adapters as ``adapter_config.json`` and ``adapter_model.safetensors`` in peft's format."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        f"base_model.model.{name}.{part}.weight": weight.detach().to("cpu", torch.float32).contiguous()
        for name, pair in _pairs(model).items()
        for part, weight in zip(("lora_A", "lora_B"), pair, strict=True)
    }
    temporary = folder / f".{WEIGHTS}.tmp"
    save_file(tensors, temporary, metadata={"format": "pt"})
    temporary.replace(folder / WEIGHTS)
    write_json(folder / CONFIG, _peft_config(model, settings, str(start)))


def _peft_config(model: Decoder, settings: LoraSettings, start: str) -> dict[str, Any]:
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": start,
        "inference_mode": True,
        "r": settings.r,
        "lora_alpha": settings.alpha,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.targets),
        "bias": "none",
        "fan_in_fan_out": _stored_turned(model),
        "init_lora_weights": True,
    }


def _pairs(model: Decoder) -> dict[str, tuple[Tensor, Tensor]]:
    """A and B by the name that their linear map has inside the Hugging Face model."""
    if isinstance(model, Llama):
        return {
            name: (module.adapter.lora_A, module.adapter.lora_B)
            for name, module in model.named_modules()
            if isinstance(module, Linear) and isinstance(module.adapter, Adapter)
        }
    return {
        name.removeprefix("inner."): (layer.lora_A["default"].weight, layer.lora_B["default"].weight)
        for name, layer in _peft_layers(model).items()
    }


def _deltas(model: Decoder) -> dict[str, Tensor]:
    """What is added to the weight of each linear map, by its name inside the decoder."""
    if isinstance(model, Llama):
        return {
            name: module.adapter.delta()
            for name, module in model.named_modules()
            if isinstance(module, Linear) and isinstance(module.adapter, Adapter)
        }
    return {name: layer.get_delta_weight("default").detach() for name, layer in _peft_layers(model).items()}


def _check_targets(settings: LoraSettings, known: list[str]) -> None:
    for target in settings.targets:
        if target not in known:
            raise SettingsError(f"lora.targets: the model has no linear map '{target}'; it has {', '.join(known)}.")


# --- other architectures, through peft -------------------------------------------------------------------------------


def _with_peft(model: Decoder, settings: LoraSettings, seed: int) -> int:
    try:
        from peft import LoraConfig, inject_adapter_in_model
    except ImportError as error:
        raise ArtefactError(
            "lora: adapters for this architecture need peft; install it with pip install 'lang1[adapters]'."
        ) from error
    known = sorted({n.rpartition(".")[2] for n, m in model.named_modules() if isinstance(m, nn.Linear) or _turned(m)})
    _check_targets(settings, known)
    torch.manual_seed(seed)
    config = LoraConfig(
        r=settings.r,
        lora_alpha=settings.alpha,  # type: ignore[arg-type]
        lora_dropout=settings.dropout,
        target_modules=list(settings.targets),
        fan_in_fan_out=_stored_turned(model),
    )
    inject_adapter_in_model(config, _inner(model))
    layers = _peft_layers(model)
    for layer in layers.values():
        for part in (layer.lora_A, layer.lora_B):
            part.float()
    return len(layers)


def _peft_layers(model: Decoder) -> dict[str, Any]:
    from peft.tuners.lora import LoraLayer

    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}


def _turned(module: nn.Module) -> bool:
    """Whether it is a linear map that stores its weight as (inside, outside), as GPT-2 does."""
    return type(module).__name__ == "Conv1D"


def _stored_turned(model: Decoder) -> bool:
    return any(_turned(getattr(m, "base_layer", m)) for m in model.modules())


def _inner(model: Decoder) -> nn.Module:
    """The Hugging Face model inside a decoder of another architecture."""
    return model.get_submodule("inner")
