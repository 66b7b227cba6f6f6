"""One resource of a bulk export as rows of the staging database, in the words of the source or ours.

Times stay as they are written (``fhir_sql.py`` types them), references become ids, codes become our words. A relation
per kind of row is in :data:`RELATIONS`; each also has ``_file`` and ``_row``, the line.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from lang1.records.readers import fhir_codes as codes
from lang1.records.readers import fhir_documents as documents
from lang1.records.readers.fhir_claims import claim, response
from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_values import Node, Oddities, identifier_key, reference
from lang1.records.readers.staging import Staging
from lang1.records.schema import CODE_VERSIONS, PROCEDURE_VERSIONS

Row = dict[str, Any]
_INTEGERS = ("rank", "nth", "place", "preference")
_NUMBERS = ("charge", "paid")
_FLAGS = ("dead", "guessed", "denied", "institutional")
_LISTS = ("codes",)

RELATIONS: dict[str, str] = {
    "patients_read": "id updated born gender race ethnicity area died dead",
    "encounters_read": "id updated status class patient starts ends part_of admission_type admission_source "
    "disposition department organization organization_name",
    "cited": "encounter condition rank nth role poa",
    "encounter_locations": "encounter location name starts ends status",
    "locations": "id name part_of physical unit_type",
    "organizations": "id name part_of kind",
    "conditions": "id updated patient encounter category verification code version poa",
    "procedures_read": "id updated status patient encounter code version starts",
    "documents": "id source updated status doc_status patient encounter kind created dated attested amends relation "
    "text guessed lack",
    "attachments": "nth preference text guessed binary lack",
    "binaries": "id text guessed lack",
    "coverages": "id status patient payer organization place starts ends",
    "claims_read": "id status use type patient encounter created charge payer organization coverage place "
    "prior period_starts period_ends",
    "responses": "id source claim status use type outcome patient encounter created charge paid codes denied payer "
    "organization place prior period_starts period_ends",
    "identifiers": "type key id",
}
WANTED = (
    "Patient", "Encounter", "Location", "Organization", "Condition", "Procedure", "DocumentReference", "Composition",
    "DiagnosticReport", "Binary", "Coverage", "Claim", "ClaimResponse", "ExplanationOfBenefit",
)  # fmt: skip
IDENTIFIED = ("Patient", "Encounter", "Location", "Organization", "Condition", "Claim", "Coverage", "DocumentReference")
_NO_CODE: list[tuple[str | None, str | None]] = [(None, None)]
# A batch of notes is some tens of megabytes.
BATCH_ROWS = 20_000
BATCH_CHARACTERS = 16_000_000


def schema(relation: str) -> pa.Schema:
    """The Arrow schema of a relation."""

    def kind(column: str) -> pa.DataType:
        if column in _INTEGERS:
            return pa.int32()
        if column in _NUMBERS:
            return pa.float64()
        return pa.bool_() if column in _FLAGS else pa.list_(pa.string()) if column in _LISTS else pa.string()

    fields = [(column, kind(column)) for column in RELATIONS[relation].split()]
    return pa.schema([*fields, ("_file", pa.string()), ("_row", pa.int64())])


class Reader:
    """Turns resources into rows and loads them batch by batch."""

    def __init__(self, stage: Staging, settings: FhirSettings, root: Path) -> None:
        self.stage, self.settings, self.root = stage, settings, root
        self.odd, self.meanings = Oddities(), codes.Meanings()
        self.waiting: dict[str, list[Row]] = {name: [] for name in RELATIONS}
        self.rows = self.characters = 0

    def take(self, kind: str, file: str, line: int, resource: dict[str, Any]) -> None:
        """Add the rows of one resource."""
        self.odd.place = f"{file} line {line}"
        node = Node(resource, kind, self.odd)
        if node.text("id") is None:
            self.stage.leave_out(f"{kind}: no id", 1, self.odd.place)
            return
        if kind in IDENTIFIED:
            for one in node.nodes("identifier"):
                if value := one.text("value"):
                    key = identifier_key(one.text("system"), value)
                    self._add("identifiers", {"type": kind, "key": key, "id": node.text("id")}, file, line)
        for relation, row in self._rows(kind, node):
            self._add(relation, row, file, line)

    def load(self) -> None:
        """Load what is waiting."""
        for relation, rows in self.waiting.items():
            its = schema(relation)
            batches = [pa.RecordBatch.from_pylist(rows, schema=its)] if rows else []
            self.stage.load(relation, its, batches)
            rows.clear()
        self.rows = self.characters = 0

    def _add(self, relation: str, row: Row, file: str, line: int) -> None:
        self.waiting[relation].append(row | {"_file": file, "_row": line})
        self.rows += 1
        self.characters += len(row.get("text") or "")
        if self.rows >= BATCH_ROWS or self.characters >= BATCH_CHARACTERS:
            self.load()

    def _rows(self, kind: str, node: Node) -> Iterator[tuple[str, Row]]:
        common = {"id": node.text("id"), "updated": node.node("meta").text("lastUpdated")}
        match kind:
            case "Patient":
                yield "patients_read", common | _patient(node)
            case "Encounter":
                yield from self._encounter(node, common)
            case "Location":
                yield "locations", common_id(common) | self._location(node)
            case "Organization":
                row = {"name": node.text("name"), "part_of": node.reference("partOf", "Organization", node)}
                kinds = [code for concept in node.nodes("type") for code in _codes(concept)]
                yield "organizations", common_id(common) | row | {"kind": " ".join(kinds)}
            case "Condition":
                yield from self._condition(node, common)
            case "Procedure":
                yield from self._procedure(node, common)
            case "Coverage":
                yield "coverages", common_id(common) | _coverage(node)
            case "Claim":
                yield "claims_read", common_id(common) | claim(node)
            case "ClaimResponse" | "ExplanationOfBenefit":
                yield "responses", common_id(common) | response(node, kind)
            case "Binary":
                yield "binaries", common_id(common) | documents.binary(node)
            case _:
                yield from documents.document(node, kind, common, self.settings, self.meanings, self.root)

    def _encounter(self, node: Node, common: Row) -> Iterator[tuple[str, Row]]:
        own, find = self.settings, self.meanings.of
        its_class = node.concept("class")
        stay = node.node("hospitalization") or node.node("admission")
        period = node.node("period") or node.node("actualPeriod")
        where, source = stay.concept("dischargeDisposition"), stay.concept("admitSource")
        priority = node.concept("priority")
        service = node.concept("serviceType")
        born = codes.BORN in source.codes()
        yield (
            "encounters_read",
            common
            | {
                "status": (node.text("status") or "").lower(),
                "class": find("Encounter.class", its_class, own.classes, codes.CLASSES, codes.CLASS_WORDS, "outpatient")
                or "outpatient",
                "patient": node.reference("subject", "Patient", node) or node.reference("patient", "Patient", node),
                "starts": period.text("start"),
                "ends": period.text("end"),
                "part_of": node.reference("partOf", "Encounter", node),
                "admission_type": "newborn"
                if born
                else find(
                    "Encounter.priority",
                    priority,
                    own.admission_types,
                    codes.admission_codes(priority),
                    codes.ADMISSION_WORDS,
                    "other",
                ),
                "admission_source": source.words(),
                "disposition": find(
                    "Encounter.dischargeDisposition",
                    where,
                    own.dispositions,
                    codes.disposition_codes(where),
                    codes.DISPOSITION_WORDS,
                    "unknown",
                ),
                "department": service.words(),
                "organization": node.reference("serviceProvider", "Organization", node),
                "organization_name": node.node("serviceProvider").text("display"),
            },
        )
        if not its_class:
            self.meanings.count("Encounter.class", its_class, "outpatient")
        for nth, one in enumerate(node.nodes("diagnosis"), start=1):
            for cited in one.nodes("condition"):
                role = one.concept("use") or one.concept("role")
                row = {"encounter": common["id"], "rank": one.count("rank"), "nth": nth, "poa": _present(one)}
                found = reference(cited, "Condition", node)
                if found:
                    yield "cited", row | {"condition": found, "role": next(iter(role.codes()), role.text)}
        for one in node.nodes("location"):
            time = one.node("period")
            yield (
                "encounter_locations",
                {
                    "encounter": common["id"],
                    "location": one.reference("location", "Location", node),
                    "name": one.node("location").text("display"),
                    "starts": time.text("start"),
                    "ends": time.text("end"),
                    "status": one.text("status"),
                },
            )

    def _location(self, node: Node) -> Row:
        kinds = [concept for one in node.nodes("type") for concept in [*_codes(one), (one.text("text") or "").lower()]]
        known = codes.UNIT_KINDS | self.settings.unit_types
        return {
            "name": node.text("name") or node.text("description"),
            "part_of": node.reference("partOf", "Location", node),
            "physical": next(iter(node.concept("physicalType").codes() or node.concept("form").codes()), None),
            "unit_type": next((known[kind] for kind in kinds if kind in known), None),
        }

    def _condition(self, node: Node, common: Row) -> Iterator[tuple[str, Row]]:
        concept = node.concept("code")
        row = common | {
            "patient": node.reference("subject", "Patient", node) or node.reference("patient", "Patient", node),
            "encounter": node.reference("encounter", "Encounter", node) or node.reference("context", "Encounter", node),
            "category": " ".join(node.concept("category").codes()),
            "verification": next(iter(node.concept("verificationStatus").codes()), None),
            "poa": _present(node),
        }
        found: Sequence[tuple[str | None, str | None]] = codes.coded(
            concept, codes.DIAGNOSIS_SYSTEMS, self.settings.code_systems, CODE_VERSIONS
        )
        if not found:
            self.meanings.count_systems(concept)
        for code, version in found or _NO_CODE:
            yield "conditions", row | {"code": code, "version": version}

    def _procedure(self, node: Node, common: Row) -> Iterator[tuple[str, Row]]:
        concept = node.concept("code")
        found: Sequence[tuple[str | None, str | None]] = codes.coded(
            concept, codes.PROCEDURE_SYSTEMS, self.settings.code_systems, PROCEDURE_VERSIONS
        )
        if not found:
            found = [(coding.code, "other") for coding in concept.codings if coding.code][:1]
        time = node.node("performedPeriod") or node.node("occurrencePeriod")
        row = common | {
            "status": (node.text("status") or "").lower(),
            "patient": node.reference("subject", "Patient", node),
            "encounter": node.reference("encounter", "Encounter", node) or node.reference("context", "Encounter", node),
            "starts": node.first("performedDateTime", "occurrenceDateTime") or time.text("start"),
        }
        for code, version in found or _NO_CODE:
            yield "procedures_read", row | {"code": code, "version": version}


def common_id(common: Row) -> Row:
    """The id alone, for kinds of which the latest copy does not matter."""
    return {"id": common["id"]}


def _codes(node: Node) -> list[str]:
    return [code.lower() for coding in node.nodes("coding") if (code := coding.text("code"))]


def _patient(node: Node) -> Row:
    address = next(iter(node.nodes("address")), None)
    extensions = {(one.text("url") or "").rsplit("/", 1)[-1]: one for one in node.nodes("extension")}
    return {
        "born": node.text("birthDate"),
        "gender": (node.text("gender") or "").lower() or None,
        "race": _category(extensions.get("us-core-race"), codes.RACE),
        "ethnicity": _category(extensions.get("us-core-ethnicity"), codes.ETHNICITY),
        "area": address.first("district", "city", "state") if address is not None else None,
        "died": node.text("deceasedDateTime"),
        "dead": node.yes("deceasedBoolean"),
    }


def _category(extension: Node | None, words: dict[str, str]) -> str | None:
    """A US Core race or ethnicity; several races are Other, unknown and refused ones none."""
    if extension is None:
        return None
    found, text = [], None
    for one in extension.nodes("extension"):
        if one.text("url") == "ombCategory" and (code := one.node("valueCoding").text("code")) in words:
            found.append(words[str(code)])
        elif one.text("url") == "text":
            text = one.text("valueString")
    if len(set(found)) > 1:
        return "Other"
    unknown = (text or "").lower() in ("", "unknown", "asked but no answer", "asked but unknown", "declined")
    return found[0] if found else None if unknown else text


def _present(node: Node) -> str | None:
    """The mark Y, N, U or W of a present-on-admission extension."""
    for extension in node.nodes("extension"):
        url = (extension.text("url") or "").lower().replace("-", "")
        if "presentonadmission" in url:
            concept = extension.concept("valueCodeableConcept") or extension.concept("valueCoding")
            code = next(iter(concept.codes()), extension.text("valueCode") or "")
            yes = extension.yes("valueBoolean")
            if yes is not None:
                return "Y" if yes else "N"
            return code.upper() if code.upper() in ("Y", "N", "U", "W") else None
    return None


def _coverage(node: Node) -> Row:
    payer = node.node("payor") or node.node("insurer")
    plans = [one.text("name") for one in node.nodes("class")]
    return {
        "status": node.text("status"),
        "patient": node.reference("beneficiary", "Patient", node),
        "payer": payer.text("display") or next((plan for plan in plans if plan), None) or node.concept("type").words(),
        "organization": reference(payer, "Organization", node),
        "place": node.count("order"),
        "starts": node.node("period").text("start"),
        "ends": node.node("period").text("end"),
    }
