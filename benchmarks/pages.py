"""How large the pages of folders are, how long they take to open in Chromium, and on how many sheets one prints.

    python benchmarks/pages.py runs/demo runs/claims

For each folder: index.html and samples.html (bytes, seconds until the second frame after `load`: the fastest and the
slowest of five, each in a browser of its own), and one-page.html, which is written if it is not there (bytes, sheets of
A4). Needs playwright (dev extras) and Chromium (`EQUIPOISE_CHROMIUM`, or on the path). The last line is JSON.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import re
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from machine import description

from equipoise.evaluate.rerender import render_again

FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
TIMES = 5


def opened(playwright: Any, binary: str, path: Path) -> dict[str, Any]:
    """Size of a page and seconds until it is drawn."""
    taken = []
    for _ in range(TIMES):
        browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        started = time.monotonic()
        page.goto(path.resolve().as_uri(), wait_until="load")
        page.evaluate(FRAMES)
        taken.append(round(time.monotonic() - started, 2))
        browser.close()
    return {"bytes": path.stat().st_size, "fastest_s": min(taken), "slowest_s": max(taken)}


def sheets(playwright: Any, binary: str, path: Path) -> dict[str, Any]:
    """Size of the one-sheet, and on how many sheets of A4 it prints."""
    browser = playwright.chromium.launch(executable_path=binary, args=["--no-sandbox"])
    page = browser.new_page()
    page.goto(path.resolve().as_uri(), wait_until="load")
    printed = page.pdf(format="A4", prefer_css_page_size=False)
    browser.close()
    return {"bytes": path.stat().st_size, "sheets": len(re.findall(rb"/Type\s*/Page\b", printed))}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--json", action="store_true", help="print only the last line")
    args = parser.parse_args()
    binary = os.environ.get("EQUIPOISE_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    if binary is None:
        sys.exit("Chromium not found: install it, or name its binary in EQUIPOISE_CHROMIUM")
    from playwright.sync_api import sync_playwright

    found: dict[str, Any] = {}
    with sync_playwright() as playwright:
        for folder in args.folders:
            results = json.loads((folder / "results.json").read_text(encoding="utf-8"))["results"]
            if not (folder / "one-page.html").is_file():
                render_again(folder, one_page=True)
            found[str(folder)] = {
                "results": sum(one["split"] == "verdict" for one in results),
                "index": opened(playwright, binary, folder / "index.html"),
                "one_page": sheets(playwright, binary, folder / "one-page.html"),
            }
            if (folder / "samples.html").is_file():
                found[str(folder)]["samples"] = opened(playwright, binary, folder / "samples.html")
            if not args.json:
                print(f"{folder}: {json.dumps(found[str(folder)])}")
    print(json.dumps({"folders": found, "machine": description(), "date": datetime.date.today().isoformat()}))


if __name__ == "__main__":
    main()
