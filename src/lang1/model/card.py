"""The model card that travels with an exported model."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lang1.model.decoder import Decoder


def model_card(model: Decoder, manifest: Mapping[str, Any]) -> str:
    """A ``README.md`` with a Hugging Face header, from what the model's manifest states and nothing else."""
    extra = manifest.get("extra", {})
    tasks = extra.get("tasks") or []
    lines = [
        "---",
        "library_name: transformers",
        "pipeline_tag: text-generation",
        f"tags: [clinical, {model.architecture}, lang1]",
        "---",
        "",
        f"# {model.name}",
        "",
        f"A clinical language model of the {model.architecture} architecture, trained with lang1.",
        "",
        "| | |",
        "| --- | --- |",
        f"| parameters | {model.parameter_count:,} |",
        *(f"| {label} | {value} |" for label, value in model.facts().items()),
        f"| vocabulary | {model.vocab_size:,} |",
        f"| context | {model.context:,} tokens |",
    ]
    for key, label in (("stage", "stage"), ("tokens_seen", "training tokens")):
        if key in extra:
            value = f"{extra[key]:,}" if isinstance(extra[key], int) else str(extra[key])
            lines.append(f"| {label} | {value} |")
    if tasks:
        lines.append(f"| finetuned on | {', '.join(tasks)} |")
    for name, reference in sorted(manifest.get("inputs", {}).items()):
        lines.append(f"| {name} | {reference.get('kind')} {str(reference.get('fingerprint', ''))[:16]} |")
    if "lang1_version" in manifest:
        lines.append(f"| lang1 | {manifest['lang1_version']} |")
    lines += [
        "",
        "## Use",
        "",
        "```python",
        "from transformers import AutoModelForCausalLM, AutoTokenizer",
        "",
        'model = AutoModelForCausalLM.from_pretrained(".")',
        'tokenizer = AutoTokenizer.from_pretrained(".")',
        "```",
        "",
        "A question stands after the note: `Question: …`, one lettered option a line, `Answer:`. The probability of an",
        "option is the softmax over the next-token logits of the option letters alone. Nothing is put before the note.",
        "",
        "## Limits",
        "",
        "For research on hospital operations. Not a medical device: no decision on a person may rest on it alone. It",
        "was trained on the notes of the system named in its manifest and may fail elsewhere; evaluate it on your own",
        "held-out encounters first. Weights can remember training text: treat them with the same care as the notes.",
        "",
    ]
    return "\n".join(lines)
