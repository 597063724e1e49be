"""Figures as PNG, as a file or inside a page."""

import base64
import io
from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from registry.files import atomic_file


def png(figure: Figure) -> bytes:
    """The figure as a PNG at 160 dots per inch."""
    stream = io.BytesIO()
    FigureCanvasAgg(figure)
    figure.savefig(stream, format="png", dpi=160, facecolor="white")
    return stream.getvalue()


def write_png(figure: Figure, out: Path) -> None:
    with atomic_file(out) as temporary:
        temporary.write_bytes(png(figure))


def embedded(figure: Figure) -> str:
    """The PNG of the figure in base64, as an ``img`` with ``data:image/png;base64,`` takes it."""
    return base64.b64encode(png(figure)).decode()
