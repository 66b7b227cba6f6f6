"""Readers, one a source format: each takes an extract into a records folder."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A source format that is read as it is: where its reader lives, and what the command line says of it."""

    module: str  # in this package
    settings: str  # the class of its settings
    function: str  # (source, out, settings) -> out
    summary: str
    example: str


# In the order in which the command line lists them. Imported only when asked for.
FORMATS: dict[str, Format] = {
    "mimic-iv": Format(
        "mimic_iv",
        "MimicIVSettings",
        "ingest_mimic_iv",
        "MIMIC-IV: the hosp, icu, note and ed modules, as PhysioNet gives them.",
        "lang1 ingest mimic-iv ./physionet ./records",
    ),
    "mimic-iii": Format(
        "mimic_iii",
        "MimicIIISettings",
        "ingest_mimic_iii",
        "MIMIC-III 1.4, as PhysioNet gives it.",
        "lang1 ingest mimic-iii ./mimiciii ./records",
    ),
    "omop": Format(
        "omop",
        "OmopSettings",
        "ingest_omop",
        "OMOP CDM 5.3 or 5.4: a folder of CSV or Parquet, or a DuckDB file.",
        "lang1 ingest omop ./cdm ./records 'complete_through.encounters={through: 2024-12-31, key: admit_time}'",
    ),
    "fhir": Format(
        "fhir",
        "FhirSettings",
        "ingest_fhir",
        "A FHIR R4 bulk export (NDJSON).",
        "lang1 ingest fhir ./export ./records time_zone=America/New_York",
    ),
    "meds": Format(
        "meds",
        "MedsSettings",
        "ingest_meds",
        "A MEDS 0.4 dataset.",
        "lang1 ingest meds ./meds ./records",
    ),
    "eicu": Format(
        "eicu",
        "EicuSettings",
        "ingest_eicu",
        "The eICU Collaborative Research Database.",
        "lang1 ingest eicu ./eicu ./records",
    ),
    "x12": Format(
        "x12",
        "X12Settings",
        "ingest_x12",
        "X12 837 claims and 835 remittances, joined to the encounters of a records folder.",
        "lang1 ingest x12 ./remits ./records-with-claims records=./records key=CLM01",
    ),
}
