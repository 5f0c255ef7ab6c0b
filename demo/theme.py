"""How the page looks: fonts of the visitor's own system, neutral surfaces, one accent."""

from pathlib import Path

from gradio import themes
from gradio.themes import sizes

HERE = Path(__file__).parent

FONT = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "Noto Sans", "Liberation Sans", "sans-serif")
MONO = ("ui-monospace", "SFMono-Regular", "Menlo", "Consolas", "Liberation Mono", "monospace")


LIGHT = {
    "body_background_fill": "#ffffff",
    "background_fill_primary": "#ffffff",
    "background_fill_secondary": "#f5f6f8",
    "block_background_fill": "#f5f6f8",
    "block_border_color": "#e2e5ea",
    "border_color_primary": "#e2e5ea",
    "border_color_accent": "#2f5fc4",
    "body_text_color": "#191c21",
    "body_text_color_subdued": "#5d6571",
    "block_label_text_color": "#5d6571",
    "block_title_text_color": "#191c21",
    "block_info_text_color": "#5d6571",
    "input_background_fill": "#ffffff",
    "input_border_color": "#d5d9e0",
    "input_border_color_focus": "#2f5fc4",
    "input_placeholder_color": "#6b7380",
    "button_primary_background_fill": "#191c21",
    "button_primary_background_fill_hover": "#343a44",
    "button_primary_text_color": "#ffffff",
    "button_primary_border_color": "#191c21",
    "button_primary_border_color_hover": "#343a44",
    "button_secondary_background_fill": "#ffffff",
    "button_secondary_background_fill_hover": "#f5f6f8",
    "button_secondary_border_color": "#d5d9e0",
    "button_secondary_text_color": "#191c21",
    "color_accent": "#2f5fc4",
    "slider_color": "#2f5fc4",
    "link_text_color": "#2f5fc4",
}

DARK = {
    "body_background_fill": "#121418",
    "background_fill_primary": "#121418",
    "background_fill_secondary": "#1b1e24",
    "block_background_fill": "#1b1e24",
    "block_border_color": "#2c313a",
    "border_color_primary": "#2c313a",
    "border_color_accent": "#8db2fb",
    "body_text_color": "#e9ebee",
    "body_text_color_subdued": "#a3acb9",
    "block_label_text_color": "#a3acb9",
    "block_title_text_color": "#e9ebee",
    "block_info_text_color": "#a3acb9",
    "input_background_fill": "#121418",
    "input_border_color": "#3a414d",
    "input_border_color_focus": "#8db2fb",
    "input_placeholder_color": "#8f98a6",
    "button_primary_background_fill": "#e9ebee",
    "button_primary_background_fill_hover": "#ffffff",
    "button_primary_text_color": "#121418",
    "button_primary_border_color": "#e9ebee",
    "button_primary_border_color_hover": "#ffffff",
    "button_secondary_background_fill": "#1b1e24",
    "button_secondary_background_fill_hover": "#262b33",
    "button_secondary_border_color": "#3a414d",
    "button_secondary_text_color": "#e9ebee",
    "color_accent": "#8db2fb",
    "slider_color": "#8db2fb",
    "link_text_color": "#8db2fb",
}


def theme() -> themes.Base:
    """Gradio's variables; those of our own pieces are in page.css."""
    no_dark = {"color_accent"}  # Gradio has no second one of these
    built = themes.Base(font=list(FONT), font_mono=list(MONO), radius_size=sizes.radius_lg, spacing_size="md")
    built.set(
        **LIGHT,
        **{f"{name}_dark": value for name, value in DARK.items() if name not in no_dark},
        button_border_width="1px",
        button_large_text_weight="500",
        button_large_text_size="15px",
        button_large_padding="9px 18px",
        button_small_padding="6px 12px",
        button_small_text_size="14px",
        input_border_width="1px",
        block_border_width="0px",
        block_shadow="none",
        block_radius="12px",
        button_large_radius="10px",
        button_small_radius="8px",
        input_radius="10px",
        layout_gap="14px",
    )
    return built


def css() -> str:
    """The styles of our own pieces."""
    return (HERE / "page.css").read_text(encoding="utf-8")


def head() -> str:
    """What goes into the page's head: its script, and how phones show it."""
    script = (HERE / "page.js").read_text(encoding="utf-8")
    return f"<script>{script}</script>"
