"""Documents of a bulk export as rows: DocumentReference, Composition, DiagnosticReport and Binary."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote

from lang1.records.readers import fhir_codes as codes
from lang1.records.readers import fhir_text as texts
from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_values import Concept, Node, reference

Row = dict[str, Any]
LARGEST_FILE_BYTES = 64 * 2**20


def document(
    node: Node, kind: str, common: Row, settings: FhirSettings, meanings: codes.Meanings, root: Path
) -> Iterator[tuple[str, Row]]:
    """A document and its attachments."""
    if kind == "DocumentReference":
        yield from _reference(node, common, settings, meanings, root)
    elif kind == "Composition":
        yield "documents", _composition(node, common, settings, meanings)
    elif settings.diagnostic_reports != "none" and (forms := node.nodes("presentedForm")):
        yield "documents", _report(node, common, settings)
        yield from _attachments(forms, root, node)


def binary(node: Node) -> Row:
    """The text of a Binary, or why it has none."""
    data = node.raw("data") or node.raw("content")  # STU3
    if data is None:
        return {"text": None, "guessed": False, "lack": "a Binary without data"}
    return _row(texts.inline(data, node.text("contentType")))


def _row(found: texts.Text) -> Row:
    return {"text": found.text, "guessed": found.guessed, "lack": found.lack}


def _reference(
    node: Node, common: Row, settings: FhirSettings, meanings: codes.Meanings, root: Path
) -> Iterator[tuple[str, Row]]:
    context = node.node("context")
    # R5 has the encounter itself as the context.
    encounter = context.reference("encounter", "Encounter", node) or reference(context, "Encounter", node)
    period = context.node("period") or node.node("period")
    attached = [one.node("attachment") for one in node.nodes("content")]
    created = next((time for one in attached if (time := one.text("creation"))), None)
    amends, relation = _amends(node, "DocumentReference")
    yield (
        "documents",
        common
        | {
            "source": "DocumentReference",
            "status": (node.text("status") or "").lower(),
            "doc_status": (node.text("docStatus") or "").lower() or None,
            "patient": node.reference("subject", "Patient", node),
            "encounter": encounter,
            "kind": _note_type(node.concept("type"), settings, meanings),
            "created": period.text("start"),
            "dated": node.first("date", "indexed", "created") or created,
            "amends": amends,
            "relation": relation,
        },
    )
    yield from _attachments(attached, root, node)


def _composition(node: Node, common: Row, settings: FhirSettings, meanings: codes.Meanings) -> Row:
    amends, relation = _amends(node, "Composition")
    text = texts.composition_text(node)
    event = node.node("event").node("period")
    return common | {
        "source": "Composition",
        "status": (node.text("status") or "").lower(),
        "doc_status": (node.text("status") or "").lower() or None,
        "patient": node.reference("subject", "Patient", node),
        "encounter": node.reference("encounter", "Encounter", node),
        "kind": _note_type(node.concept("type"), settings, meanings),
        "created": event.text("start"),
        "dated": node.text("date"),
        "attested": max((time for one in node.nodes("attester") if (time := one.text("time"))), default=None),
        "amends": amends,
        "relation": relation,
        "text": text if text.strip() else None,
        "lack": None if text.strip() else "no text in any section",
    }


def _report(node: Node, common: Row, settings: FhirSettings) -> Row:
    return common | {
        "source": "DiagnosticReport",
        "status": (node.text("status") or "").lower(),
        "doc_status": (node.text("status") or "").lower() or None,
        "patient": node.reference("subject", "Patient", node),
        "encounter": node.reference("encounter", "Encounter", node) or node.reference("context", "Encounter", node),
        "kind": _report_type(node, settings),
        "created": node.text("effectiveDateTime") or node.node("effectivePeriod").text("start"),
        "dated": node.text("issued"),
    }


def _note_type(concept: Concept, settings: FhirSettings, meanings: codes.Meanings) -> str:
    words = settings.note_titles | codes.NOTE_TITLES
    found = meanings.of("document type", concept, settings.note_types, codes.NOTE_LOINC, words, "other")
    return found or "other"


def _report_type(node: Node, settings: FhirSettings) -> str:
    """The type of note that a report is, by its code, else by its category; ``other`` for results."""
    found = codes.Meanings().of("", node.concept("code"), settings.note_types, codes.NOTE_LOINC, {}, None)
    return found or next(
        (codes.REPORT_CATEGORIES[code] for code in node.concept("category").codes() if code in codes.REPORT_CATEGORIES),
        "other",
    )


def _amends(node: Node, kind: str) -> tuple[str | None, str | None]:
    """The document that this one replaces or appends to, and which of the two."""
    for code in ("replaces", "appends"):
        for one in node.nodes("relatesTo"):
            if (one.text("code") if not one.holds("code") else next(iter(one.concept("code").codes()), None)) == code:
                target = one.reference("target", kind, node) or one.reference("targetReference", kind, node)
                if target:
                    return target, code
    return None, None


def _attachments(attached: list[Node], root: Path, holder: Node) -> Iterator[tuple[str, Row]]:
    for nth, one in enumerate(attached, start=1):
        content_type = one.text("contentType")
        kind = texts.kind_of(content_type)
        row: Row = {"nth": nth, "preference": texts.PREFERENCE.index(kind) if kind else len(texts.PREFERENCE)}
        data, url = one.raw("data"), one.text("url")
        if data is not None:
            yield "attachments", row | _row(texts.inline(data, content_type))
        elif url is None:
            yield "attachments", row | {"lack": "an attachment without data and url"}
        elif url.startswith("#"):
            inner = next((n for n in holder.nodes("contained") if n.text("id") == url[1:]), None)
            lost = _row(texts.Text(None, "its contained Binary is not there"))
            yield "attachments", row | (binary(inner) if inner else lost)
        elif (found := _binary_id(url)) is not None:
            lack = None if kind else f"no text in {(content_type or '')[:60]}"
            yield "attachments", row | {"binary": found, "lack": lack}
        else:
            yield "attachments", row | _row(_local(url, content_type, root))


def _binary_id(url: str) -> str | None:
    if url.lower().startswith("urn:"):
        return url.rsplit(":", 1)[-1]
    parts = url.partition("/_history/")[0].partition("?")[0].rstrip("/").split("/")
    return parts[-1] if len(parts) > 1 and parts[-2] == "Binary" else None


def _local(url: str, content_type: str | None, root: Path) -> texts.Text:
    """A file of the export that an attachment names; never one outside the export's folder."""
    if "://" in url or url.startswith(("/", "\\")) or "\x00" in url:
        return texts.Text(None, "its text lies at an address outside the export")
    if texts.kind_of(content_type) is None:
        return texts.Text(None, f"no text in {(content_type or '')[:60]}")
    try:
        path = (root / unquote(url)).resolve()
        inside = path.is_relative_to(root.resolve()) and path.is_file()
        if not inside:
            return texts.Text(None, "its file is not in the export")
        if path.stat().st_size > LARGEST_FILE_BYTES:
            return texts.Text(None, f"its file is larger than {LARGEST_FILE_BYTES // 2**20} MB")
        return texts.decoded(path.read_bytes(), content_type)
    except (OSError, ValueError):
        return texts.Text(None, "its file cannot be read")
