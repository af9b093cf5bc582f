"""Take the pictures of docs/serve.md: the page of `dgr serve`, in a headless Chromium.

    dgr quickstart --output dgr-quickstart
    python scripts/make_serve_pictures.py dgr-quickstart/retriever

Needs the extras `serve` and `bm25`, selenium, and Chromium with its driver (Debian: chromium, chromium-driver).
"""

from __future__ import annotations

import argparse
import base64
import re
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path
from urllib.parse import urlencode

DOCS = Path(__file__).parents[1] / "docs"
QUERY = "parse an ISO date"
# Name: with a teacher beside it, width, height, colours, whether the first comparison is open.
PICTURES = {
    "serve-page": (False, 860, 1010, "light", True),
    "serve-beside": (True, 1240, 760, "dark", False),
    "serve-phone": (False, 390, 720, "light", False),
}


def main() -> None:
    """Take all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("retriever", type=Path, help="Folder of a retriever with its corpus.")
    parser.add_argument("--output", type=Path, default=DOCS, help="Folder of the pictures.")
    parser.add_argument("--query", default=QUERY)
    options = parser.parse_args()
    for with_teacher in (False, True):
        command = [sys.executable, "-m", "dgr_trainer.cli.main", "serve", str(options.retriever), "--port", "0"]
        command += ["--names", "student", *(["bm25", "--teacher", "bm25"] if with_teacher else [])]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        try:
            url = _address(server)
            for name, (beside, width, height, colours, is_open) in PICTURES.items():
                if beside == with_teacher:
                    picture = _picture(
                        f"{url}/#{urlencode({'q': options.query, 'k': 5})}", width, height, colours, is_open
                    )
                    (options.output / f"{name}.webp").write_bytes(picture)
                    print(f"{options.output / name}.webp: {len(picture) / 1000:.0f} kB")
        finally:
            server.terminate()
            server.wait(60)


def _address(server: subprocess.Popen[str]) -> str:
    log: list[str] = []
    threading.Thread(target=lambda: log.extend(server.stderr or []), daemon=True).start()
    end = time.monotonic() + 300
    while time.monotonic() < end and server.poll() is None:
        if match := re.search(r" at (http://[\d.:]+)/", "".join(log)):
            return match[1]
        time.sleep(0.1)
    raise SystemExit("The server did not start:\n" + "".join(log))


def _picture(url: str, width: int, height: int, colours: str, is_open: bool) -> bytes:
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for argument in (
        *("headless=new", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-dev-shm-usage"),
        *("disable-background-networking", "disable-component-update", "disable-sync", "hide-scrollbars"),
    ):
        options.add_argument(f"--{argument}")
    browser = webdriver.Chrome(options=options, service=webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1.25, "mobile": width < 600}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": colours}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(url)
        end = time.monotonic() + 300
        while not browser.find_elements("css selector", ".hit"):
            if time.monotonic() > end:
                raise SystemExit("The page shows no passages.")
            time.sleep(0.2)
        browser.execute_script("document.activeElement.blur()")
        if is_open:
            browser.execute_script("document.querySelector('.why').open = true")
        time.sleep(1)  # The bars grow.
        taken = browser.execute_cdp_cmd("Page.captureScreenshot", {"format": "webp", "quality": 70})
        return base64.b64decode(taken["data"])
    finally:
        browser.quit()


if __name__ == "__main__":
    main()
