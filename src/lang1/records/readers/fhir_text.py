"""The text of attachments and narratives: base64, character sets, HTML and XHTML, RTF, CDA.

What cannot be read yields the reason in words, never an exception. Line breaks of the source are kept, since section
headings stand at the start of a line.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from dataclasses import dataclass
from html.parser import HTMLParser

from lang1.records.readers.fhir_values import Node, writable

DEEPEST_SECTION = 16

_BLOCKS = frozenset(
    re.findall(
        r"\w+",
        "address article aside blockquote body center dd div dl dt fieldset figure footer form h1 h2 h3 h4 h5 h6 "
        "header hr html li main nav ol p paragraph pre section table tbody tfoot thead title tr ul list item caption",
    )
)
_UNSEEN = frozenset(("script", "style", "head", "template"))
_VOID = frozenset(re.findall(r"\w+", "area base br col embed hr img input link meta param source track wbr"))
_HEADINGS = frozenset(("h1", "h2", "h3", "h4", "h5", "h6", "title"))
_CDA_SEEN = frozenset(("title", "text"))


@dataclass(frozen=True)
class Text:
    """A text, or why there is none; ``guessed``: it was not in the character set that it said, or in UTF-8."""

    text: str | None
    lack: str | None = None
    guessed: bool = False


def kind_of(content_type: str | None) -> str | None:
    """plain, html, rtf or xml; null for a type without text."""
    bare = (content_type or "text/plain").partition(";")[0].strip().lower()
    if bare in ("text/html", "application/xhtml+xml", "text/xhtml"):
        return "html"
    if bare in ("text/rtf", "application/rtf", "application/x-rtf"):
        return "rtf"
    if bare in ("text/xml", "application/xml", "application/hl7-sdwg+xml", "application/hl7-cda+xml"):
        return "xml"
    return "plain" if bare.startswith("text/") or bare in ("text", "txt") else None


# Of several forms of one document the first of these counts.
PREFERENCE = ("plain", "html", "rtf", "xml")


def inline(data: str, content_type: str | None) -> Text:
    """The text of base64 data."""
    if kind_of(content_type) is None:
        return Text(None, f"no text in {_bare(content_type)}")
    packed = "".join(data.split())
    try:
        content = base64.b64decode(packed + "=" * (-len(packed) % 4), validate=True)
    except (binascii.Error, ValueError):
        return Text(None, "data is not base64")
    return decoded(content, content_type)


def decoded(content: bytes, content_type: str | None) -> Text:
    """The text of a file's bytes."""
    kind = kind_of(content_type)
    if kind is None:
        return Text(None, f"no text in {_bare(content_type)}")
    text, guessed = _characters(content, content_type)
    if kind == "rtf" or text.startswith("{\\rtf"):
        text = rtf_text(text)
    elif kind == "xml" or (kind == "html" and "<ClinicalDocument" in text[:2000]):
        text = cda_text(text)
    elif kind == "html":
        text = html_text(text)
    text = writable(text).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        return Text(None, "an empty text")
    return Text(text, None, guessed)


def _bare(content_type: str | None) -> str:
    return (content_type or "").partition(";")[0].strip().lower()[:60]


def _characters(content: bytes, content_type: str | None) -> tuple[str, bool]:
    """Bytes as text: by their byte order mark, the declared set, UTF-8, else Windows-1252 (guessed)."""
    for mark, name in (
        (codecs.BOM_UTF8, "utf-8-sig"),
        (codecs.BOM_UTF16_LE, "utf-16"),
        (codecs.BOM_UTF16_BE, "utf-16"),
    ):
        if content.startswith(mark):
            return content.decode(name, "replace"), False
    declared = re.search(r"charset\s*=\s*[\"']?([\w.:-]+)", content_type or "", re.IGNORECASE)
    for name in (declared[1] if declared else "utf-8", "utf-8"):
        try:
            return content.decode(name), bool(declared and name != declared[1])
        except (UnicodeError, LookupError):
            continue
    return content.decode("cp1252", "replace"), True


class _Markup(HTMLParser):
    """Collects what a reader would see; with ``cda`` only the titles and texts of sections."""

    def __init__(self, cda: bool) -> None:
        super().__init__(convert_charrefs=True)
        self.parts: list[str] = []
        self.cda, self.inside, self.unseen = cda, 0, 0
        self.sections = 0
        self.heading: int | None = None  # where in ``parts`` a heading began

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in _VOID:
            self.parts.append("\n" if tag in ("br", "hr") else "")
        elif tag in _UNSEEN and not self.cda:
            self.unseen += 1
        elif self.cda and tag == "section":
            self.sections += 1
        elif self.cda and tag in _CDA_SEEN and self.sections:
            self.inside += 1
        if tag in _BLOCKS:
            self.parts.append("\n")
        if tag in _HEADINGS:
            self.heading = len(self.parts)
        if tag in ("li", "item"):
            self.parts.append("- ")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag in ("br", "hr"):
            self.parts.append("\n")

    def handle_endtag(self, tag: str) -> None:
        if tag in _UNSEEN and not self.cda:
            self.unseen = max(0, self.unseen - 1)
        elif self.cda and tag == "section":
            self.sections = max(0, self.sections - 1)
        elif self.cda and tag in _CDA_SEEN:
            self.inside = max(0, self.inside - 1)
        if tag in _HEADINGS and self.heading is not None:
            # Sections are found by headings that end in a colon.
            if "".join(self.parts[self.heading :]).strip()[-1:].isalnum():
                self.parts.append(":")
            self.heading = None
        if tag in _BLOCKS:
            self.parts.append("\n")
        elif tag in ("td", "th"):
            self.parts.append("\t")

    def handle_data(self, data: str) -> None:
        if not self.unseen and (self.inside or not self.cda):
            self.parts.append(data)


def html_text(markup: str) -> str:
    """What a reader of HTML or XHTML sees, blocks on lines of their own."""
    return _shown(markup, cda=False)


def cda_text(markup: str) -> str:
    """The titles and texts of a CDA document's sections; nothing of its header and entries."""
    return _shown(markup, cda=True)


def _shown(markup: str, cda: bool) -> str:
    parser = _Markup(cda)
    parser.feed(markup)
    parser.close()
    text = "".join(parser.parts).replace("\xa0", " ").replace("\r", "")
    text = re.sub(r"[ \t]*\t[ \t]*", "\t", re.sub(r" {2,}", " ", text))
    text = re.sub(r"[ \t]+\n|\n[ \t]+", "\n", text)
    return re.sub(r"\n[ \t]+", "\n", re.sub(r"\n{3,}", "\n\n", text)).strip()


_RTF = re.compile(r"\\([a-z]{1,32})(-?\d{1,10})?[ ]?|\\'([0-9a-f]{2})|\\([^a-z])|([{}])|[\r\n]+|([^\\{}\r\n]+)", re.I)
_RTF_UNSEEN = frozenset(
    re.findall(
        r"\w+",
        "fonttbl colortbl stylesheet info pict object header footer headerl headerr footerl footerr themedata "
        "datastore listtable listoverridetable rsidtbl generator xmlnstbl latentstyles filetbl revtbl",
    )
)
_RTF_SIGNS = {
    "par": "\n",
    "line": "\n",
    "sect": "\n",
    "page": "\n",
    "row": "\n",
    "tab": "\t",
    "cell": "\t",
    "emdash": "\u2014",
    "endash": "\u2013",
    "bullet": "\u2022",
    "lquote": "\u2018",
    "rquote": "\u2019",
    "ldblquote": "\u201c",
    "rdblquote": "\u201d",
}


def rtf_text(markup: str) -> str:
    """The text of RTF: paragraphs, tabs and characters; fonts, styles, pictures and other destinations left out."""
    parts: list[str] = []
    stack: list[tuple[bool, int]] = []
    unseen, skip_after_unicode, skip, page = False, 1, 0, "cp1252"
    for match in _RTF.finditer(markup):
        word, argument, byte, sign, brace, plain = match.groups()
        if brace == "{":
            stack.append((unseen, skip_after_unicode))
        elif brace == "}":
            unseen, skip_after_unicode = stack.pop() if stack else (False, 1)
        elif word:
            if word in _RTF_UNSEEN:
                unseen = True
            elif word == "uc":
                skip_after_unicode = min(int(argument or 1), 8)
            elif word == "ansicpg" and argument:
                page = _codepage(argument)
            elif word == "u" and argument and not unseen:
                code = int(argument) & 0xFFFF
                parts.append(chr(code) if not 0xD800 <= code <= 0xDFFF else "\ufffd")
                skip = max(skip_after_unicode, 0)
            elif not unseen:
                parts.append(_RTF_SIGNS.get(word, ""))
        elif sign == "*":
            unseen = True
        elif byte or sign or plain:
            said = bytes([int(byte, 16)]).decode(page, "replace") if byte else plain
            if sign:
                said = {"~": " ", "_": "-"}.get(sign, sign if sign in "\\{}" else "")
            drop = min(skip, len(said or ""))
            skip -= drop
            if not unseen:
                parts.append((said or "")[drop:])
    return "".join(parts).strip()


def _codepage(number: str) -> str:
    try:
        return codecs.lookup(f"cp{number}").name
    except LookupError:
        return "cp1252"


def composition_text(composition: Node) -> str:
    """The sections of a Composition, each under its title; the whole narrative where no section has text."""
    parts: list[str] = []
    for section in composition.nodes("section"):
        _section(section, parts, 1)
    if not parts and (div := composition.node("text").raw("div")):
        parts.append(html_text(div))
    return "\n\n".join(part for part in parts if part.strip())


def _section(section: Node, parts: list[str], depth: int) -> None:
    div = section.node("text").raw("div")
    body = html_text(div) if div else ""
    title = section.text("title") or section.concept("code").words()
    inner = section.nodes("section") if depth < DEEPEST_SECTION else []
    if body or inner:
        heading = f"{title.rstrip(':').strip()}:" if title else ""
        parts.append("\n".join(part for part in (heading, body) if part))
    for one in inner:
        _section(one, parts, depth + 1)
