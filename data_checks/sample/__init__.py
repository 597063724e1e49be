"""A synthetic sample of manufacturing audit commands; no line of it was said in a real plant."""

from pathlib import Path

SAMPLE_DIR = Path(__file__).parent
