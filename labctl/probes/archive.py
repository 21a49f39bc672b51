"""The prober as one file, for guests in which nothing of labctl is installed."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

__all__ = ["prober_archive"]

_FOLDER = Path(__file__).with_name("prober")
_MAIN = "import sys\nfrom prober.run import main\nsys.exit(main(sys.argv))\n"


def prober_archive() -> bytes:
    """What Python runs like a program (zipapp): the prober's folder, and what starts it.

    Not compressed: unpacking would cost an emulated guest more than reading some kilobytes.
    """
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as packed:
        packed.writestr("__main__.py", _MAIN)
        for file in sorted(_FOLDER.glob("*.py")):
            packed.writestr(f"prober/{file.name}", file.read_bytes())
    return archive.getvalue()
