"""`python -m pytest` in the folder of the sources would put them before the installed package."""

import sys
from pathlib import Path

SOURCES = str(Path(__file__).resolve().parents[1])
sys.path = [path for path in sys.path if str(Path(path or ".").resolve()) != SOURCES]
