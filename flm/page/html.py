"""A page of HTML that needs nothing from outside."""

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

STYLE = Path(__file__).with_name("html.css")

POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
"""No browser asks anybody for anything, whatever a name in the data set holds."""

LONG = 8
"""Letters of a large number; with more it is less large, so that it stays in its line."""


def page(*, title: str, sections: Sequence[str]) -> str:
    """The whole document.

    Args:
        title: plain text.
        sections: HTML.
    """
    style = STYLE.read_text(encoding="utf-8")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style>\n</head>\n<body>\n"
        + "\n".join(sections)
        + "\n</body>\n</html>\n"
    )


def header(title: str, about: str, numbers: Mapping[str, str], values: Mapping[str, str]) -> str:
    """The head of a page.

    Args:
        title: plain text.
        about: HTML.
        numbers: those that matter, large, by what they are; plain text.
        values: what they are of, as `facts`.
    """
    tiles = "".join(
        f'<div><dt>{escape(name)}</dt><dd class="{"long" * (len(value) > LONG)}">{escape(value)}</dd></div>'
        for name, value in numbers.items()
    )
    return (
        f"<header><h1>{escape(title)}</h1><p>{about}</p>"
        f'<dl class="tiles">{tiles}</dl>{facts(values)}</header>'
    )


def section(heading: str, about: str, *content: str) -> str:
    """A part of the page.

    Args:
        heading: plain text.
        about: HTML.
        content: HTML.
    """
    return f"<section>\n<h2>{escape(heading)}</h2>\n<p>{about}</p>\n" + "\n".join(content) + "\n</section>"


def percent(share: float, decimals: int = 0) -> str:
    """Such as `12 %`, not to be broken."""
    return f"{100 * share:.{decimals}f}\N{NO-BREAK SPACE}%"


def number(value: float, digits: int = 3) -> str:
    """With a true minus and without digits that nobody reads."""
    return f"{value + 0.0:.{digits}g}".replace("-", "\N{MINUS SIGN}")


def facts(values: Mapping[str, str]) -> str:
    """Names and what they are, plain text."""
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in values.items())
    return f"<dl>{''.join(rows)}</dl>"


def table(kind: str, head: Sequence[str], rows: Sequence[str]) -> str:
    """A table that scrolls by itself where it is wider than the page.

    Args:
        kind: classes of the style sheet.
        head: of the columns, HTML.
        rows: as `row` makes them.
    """
    columns = "".join(f"<th>{name}</th>" for name in head)
    body = "\n".join(rows)
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{columns}</tr></thead>\n'
        f"<tbody>{body}</tbody></table></div>"
    )


def row(name: str, cells: Sequence[str], kind: str = "") -> str:
    """A row of a table, HTML; classes of the style sheet."""
    return f'<tr class="{kind}"><th>{name}</th>{"".join(f"<td>{cell}</td>" for cell in cells)}</tr>'


def card(heading: str, picture: str, caption: str) -> str:
    """A figure with a heading.

    Args:
        heading: plain text.
        picture: HTML.
        caption: plain text.
    """
    return (
        f'<figure class="card"><h3>{escape(heading)}</h3>{picture}'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def image(uri: str, *, size_px: int, about: str) -> str:
    """A square picture.

    Args:
        uri: of its data.
        size_px: that it has.
        about: told to those who do not see it, plain text.
    """
    # Decoded when it comes into view: hundreds of them should not hold up the top of the page.
    return (
        f'<img src="{uri}" width="{size_px}" height="{size_px}" loading="lazy" decoding="async" '
        f'alt="{escape(about)}" title="{escape(about)}">'
    )


def figure(picture: str, caption: str) -> str:
    """A picture and what is to be said of it, both HTML."""
    return f"<figure>{picture}<figcaption>{caption}</figcaption></figure>"


def grid(kind: str, content: Sequence[str]) -> str:
    """Things side by side, as many as there is room for.

    Args:
        kind: class of the style sheet.
        content: HTML.
    """
    return f'<div class="{kind}">\n' + "\n".join(content) + "\n</div>"
