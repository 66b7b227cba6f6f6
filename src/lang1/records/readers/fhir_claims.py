"""Claims and what payers answered: Claim, ClaimResponse and ExplanationOfBenefit.

A denial is told by the zero-pay rule of ``x12_adjudication.py``: nothing paid, and a reason that refuses: an adjustment
code of a bucket, the adjudication category ``denialreason``, or all charges ``noncovered`` (CARIN Blue Button).
"""

from __future__ import annotations

import re
from typing import Any

from lang1.records.readers.fhir_settings import FhirSettings
from lang1.records.readers.fhir_sql import drop_copies, listed, resolve
from lang1.records.readers.fhir_values import Concept, Node
from lang1.records.readers.staging import Staging
from lang1.records.readers.x12_adjudication import DenialReasons, load_reasons

Row = dict[str, Any]
_REASON_SYSTEM = re.compile(r"x12|carc|adjustment-?reason", re.IGNORECASE)
_REASON = re.compile(r"(?:(CO|PR|OA|PI|CR)[- ]?)?([A-Z]{0,2}\d{1,3})", re.IGNORECASE)
_GROUPS = ("co", "pr", "oa", "pi", "cr")
_DENIALS = ("denialreason", "denied", "denial")
_PAYMENTS = ("benefit", "paidtoprovider", "paidtopatient", "payment")
NO_CLAIMS = (
    "the export has no Claim, ClaimResponse or ExplanationOfBenefit of its encounters; export them too, or add claims "
    "from X12 files with `lang1 ingest x12`"
)


def claim(node: Node) -> Row:
    """A Claim as it was submitted."""
    insurances = [(one.yes("focal"), one.count("sequence"), one) for one in node.nodes("insurance")]
    focal = next((one for one in insurances if one[0]), insurances[0] if insurances else None)
    charge = node.node("total").number("value")
    if charge is None:
        parts = [amount for item in node.nodes("item") if (amount := item.node("net").number("value")) is not None]
        charge = sum(parts) if parts else None
    period = node.node("billablePeriod")
    return {
        "status": node.text("status"),
        "use": _code(node, "use"),
        "type": next(iter(node.concept("type").codes()), None),
        "patient": node.reference("patient", "Patient", node),
        "encounter": _encounter(node),
        "created": node.text("created"),
        "charge": charge,
        "payer": node.node("insurer").text("display") or (focal[2].node("coverage").text("display") if focal else None),
        "organization": node.reference("insurer", "Organization", node),
        "coverage": focal[2].reference("coverage", "Coverage", node) if focal else None,
        "place": focal[1] if focal else None,
        "prior": _prior(node),
        "period_starts": period.text("start"),
        "period_ends": period.text("end"),
    }


def response(node: Node, kind: str) -> Row:
    """A ClaimResponse or ExplanationOfBenefit: what one payer decided at one time."""
    judged = node.nodes("adjudication")
    for item in [*node.nodes("item"), *node.nodes("addItem")]:
        judged += item.nodes("adjudication")
    by_category: dict[str, float] = {}
    codes: dict[str, None] = {}
    denied = False
    for one in judged:
        category = one.concept("category")
        amount = one.node("amount").number("value")
        for code in category.codes()[:1]:
            by_category[code] = by_category.get(code, 0.0) + (amount or 0.0)
        denied = denied or any(code in _DENIALS for code in category.codes())
        codes.update(dict.fromkeys(_reasons(one.concept("reason"), category)))
    for error in node.nodes("error"):
        codes.update(dict.fromkeys(_reasons(error.concept("code"), Concept((), None))))
    totals = {
        code: amount
        for one in node.nodes("total")
        for code in one.concept("category").codes()[:1]
        if (amount := one.node("amount").number("value")) is not None
    }
    charge = totals.get("submitted", by_category.get("submitted"))
    paid = node.node("payment").node("amount").number("value")
    for said in (totals, by_category):
        if paid is None:
            paid = next((said[code] for code in _PAYMENTS if code in said), None)
    refused = totals.get("noncovered", by_category.get("noncovered", 0.0))
    focal = [one.yes("focal") for one in node.nodes("insurance")]
    period = node.node("billablePeriod")
    return {
        "source": kind,
        "claim": node.reference("claim" if kind == "ExplanationOfBenefit" else "request", "Claim", node),
        "status": node.text("status"),
        "use": _code(node, "use"),
        "type": next(iter(node.concept("type").codes()), None),
        "outcome": (node.text("outcome") or "").lower() or None,
        "patient": node.reference("patient", "Patient", node),
        "encounter": _encounter(node),
        "created": node.text("created") or node.node("payment").text("date"),
        "charge": charge,
        "paid": paid,
        "codes": list(codes),
        "denied": denied or bool(charge and refused >= charge) or "denied" in node.concept("decision").codes(),
        "payer": node.node("insurer").text("display"),
        "organization": node.reference("insurer", "Organization", node),
        "place": node.count("precedence") or (focal.index(True) + 1 if True in focal else None),
        "prior": _prior(node),
        "period_starts": period.text("start"),
        "period_ends": period.text("end"),
    }


def _code(node: Node, key: str) -> str | None:
    return next(iter(node.concept(key).codes()), None) if node.holds(key) else (node.text(key) or "").lower() or None


def _encounter(node: Node) -> str | None:
    """The encounter of the claim, or of the first item that names one."""
    for holder in (node, *node.nodes("item")):
        if found := holder.reference("encounter", "Encounter", node):
            return found
    return None


def _prior(node: Node) -> str | None:
    """The earlier claim for the same services that this one replaces or corrects (relationship ``prior``)."""
    for one in node.nodes("related"):
        if "prior" in one.concept("relationship").codes():
            return one.reference("claim", "Claim", node)
    return None


def _reasons(reason: Concept, category: Concept) -> list[str]:
    """``GROUP-NUMBER`` of a reason's adjustment codes; the group is empty where none is named."""
    named = [code for code in [*category.codes(), *reason.codes()] if code in _GROUPS]
    found = []
    for coding in reason.codings:
        match = _REASON.fullmatch(coding.code.strip())
        if match and (coding.system is None or _REASON_SYSTEM.search(coding.system)):
            group = (match[1] or (named[0] if named else "")).upper()
            found.append(f"{group}-{match[2].upper().lstrip('0')}")
    return found


def put_claims(stage: Staging, settings: FhirSettings) -> None:
    """Claims with their answers; see the module."""
    # A ClaimResponse and an ExplanationOfBenefit may have the same id.
    for relation, key in (("claims_read", "id"), ("responses", "source, id")):
        drop_copies(stage, relation, by=key)
        resolve(stage, relation, "patient", "Patient")
        resolve(stage, relation, "encounter", "Encounter")
        resolve(stage, relation, "organization", "Organization")
        for status in ("cancelled", "entered-in-error", "draft"):
            stage.set_aside(relation, f"lower(status) = '{status}'", f"status {status}")
        stage.set_aside(relation, "use <> 'claim'", "a predetermination or preauthorization")
    resolve(stage, "responses", "claim", "Claim")
    resolve(stage, "claims_read", "coverage", "Coverage")
    stage.connection.execute("UPDATE responses SET claim = source || '/' || id WHERE claim IS NULL")
    _join_resubmissions(stage)
    reasons = load_reasons()
    _all_claims(stage, settings)
    _decisions(stage, reasons)
    _outcomes(stage, settings)
    stage.put(
        "claims",
        """
        SELECT c.claim AS claim_id, c.encounter_id, c.patient_id, c.payer, c.coverage_order,
            c.submitted AS submitted_time, o.first_remit AS first_remit_time, o.settled_on AS final_time,
            coalesce(o.final_status, 'pending') AS final_status, coalesce(o.codes, []) AS adjustment_codes,
            coalesce(c.charge, o.charge) AS charge, o.paid AS paid, c._file, c._row,
            CASE WHEN c.unreadable THEN 'created is not a time' END AS _bad
        FROM all_claims c LEFT JOIN outcomes o USING (claim) ORDER BY c._file, c._row""",
    )


def _join_resubmissions(stage: Staging) -> None:
    """Answers to a claim that was sent again are answers to the first: a denial that the second overturned was one.

    Only along a chain of ``prior`` claims of one encounter and payer order: a bill of another stay, or to the next
    payer, stays a claim of its own.
    """
    for relation in ("claims_read", "responses"):
        resolve(stage, relation, "prior", "Claim")
    stage.connection.execute("""
        CREATE TABLE resubmissions AS
        WITH RECURSIVE said AS (
            SELECT id AS claim, prior, encounter, place, _file, _row FROM claims_read
            UNION ALL SELECT claim, prior, encounter, place, _file, _row FROM responses
        ),
        known AS (
            SELECT claim, arg_min(prior, (_file, _row)) AS prior, arg_min(encounter, (_file, _row)) AS encounter,
                arg_min(place, (_file, _row)) AS place FROM said GROUP BY claim
        ),
        links AS (
            SELECT k.claim, p.claim AS prior FROM known k JOIN known p ON p.claim = k.prior
            WHERE k.claim <> p.claim AND coalesce(k.encounter = p.encounter, true)
                AND coalesce(k.place = p.place, true)
        ),
        up AS (
            SELECT claim, prior AS first, 1 AS steps FROM links
            UNION ALL
            SELECT u.claim, l.prior, u.steps + 1 FROM up u JOIN links l ON l.claim = u.first WHERE u.steps < 20
        )
        -- Claims that name each other have no first, and stay as they are.
        SELECT claim, arg_max(first, steps) AS first FROM up GROUP BY claim HAVING max(steps) < 20;
        UPDATE responses SET claim = r.first FROM resubmissions r WHERE r.claim = responses.claim""")
    stage.set_aside(
        "claims_read",
        "id IN (SELECT claim FROM resubmissions)",
        "an earlier claim sent again (its answers are the first's)",
    )
    lost = stage.ask("SELECT count(*) FROM claims_read WHERE prior IS NOT NULL")[0][0]
    if lost:
        stage.draft.counts["claims that name an earlier one that is not there, or of another stay or payer"] = lost


def _all_claims(stage: Staging, settings: FhirSettings) -> None:
    """``all_claims``: one row a claim with its encounter; claims known from their answers alone included."""
    stage.connection.execute("""
        CREATE TABLE all_claims AS
        WITH known AS (
            SELECT id AS claim, type, patient, encounter, created, charge, payer, organization, coverage, place,
                period_starts, period_ends, _file, _row FROM claims_read
            UNION ALL BY NAME
            SELECT claim, type, patient, encounter, NULL AS created, charge, payer, organization, NULL AS coverage,
                place, period_starts, period_ends, _file, _row FROM responses
            WHERE claim NOT IN (SELECT id FROM claims_read)
            QUALIFY row_number() OVER (PARTITION BY claim ORDER BY created NULLS LAST, _file, _row) = 1
        ),
        answered AS (
            SELECT claim, any_value(encounter) AS encounter, any_value(patient) AS patient,
                any_value(payer) AS payer FROM (SELECT * FROM responses ORDER BY _file, _row) GROUP BY claim
        )
        SELECT k.claim, lower(k.type) AS type, coalesce(k.patient, a.patient) AS patient_id,
            coalesce(k.encounter, a.encounter) AS encounter, m.encounter_id,
            coalesce(k.payer, o.name, a.payer, c.payer, k.organization) AS payer,
            coalesce(k.place, c.place, 1)::INTEGER AS coverage_order, moment(k.created, false) AS submitted,
            k.created IS NOT NULL AND moment(k.created, false) IS NULL AS unreadable, k.charge,
            moment(k.period_starts, false) AS starts, moment(k.period_ends, true) AS ends, k._file, k._row
        FROM known k LEFT JOIN answered a USING (claim) LEFT JOIN organizations o ON o.id = k.organization
            LEFT JOIN coverages c ON c.id = k.coverage
            LEFT JOIN encounter_map m ON m.id = coalesce(k.encounter, a.encounter)""")
    if settings.claims_without_encounter == "by_period":
        stage.connection.execute("""
            UPDATE all_claims SET encounter_id = found.encounter_id FROM (
                SELECT c.claim, min(e.encounter_id) AS encounter_id
                FROM all_claims c JOIN encounters e ON e.patient_id = c.patient_id AND e.encounter_class = 'inpatient'
                    AND e.admit_time::DATE <= coalesce(c.ends, c.starts)::DATE
                    AND coalesce(e.discharge_time::DATE >= c.starts::DATE, true)
                WHERE c.encounter IS NULL GROUP BY c.claim HAVING count(*) = 1) found
            WHERE found.claim = all_claims.claim""")
    types = listed(one.lower() for one in settings.claim_types)
    stage.set_aside("all_claims", f"type NOT IN ({types})", "a type that does not count (claim_types)")
    stage.set_aside("all_claims", "encounter_id IS NULL AND encounter IS NULL", "names no encounter")
    stage.set_aside("all_claims", "encounter_id IS NULL", "names an encounter that was not taken")
    stage.set_aside(
        "all_claims",
        "type <> 'institutional' AND encounter_id IN "
        "(SELECT encounter_id FROM all_claims WHERE coalesce(type, 'institutional') = 'institutional')",
        "of another type, where the encounter has an institutional one",
    )
    # A patient in the claim and another in the encounter is an error, told by the rules; none is taken as the same.
    stage.connection.execute(
        "UPDATE all_claims SET patient_id = e.patient_id FROM encounters e "
        "WHERE e.encounter_id = all_claims.encounter_id AND all_claims.patient_id IS NULL"
    )


def _decisions(stage: Staging, reasons: DenialReasons) -> None:
    """``decisions``: each answer with what it amounts to. A group that is not named follows from the shipped lists."""
    shares = {code.split("-")[1]: code.split("-")[0] for code in [*reasons.not_a_decision, *reasons.settled]}
    groups = " ".join(f"WHEN '-{number}' THEN '{group}-{number}'" for number, group in shares.items())
    stage.connection.execute(f"""
        CREATE TABLE decisions AS
        WITH coded AS (
            SELECT * EXCLUDE (codes), list_sort(list_distinct(list_transform(codes,
                lambda c: CASE c {groups} ELSE CASE WHEN c LIKE '-%' THEN 'CO' || c ELSE c END END))) AS codes,
                moment(created, false) AS decided_on
            FROM responses
        ),
        -- An answer is often exported twice, as ClaimResponse and as ExplanationOfBenefit.
        single AS (
            SELECT * FROM coded r WHERE NOT (r.source = 'ClaimResponse' AND EXISTS (
                SELECT 1 FROM coded e WHERE e.source = 'ExplanationOfBenefit' AND e.claim = r.claim
                AND e.decided_on::DATE = r.decided_on::DATE))
        ),
        parted AS (
            SELECT s.*, coalesce(s.charge, c.charge) AS billed,
                list_filter(s.codes, lambda c: c NOT IN ({listed(reasons.settled)})) AS refusing,
                list_filter(s.codes, lambda c: c NOT IN ({listed([*reasons.settled, *reasons.not_a_decision])}))
                    AS deciding
            FROM single s LEFT JOIN all_claims c USING (claim)
        )
        SELECT *, CASE
            WHEN outcome = 'queued' THEN 'in process'
            WHEN paid > 0 THEN 'paid'
            WHEN billed <= 0 THEN 'zero charge'
            WHEN list_has_any(list_transform(codes, lambda c: split_part(c, '-', 2)),
                [{listed(reasons.other_payer)}]) THEN 'another payer first'
            WHEN len(codes) > 0 AND len(refusing) = 0 THEN 'settled without payment'
            WHEN len(refusing) > 0 AND len(deciding) = 0 THEN 'duplicate'
            WHEN denied OR list_has_any(list_transform(deciding, lambda c: split_part(c, '-', 2)),
                [{listed(reasons.numbers)}]) THEN 'denied'
            WHEN paid IS NULL THEN 'no amount paid'
            ELSE 'no listed reason' END AS class
        FROM parted""")
    told = stage.ask("SELECT class, count(*) FROM decisions GROUP BY 1 ORDER BY 1")
    if told:
        stage.draft.counts["answers of payers by what they amount to"] = dict(told)
    undated = stage.ask("SELECT count(*) FROM decisions WHERE decided_on IS NULL")[0][0]
    if undated:
        stage.draft.counts["answers of payers without a time"] = undated


def _outcomes(stage: Staging, settings: FhirSettings) -> None:
    """``outcomes``: the first decision of each claim and what the later ones made of it; each states the whole anew."""
    complete = (settings.complete_through or {}).get("claims")
    through = f"TIMESTAMP '{complete.through}'" if complete else "NULL::TIMESTAMP"
    stage.connection.execute(f"""
        CREATE TABLE outcomes AS
        WITH in_order AS (
            SELECT *, row_number() OVER (PARTITION BY claim ORDER BY decided_on NULLS LAST, _file, _row) AS nth,
                class NOT IN ('another payer first', 'duplicate') AS decides
            FROM decisions WHERE class <> 'in process'
        ),
        told AS (
            SELECT claim, arg_min(class, nth) FILTER (decides) AS first_class,
                arg_max(class, nth) FILTER (decides) AS last_class,
                min(decided_on) AS first_remit, max(decided_on) AS last_remit,
                arg_min(decided_on, nth) FILTER (class = 'paid') AS paid_on,
                coalesce(arg_min(codes, nth) FILTER (decides), arg_min(codes, nth)) AS codes,
                arg_max(paid, nth) AS paid, max(billed) AS charge
            FROM in_order GROUP BY claim
        )
        SELECT claim, first_remit, codes, paid, charge,
            CASE
                WHEN first_class IN ('paid', 'settled without payment') AND last_class = 'denied' THEN 'other'
                WHEN first_class IN ('paid', 'settled without payment') THEN 'paid'
                WHEN coalesce(first_class <> 'denied', true) THEN 'other'
                WHEN paid_on IS NOT NULL AND last_class <> 'denied' THEN 'denied_overturned'
                WHEN last_remit + INTERVAL {settings.appeal_days} DAY <= {through} THEN 'denied_upheld'
                ELSE 'pending' END AS final_status,
            CASE final_status WHEN 'paid' THEN first_remit WHEN 'denied_overturned' THEN paid_on
                WHEN 'denied_upheld' THEN last_remit END AS settled_on
        FROM told""")
