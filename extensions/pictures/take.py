"""Take the README's picture of a report: its first screen, as a stranger sees it.

python extensions/pictures/take.py NAME        of results/NAME.json; needs Chromium
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent.parent))

import llm_stresstest as st  # noqa: E402


def main() -> int:
    """Write report.png beside this file."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or len(sys.argv) != 2:
        sys.stderr.write("take.py: wants the name of a run, and Chromium (apt install chromium)\n")
        return 2
    with tempfile.TemporaryDirectory() as folder:
        page, picture = Path(folder) / "page.html", Path(folder) / "report.png"
        if st.cli(["report", sys.argv[1], "-o", str(page)]):
            return 1
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=8000"]
        options += [f"--screenshot={picture}", "--window-size=1280,960", page.as_uri()]
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=120)  # noqa: S603
        shutil.copyfile(picture, HERE / "report.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
