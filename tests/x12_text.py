"""837 and 835 texts from short descriptions, for tests; invented parties, well-formed 5010 (or 4010) throughout."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

ISA = "ISA*00*          *00*          *ZZ*{sender:<15}*ZZ*{receiver:<15}*{day}*0600*{repeat}*{version}*000000001*0*T*:"


def dated(text: str) -> str:
    """2020-01-31 as 20200131."""
    return str(text).replace("-", "")


def interchange(sets: Sequence[Sequence[str]], *, code: str, guide: str, day: str) -> list[str]:
    """Transaction sets (without ST and SE) in one interchange and group."""
    kind = "837" if code == "HC" else "835"
    old = guide.startswith("004")
    header = ISA.format(
        sender="SENDER", receiver="RECEIVER", day=day[2:], repeat="U" if old else "^", version=guide[:5]
    )
    lines = [header, f"GS*{code}*SENDER*RECEIVER*{day}*0600*1*X*{guide}"]
    for number, body in enumerate(sets, 1):
        start = f"ST*{kind}*{number:04d}" + (f"*{guide}" if kind == "837" and not old else "")
        lines += [start, *body, f"SE*{len(body) + 2}*{number:04d}"]
    return [*lines, f"GE*{len(sets)}*1", "IEA*1*000000001"]


def joined(lines: Iterable[str], *, element: str = "*", component: str = ":", end: str = "~\n") -> str:
    """Segments as a file's text, with separators of one's choice."""
    table = str.maketrans({"*": element, ":": component})
    return "".join(line.translate(table) + end for line in lines)


def claims_837(claims: Sequence[dict[str, Any]], *, submitted: str = "2020-01-15", form: str = "I") -> list[str]:
    """One set; a claim has ``id`` and may have ``charge, order, payer, frequency, start, end, record, purpose``."""
    day = dated(submitted)
    purpose = claims[0].get("purpose", "CH") if claims else "CH"
    body = [
        f"BHT*0019*00*BATCH*{day}*0930*{purpose}",
        "NM1*41*2*ELM STREET HOSPITAL*****46*991234567",
        "PER*IC*BILLING OFFICE*TE*5550100001",
        "NM1*40*2*CLEARING HOUSE*****46*881234567",
        "HL*1**20*1",
        "NM1*85*2*ELM STREET HOSPITAL*****XX*1234567893",
        "N3*1 ELM STREET",
        "N4*SPRINGFIELD*IL*627010001",
        "REF*EI*991234567",
    ]
    for number, claim in enumerate(claims, 2):
        payer, charge = claim.get("payer", "FIRST MUTUAL"), claim.get("charge", 1000)
        start, end = dated(claim.get("start", "2020-01-01")), dated(claim.get("end", "2020-01-05"))
        frequency = claim.get("frequency", 1)
        body += [
            f"HL*{number}*1*22*0",
            f"SBR*{claim.get('order', 'P')}*18*******CI",
            "NM1*IL*1*AXIOM*ANNA****MI*MEMBER001",
            "N3*2 OAK AVENUE",
            "N4*SPRINGFIELD*IL*62702",
            "DMG*D8*19500101*F",
            f"NM1*PR*2*{payer}*****PI*{payer.replace(' ', '')[:10]}",
        ]
        record = [f"REF*EA*{claim['record']}"] if "record" in claim else []
        if form == "I":
            body += [
                f"CLM*{claim['id']}*{charge}***11:A:{frequency}**A*Y*Y",
                f"DTP*434*RD8*{start}-{end}",
                f"DTP*435*DT*{start}1000",
                "CL1*1*7*01",
                *record,
                "HI*ABK:J189",
                "HI*ABJ:J189",
                "NM1*71*1*BAKER*BRUNO****XX*1234567893",
                "LX*1",
                f"SV2*0120**{charge}*UN*4",
            ]
        else:
            body += [
                f"CLM*{claim['id']}*{charge}***21:B:{frequency}*Y*A*Y*Y",
                f"DTP*435*D8*{start}",
                *record,
                "HI*ABK:J189",
                "LX*1",
                f"SV1*HC:99223*{charge}*UN*1***1",
                f"DTP*472*D8*{start}",
            ]
    return interchange([body], code="HC", guide={"I": "005010X223A2", "P": "005010X222A1"}[form], day=day)


def remits_835(
    claims: Sequence[dict[str, Any]], *, day: str, payer: str = "FIRST MUTUAL", guide: str = "005010X221A1"
) -> list[str]:
    """One set; a claim has ``id, status, charge, paid``, and may have ``cas, lines`` (lists of CAS), ``record``."""
    date, paid = dated(day), max(sum(float(claim["paid"]) for claim in claims), 0)
    body = [
        f"BPR*{'I' if paid else 'H'}*{paid:g}*C*{'CHK' if paid else 'NON'}************{date}",
        f"TRN*1*TRACE{date}{payer[:3]}*1999999999",
        f"DTM*405*{date}",
        f"N1*PR*{payer}*XV*{payer.replace(' ', '')[:10]}",
        "N3*9 PAYER PLAZA",
        "N4*CHICAGO*IL*60601",
        "PER*BL*CALL CENTER*TE*5550100003",
        "N1*PE*ELM STREET HOSPITAL*XX*1234567893",
        "LX*1",
    ]
    for claim in claims:
        charge, paid = claim["charge"], claim["paid"]
        body += [
            f"CLP*{claim['id']}*{claim['status']}*{charge}*{paid}**12*PAYERCLAIM*11*1",
            *(f"CAS*{adjustment}" for adjustment in claim.get("cas", ())),
            "NM1*QC*1*AXIOM*ANNA****MI*MEMBER001",
            *([f"REF*EA*{claim['record']}"] if "record" in claim else []),
        ]
        if "start" in claim:
            body += [f"DTM*232*{dated(claim['start'])}", f"DTM*233*{dated(claim['end'])}"]
        for line in claim.get("lines", ()):
            amounts = [float(value) for value in line.split("*")[2::3]]
            body += [f"SVC*NU:0120*{sum(amounts):g}*0**1", "DTM*472*20200101", f"CAS*{line}"]
    return interchange([body], code="HP", guide=guide, day=date)
