"""What figures are drawn on: inline SVG in the page's colours and font, so that one drawing serves light and dark."""

import hashlib
import html
import io
import re
import warnings
from typing import Any

from matplotlib.figure import Figure

LIGHT = {
    "paper": "#fdfcfa",
    "raised": "#f4f2ed",
    "ink": "#1d1d1b",
    "muted": "#65635d",
    "faint": "#dcd9d1",
    "good": "#1f7a4d",
    "bad": "#b3372b",
    "warm": "#b3372b",
    **{f"series-{n}": colour for n, colour in enumerate(("#2563a8", "#c2541b", "#2c8464"))},
    **{f"series-{n + 3}": colour for n, colour in enumerate(("#7b4fa3", "#96750f", "#b03a6b"))},
    **{f"series-{n + 6}": colour for n, colour in enumerate(("#1c8397", "#6b7a1e", "#8a5a3c", "#5a6378"))},
}
DARK = {
    "paper": "#161719",
    "raised": "#1f2124",
    "ink": "#e9e7e2",
    "muted": "#a19e96",
    "faint": "#36383c",
    "good": "#66c797",
    "bad": "#ef8a7d",
    "warm": "#ef8a7d",
    **{f"series-{n}": colour for n, colour in enumerate(("#7db2ec", "#f0955f", "#6cc7a4"))},
    **{f"series-{n + 3}": colour for n, colour in enumerate(("#bd97e0", "#d6b552", "#ea8ab4"))},
    **{f"series-{n + 6}": colour for n, colour in enumerate(("#63c5d8", "#b3c25a", "#d3a583", "#a3adc4"))},
}
NUM_SERIES = sum(name.startswith("series-") for name in LIGHT)
# matplotlib writes these stand-ins; variables of the page take their place
INK, FAINT, MUTED, PAPER = "#010101", "#020202", "#040404", "#050505"
SERIES = [f"#0303{number:02d}" for number in range(NUM_SERIES)]
_VARIABLES = {INK: "ink", FAINT: "faint", MUTED: "muted", PAPER: "paper"} | {
    stand_in: f"series-{number}" for number, stand_in in enumerate(SERIES)
}
STYLE = {
    **dict.fromkeys(("axes.labelcolor", "text.color", "xtick.labelcolor", "ytick.labelcolor"), INK),
    **dict.fromkeys(("axes.edgecolor", "xtick.color", "ytick.color", "grid.color"), FAINT),
    **dict.fromkeys(("axes.spines.top", "axes.spines.right", "axes.spines.left"), False),
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.linewidth": 0.5,
    "ytick.major.size": 0,
    "font.size": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "legend.frameon": False,
    "axes.labelsize": 9,
    # text stays text, names are not formulas, and the same figure is the same bytes
    "svg.fonttype": "none",
    "text.parse_math": False,
    "svg.hashsalt": "ssl_cls",
}


def short(text: str) -> str:
    return text if len(text) <= 24 else text[:23] + "…"


def svg(figure: Figure, description: str) -> str:
    """The bare <svg> element: no prologue, metadata or namespaces, ids of its own, colours the page's."""
    out = io.StringIO()
    metadata: dict[str, Any] = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # glyphs that matplotlib's own font lacks: the page has them
        figure.savefig(out, format="svg", transparent=True, metadata=metadata)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    for size in ("width", "height"):  # the page decides; viewBox keeps the proportions
        text = re.sub(rf'(<svg[^>]*?) {size}="[^"]*"', r"\1", text, count=1)
    own = hashlib.sha256(text.encode()).hexdigest()[:8]
    for name in set(re.findall(r' id="([a-z]+[0-9a-f]{10})"', text)):  # markers and clip paths
        text = text.replace(name, f"{name}-{own}")
    for stand_in, variable in _VARIABLES.items():
        text = text.replace(stand_in, f"var(--{variable})")
    return text.replace("<svg", f'<svg role="img" aria-label="{html.escape(description)}"', 1)


def standalone(text: str) -> str:
    """An inline drawing as a file of its own that follows the reader's light or dark scheme."""
    box = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', text)
    assert box is not None
    size = f'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" width="{box[1]}pt"'
    dark = f"@media (prefers-color-scheme: dark) {{ svg {{ {variables(DARK)} }} }}"
    style = f"<style>svg {{ {variables(LIGHT)} background: var(--paper); }} {dark}</style>"
    text = text.replace("<svg", f"<svg {size}", 1)
    end = text.index(">") + 1
    return text[:end] + style + text[end:]


def variables(colours: dict[str, str]) -> str:
    return " ".join(f"--{name}: {colour};" for name, colour in colours.items())
