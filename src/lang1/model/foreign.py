"""Other architectures than the family's own, run by transformers behind the same interface.

The flat stream becomes padded rows, one a block, with a mask and positions written out: nothing is left to what a
library infers from positions, and no cache is used (with one, packed documents have been seen to read each other).
Dropout stays off, so that a resumed run is the uninterrupted one.

Shapes: N tokens of a step in one flat stream; G blocks in a bucket, padded to T; D width, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from lang1.common.artefact import read_json, write_json
from lang1.common.errors import ArtefactError
from lang1.model.decoder import Decoder, kept
from lang1.model.layout import Bucket, Layout, build_layout
from lang1.model.weights import CONFIG

# Settings under which logits are more than hidden states times a matrix, and the value that leaves them so.
LOGIT_CHANGES: tuple[tuple[str, Any], ...] = (
    ("final_logit_softcapping", None),
    ("logit_scale", None),
    ("logits_scaling", 1.0),
)
LAYER_TYPES = ("full_attention", "sliding_attention")
# Positions of a model that states none.
UNSTATED_CONTEXT = 2_048
# Largest difference of logits, as a share of the largest logit, between a block among others and alone (fp32).
SAME = 1e-3


class Foreign(Decoder):
    """A causal language model of transformers as a :class:`Decoder`.

    Args:
        inner: the model, weights in fp32.
        dtype: of activations and products, by autocast.
        name: for manifests and cards.

    Raises:
        ArtefactError: an architecture whose logits, layers or masks do not fit the interface.
    """

    def __init__(self, inner: Any, dtype: torch.dtype, name: str) -> None:
        super().__init__()
        self.inner = inner
        self.dtype, self.name = dtype, name
        self.checkpointing = "none"
        self.config: Any = inner.config.get_text_config()
        self._layers = _find_layers(inner.base_model, int(self.config.num_hidden_layers), name)
        self._windows = _windows(self.config, name)
        _refuse_what_depends_on_neighbours(self.config, name)
        for attribute, plain in LOGIT_CHANGES:
            value = getattr(self.config, attribute, plain)
            if value not in (plain, 1.0) or (plain is None and value == 0):
                raise ArtefactError(f"{name}: its logits are changed by {attribute} ({value}), which is not supported.")
        if self._head is None:
            raise ArtefactError(f"{name}: it has no output embedding; expected a causal language model.")
        for number, layer in enumerate(self._layers):
            layer.forward = self._again(number, layer.forward)
        self.train(False)

    def train(self, mode: bool = True) -> Foreign:
        """Dropout stays off in training too."""
        super().train(False)
        return self

    @property
    def architecture(self) -> str:
        return str(self.config.model_type)

    @property
    def context(self) -> int:
        for name in ("max_position_embeddings", "n_positions"):
            if getattr(self.config, name, None):
                return int(getattr(self.config, name))
        return UNSTATED_CONTEXT

    @property
    def vocab_size(self) -> int:
        return int(self._head.weight.shape[0])

    @property
    def parameter_count(self) -> int:
        return sum(p.numel() for p in self.inner.parameters())

    @property
    def head_weight(self) -> Tensor:
        """(V, D); a bias of the output embedding is a further column, for which hidden states end in 1."""
        weight: Tensor = self._head.weight
        return weight if self._bias is None else torch.cat((weight, self._bias[:, None]), dim=1)

    @property
    def _head(self) -> Any:
        return self.inner.get_output_embeddings()

    @property
    def _bias(self) -> Tensor | None:
        return getattr(self._head, "bias", None)

    @property
    def layers(self) -> Sequence[nn.Module]:
        return self._layers

    def facts(self) -> dict[str, str]:
        return {"layers x width": f"{len(self._layers)} x {self.config.hidden_size}"}

    def forward(self, tokens_N: Tensor, layout: Layout, read_R: Tensor | None = None) -> Tensor:
        cast = self.dtype != torch.float32
        with torch.autocast(self.device.type, self.dtype) if cast else nullcontext():
            parts = [self._rows(tokens_N, layout, bucket) for bucket in layout.buckets]
        hidden = torch.cat(parts) if len(parts) > 1 else parts[0]
        hidden = (hidden if read_R is None else hidden.index_select(0, read_R)).to(self.dtype)
        return hidden if self._bias is None else F.pad(hidden, (0, 1), value=1.0)

    def _rows(self, tokens_N: Tensor, layout: Layout, bucket: Bucket) -> Tensor:
        """Hidden states (n, D) of a bucket's tokens."""
        part = slice(bucket.start, bucket.stop)
        tokens, positions = tokens_N[part], layout.positions[part]
        if bucket.pad_index is not None:
            tokens, positions = tokens.index_select(0, bucket.pad_index), positions.index_select(0, bucket.pad_index)
        tokens, positions = (x.view(bucket.blocks, bucket.longest) for x in (tokens, positions))
        visible = bucket.visible(tokens.device).expand(bucket.blocks, -1, -1)
        masks = {kind: self._mask(visible, positions, window) for kind, window in self._windows.items()}
        out = self.inner.base_model(
            input_ids=tokens,
            attention_mask=masks if len(masks) > 1 else next(iter(masks.values())),
            position_ids=positions,
            use_cache=False,
        ).last_hidden_state
        flat: Tensor = out.reshape(-1, out.shape[-1])
        return flat if bucket.flat_index is None else flat.index_select(0, bucket.flat_index)

    def _mask(self, visible_GTT: Tensor, positions_GT: Tensor, window: int | None) -> Tensor:
        """(G, 1, T, T) to be added to scores: 0, or the least number of the dtype."""
        if window is not None and window < positions_GT.shape[1]:
            apart = positions_GT[:, :, None] - positions_GT[:, None, :]
            visible_GTT = visible_GTT & (apart < window)
        # Padded places see themselves, so that no row of scores is empty.
        visible_GTT = visible_GTT | torch.eye(visible_GTT.shape[1], dtype=torch.bool, device=visible_GTT.device)
        zero = torch.zeros(visible_GTT.shape, dtype=self.dtype, device=visible_GTT.device)
        return zero.masked_fill_(~visible_GTT, torch.finfo(self.dtype).min)[:, None]

    def _again(self, number: int, forward: Callable[..., Any]) -> Callable[..., Any]:
        """A layer's forward pass that keeps its activations or computes them again, as ``checkpointing`` says."""

        def run(*args: Any, **more: Any) -> Any:
            if kept(self.checkpointing, number) or not torch.is_grad_enabled():
                return forward(*args, **more)
            return checkpoint(forward, *args, use_reentrant=False, preserve_rng_state=False, **more)

        return run

    def save(self, folder: Path, eot: int, dtype: torch.dtype = torch.float32) -> None:
        """:meth:`Decoder.save`, as transformers writes it."""
        # A matrix that two modules share is stored once.
        once = {name for name, _ in self.inner.named_parameters()}
        again = {name for name, _ in self.inner.named_parameters(remove_duplicate=False)} - once
        tensors = {k: v.detach().to("cpu", dtype) for k, v in self.inner.state_dict().items() if k not in again}
        self.inner.config.lang1_name = self.name
        with redirect_stderr(StringIO()):  # a progress bar
            self.inner.save_pretrained(folder, state_dict=tensors, max_shard_size="1TB")
        # It states the dtype in which the weights are here, not that in which they were written.
        config = read_json(folder / CONFIG)
        write_json(folder / CONFIG, {**config, "dtype": str(dtype).removeprefix("torch.")})

    @torch.no_grad()
    def prove(self) -> None:
        """Check on a few tokens that blocks and questions do not see each other, against each of them alone.

        Raises:
            ArtefactError: they do, or logits are not hidden states times the output embedding.
        """
        dtype, self.dtype = self.dtype, torch.float32
        try:
            tokens = torch.arange(1, 19, device=self.device) * 7 % min(97, self.vocab_size)
            # A document of 6 tokens; a note of 5 with questions of 4 and 3.
            positions = np.concatenate([np.arange(6), np.arange(9), 5 + np.arange(3)])
            branch = np.array([0] * 11 + [1] * 4 + [2] * 3)
            layout = build_layout([6, 12], positions, branch, self.device)
            found = self.logits(self(tokens, layout))
            alone = (
                (range(6), range(6)),
                (range(6, 15), range(6, 15)),
                ([*range(6, 11), *range(15, 18)], range(15, 18)),
            )
            for given, judged in alone:
                expected = self.inner(tokens[list(given)][None], use_cache=False).logits[0].float()[-len(judged) :]
                gap = float((found[list(judged)] - expected).abs().max())
                if not gap <= SAME * max(1.0, float(expected.abs().max())):
                    raise ArtefactError(
                        f"{self.name}: the {self.architecture} architecture does not keep packed texts apart "
                        f"(logits differ by {gap:.2g}); it can be scored with --generalist, not trained here."
                    )
        finally:
            self.dtype = dtype


def load_foreign(path: Path, device: torch.device, dtype: torch.dtype, why: str) -> Foreign:
    """Load any causal language model of transformers from a local folder of safetensors.

    Args:
        path: the folder.
        device: where it goes.
        dtype: of activations and products.
        why: why it is not a model of our own family, for messages.

    Raises:
        ArtefactError: transformers is missing or cannot load it, weights are missing or left over, or its
            architecture does not fit.
    """
    try:
        import transformers
    except ImportError as error:
        raise ArtefactError(
            f"{path}: {why}; other architectures need the transformers library: pip install 'lang1[generalist]'."
        ) from error
    local: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    try:
        config: Any = transformers.AutoConfig.from_pretrained(str(path), **local)
        with redirect_stderr(StringIO()):  # a progress bar
            inner, report = _from_pretrained(transformers, path, config, local)
    except Exception as error:  # the library raises anything, from KeyError to its own
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtefactError(f"{path}: {why}, and transformers cannot load it ({first}).") from error
    for kind, says in (("missing_keys", "is missing"), ("unexpected_keys", "has no place in the model")):
        if names := sorted(report.get(kind) or ()):
            raise ArtefactError(f"{path}: weight {names[0]} ({len(names)} such) {says} that config.json describes.")
    if report.get("mismatched_keys"):
        raise ArtefactError(f"{path}: weight {sorted(report['mismatched_keys'])[0]} does not fit config.json.")
    name = str(getattr(config, "lang1_name", path.resolve().name))
    model = Foreign(inner.to(device), dtype, name)
    try:
        model.prove()
    except ArtefactError:
        raise
    except Exception as error:
        first = next(iter(str(error).splitlines()), type(error).__name__)
        raise ArtefactError(
            f"{path}: the {model.architecture} architecture cannot be run on packed texts ({first}); it can be scored "
            "with --generalist, not trained here."
        ) from error
    return model


def _from_pretrained(transformers: Any, path: Path, config: Any, local: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    load: dict[str, Any] = {"config": config, "use_safetensors": True, "dtype": torch.float32, **local}
    loader = transformers.AutoModelForCausalLM
    try:
        found = loader.from_pretrained(str(path), output_loading_info=True, attn_implementation="sdpa", **load)
    except ValueError:  # an architecture without fused attention
        found = loader.from_pretrained(str(path), output_loading_info=True, attn_implementation="eager", **load)
    return found[0], dict(found[1])


def _find_layers(body: Any, count: int, name: str) -> list[nn.Module]:
    for module in body.modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return list(module)
    raise ArtefactError(f"{name}: its {count} repeated layers were not found; this architecture is not supported.")


def _windows(config: Any, name: str) -> dict[str, int | None]:
    """For each kind of layer, how many tokens back it sees; None for all."""
    window = getattr(config, "sliding_window", None)
    types = getattr(config, "layer_types", None)
    if not types:
        return {"full_attention": window}
    if other := sorted(set(types) - set(LAYER_TYPES)):
        raise ArtefactError(f"{name}: its layers of type {other[0]} are not supported; expected attention layers.")
    kinds = {"full_attention": None, "sliding_attention": window}
    return kinds if "sliding_attention" in types else {"full_attention": None}


def _refuse_what_depends_on_neighbours(config: Any, name: str) -> None:
    """What the few tokens of :meth:`Foreign.prove` cannot show, since it takes long texts."""
    rope = getattr(config, "rope_parameters", None) or {}
    for one in (rope, *(part for part in rope.values() if isinstance(part, dict))):
        if (kind := one.get("rope_type")) in ("dynamic", "longrope"):
            raise ArtefactError(
                f"{name}: its rotary positions ({kind}) depend on the longest text of a batch; expected fixed ones."
            )
    if "local" in str(getattr(config, "attention_types", "")):
        raise ArtefactError(f"{name}: its local attention counts tokens in a batch, not in a text; not supported.")
