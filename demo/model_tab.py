"""What the page's model is, how good it is, and what it is not for."""

import base64
import html
import json
import re
from pathlib import Path
from typing import Any

import gradio as gr
from models import MEASURED_WITHIN_S, ModelFacts, Models
from stage import DASH

CARD, REPORT, CURVE = "README.md", "report.json", "ced.png"
"""Beside the weights: what `flm publish` puts there."""

LIMITS = """
### What it is not for

- **Closed eyes** are rare in what networks learn from; their lids are placed too high.
- **Profiles**: beyond about 60° the far half of a face is guessed, and the jaw follows the visible outline.
- **Covered faces**: what a hand, a mask or sunglasses hide is guessed; the ellipses show by how much.
- **Small faces**: below about 40 px a point is not finer than the picture.
- It finds points. It says nothing of who somebody is, and must not be used to decide about people.
"""

_FRONT_MATTER = re.compile(r"\A---\n.*?\n---\n", re.DOTALL)
_PICTURE = re.compile(r"!\[([^\]]*)\]\(([\w-]+\.(png|jpg))\)")
_LINK_BESIDE = re.compile(r"\[([^\]]+)\]\([\w.-]+\)")
"""To a file beside the card, which the page does not serve."""


def card_text(folder: Path) -> str | None:
    """The model card without its front matter, its pictures inside it; None where there is none."""
    path = folder / CARD
    if not path.is_file():
        return None
    text = _FRONT_MATTER.sub("", path.read_text(encoding="utf-8"))

    def inside(found: re.Match[str]) -> str:
        picture = folder / found[2]
        if not picture.is_file():
            return ""
        kind = "jpeg" if found[3] == "jpg" else found[3]
        uri = f"data:image/{kind};base64,{base64.b64encode(picture.read_bytes()).decode()}"
        return f'<img src="{uri}" alt="{html.escape(found[1], quote=True)}">'

    return _LINK_BESIDE.sub(r"\1", _PICTURE.sub(inside, text))


def facts_html(facts: ModelFacts) -> str:
    """The model in a row of small cards."""
    names = {
        "scheme": "Points",
        "input": "Looks at",
        "recipe": "Recipe",
        "step": "Steps",
        "precision": "Precision",
    }
    cells = {name: facts.about[key] for key, name in names.items() if key in facts.about}
    cards = "".join(
        f"<div><dt>{html.escape(name)}</dt><dd>{html.escape(_value(value))}</dd></div>"
        for name, value in cells.items()
    )
    lines = []
    if "licence" in facts.about:
        lines.append(f"Licence: {html.escape(str(facts.about['licence']))}")
    if facts.run_url is not None:
        link = html.escape(facts.run_url, quote=True)
        lines.append(f'<a href="{link}">Its training in Weights &amp; Biases</a>')
    below = "".join(f'<p class="soft">{line}</p>' for line in lines)
    return f'<dl class="cards">{cards}<div><dt>Speed here</dt><dd data-speed>…</dd></div></dl>{below}'


def _value(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def report_html(folder: Path) -> str:
    """The error of each subset as `flm evaluate --json` wrote it, where the card has none."""
    path = folder / REPORT
    if not path.is_file():
        return ""
    report = json.loads(path.read_text(encoding="utf-8"))
    columns = (("count", "Faces", "d", ""), ("nme_pct", "NME", ".2f", " %"), ("auc_8", "AUC, 8 %", ".3f", ""))
    subsets = {**report.get("subsets", {}), "all": report}
    used = [column for column in columns if column[0] in report]
    heads = "".join(f'<th scope="col">{head}</th>' for _, head, _, _ in used)
    rows = "".join(
        f'<tr><th scope="row">{html.escape(name)}</th>'
        + "".join(f"<td>{subset[key]:{form}}{unit}</td>" for key, _, form, unit in used)
        + "</tr>"
        for name, subset in subsets.items()
    )
    curve = folder / CURVE
    picture = ""
    if curve.is_file():
        uri = f"data:image/png;base64,{base64.b64encode(curve.read_bytes()).decode()}"
        picture = f'<img src="{uri}" alt="Share of faces whose error is below a bound">'
    return (
        '<div class="scroll"><table class="faces plain-rows"><thead><tr><th scope="col">Subset</th>'
        f"{heads}</tr></thead><tbody>{rows}</tbody></table></div>{picture}"
    )


def build(blocks: gr.Blocks, models: Models) -> None:
    """Lay out the tab."""
    facts = models.facts
    card = card_text(facts.folder)
    about = gr.HTML(facts_html(facts), apply_default_css=False, elem_id="facts")
    if card is None:
        gr.HTML(report_html(facts.folder), apply_default_css=False, elem_classes="plain")
        gr.Markdown(LIMITS, elem_classes="plain")
    else:
        gr.Markdown(card, elem_classes="plain", elem_id="card")

    def with_speed() -> str:
        # Else a page that is opened right after the start would say nothing for as long as it is open.
        ms = models.ms_per_face(MEASURED_WITHIN_S)
        speed = DASH if ms is None else f"{ms:.0f} ms a face"
        return facts_html(facts).replace("<dd data-speed>…", f"<dd data-speed>{speed}")

    blocks.load(with_speed, None, about, queue=False, show_progress="hidden", api_visibility="private")
