"""Take the README's pictures: a report's first screen, and the dashboard during a real run.

python extensions/pictures/take.py NAME        report.png, of results/NAME.json; needs Chromium
python extensions/pictures/take.py dashboard   dashboard.png, during a sweep on the embedded model;
                                               needs playwright as well (uv sync --group checks)
"""

from __future__ import annotations

import re
import shutil
import struct
import subprocess
import sys
import tempfile
import zlib
from collections import Counter
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent.parent
sys.path.insert(0, str(ROOT))

import llm_stresstest as st  # noqa: E402


def main() -> int:
    """Write the picture beside this file."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None or len(sys.argv) != 2:
        sys.stderr.write("take.py: wants the name of a run, and Chromium (apt install chromium)\n")
        return 2
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if sys.argv[1] == "dashboard":
            taken = dashboard(chromium, folder)
            (HERE / "dashboard.png").write_bytes(with_palette(taken))
            return 0
        page, picture = folder / "page.html", folder / "report.png"
        if st.cli(["report", sys.argv[1], "-o", str(page)]):
            return 1
        options = ["--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        options += [f"--user-data-dir={folder}/profile", "--virtual-time-budget=8000"]
        options += [f"--screenshot={picture}", "--window-size=1280,960", page.as_uri()]
        subprocess.run([chromium, *options], check=True, capture_output=True, timeout=120)  # noqa: S603
        shutil.copyfile(picture, HERE / "report.png")
    return 0


def dashboard(chromium: str, folder: Path) -> bytes:
    """Return the live page during a run's third level, as a PNG."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415

    program = [sys.executable, str(ROOT / "llm_stresstest.py")]
    where = ["--results-dir", str(folder)]
    command = [*program, "dashboard", "--port", "0", "--say-address", "--allow-start", *where]
    board = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: S603
    settings = {"concurrent": "[1,2,4,8]", "questions": 16, "stability_floor": "false"}
    settings |= {"slo.ttft_ms": 1000}
    sets = [part for key, value in settings.items() for part in ("--set", f"{key}={value}")]
    command = [*program, "desk_pc_smollm2", "--quiet", "--log-dir", str(folder), *where, *sets]
    run = subprocess.Popen(command)  # noqa: S603
    try:
        if board.stdout is None:
            raise OSError("no address")
        address = board.stdout.readline().strip()
        with sync_playwright() as playwright:
            browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
            page = browser.new_page(viewport={"width": 1280, "height": 940})
            page.goto(address)
            while not re.search("4 at once, [1-9]", page.inner_text("h1")):  # 4 of 8
                page.wait_for_timeout(500)
            page.wait_for_timeout(8_000)
            taken = page.screenshot()
            browser.close()
    finally:
        for process in (run, board):
            process.terminate()
            process.wait()
    return bytes(taken)


def with_palette(png: bytes) -> bytes:
    """Return a PNG of at most 256 colours: a third of the size, and the same to the eye."""
    width, height, rows = _pixels(png)
    counted = Counter(pixel for row in rows for pixel in row)
    palette = [pixel for pixel, _ in counted.most_common(256)]
    places = {pixel: place for place, pixel in enumerate(palette)}
    for pixel in counted:
        if pixel not in places:
            near = min(
                palette, key=lambda p: sum((a - b) ** 2 for a, b in zip(p, pixel, strict=True))
            )
            places[pixel] = places[near]
    data = b"".join(b"\0" + bytes(places[pixel] for pixel in row) for row in rows)
    chunks = {
        b"IHDR": struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0),
        b"PLTE": b"".join(map(bytes, palette)),
        b"IDAT": zlib.compress(data, 9),
        b"IEND": b"",
    }
    out = b"\x89PNG\r\n\x1a\n"
    for kind, content in chunks.items():
        crc = zlib.crc32(kind + content)
        out += struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)
    return out


def _pixels(png: bytes) -> tuple[int, int, list[list[tuple[int, ...]]]]:
    """Return width, height and the pixels of a PNG of 8 bits a channel, without transparency."""
    width, height, _, colour = struct.unpack(">IIBB", png[16:26])
    data, at = b"", 8
    while at < len(png):
        size, kind = struct.unpack(">I4s", png[at : at + 8])
        data += png[at + 8 : at + 8 + size] if kind == b"IDAT" else b""
        at += size + 12
    raw, each = zlib.decompress(data), {2: 3, 6: 4}[colour]
    before, rows = bytearray(width * each), list[list[tuple[int, ...]]]()
    for number in range(height):
        start = number * (width * each + 1)
        way, line = raw[start], bytearray(raw[start + 1 : start + 1 + width * each])
        for place in range(len(line)):
            left = line[place - each] if place >= each else 0
            corner = before[place - each] if place >= each else 0
            line[place] = (line[place] + _guess(way, left, before[place], corner)) & 255
        rows.append([tuple(line[place : place + 3]) for place in range(0, len(line), each)])
        before = line
    return width, height, rows


def _guess(way: int, left: int, above: int, corner: int) -> int:
    """Return what PNG's filters add to a byte."""
    if way == 4:
        guess = left + above - corner
        near = ((abs(guess - value), place) for place, value in enumerate((left, above, corner)))
        return (left, above, corner)[min(near)[1]]
    return (0, left, above, (left + above) // 2)[way]


if __name__ == "__main__":
    raise SystemExit(main())
