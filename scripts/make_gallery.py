"""Make the pictures of docs/gallery.md: the report of a quickstart, and hits in a notebook.

Everything in the pictures comes from a real run:

    dgr quickstart --output dgr-quickstart
    python scripts/make_gallery.py dgr-quickstart --output docs/gallery

It needs Chromium, ipykernel, nbclient and Pillow.
"""

import argparse
import html
import shutil
import subprocess
import sys
import tempfile
from io import BytesIO
from pathlib import Path

import nbclient
import nbformat
from PIL import Image

CELL = """from dgr_trainer import GenerativeRetriever

retriever = GenerativeRetriever.from_pretrained({folder!r})
retriever.search({query!r}, k=3)"""
PAGE = """<!doctype html><meta charset="utf-8"><style>
body {{ margin: 1rem; font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; background: #fff; color: #222; }}
pre {{ font: 13px/1.5 "DejaVu Sans Mono", monospace; background: #f4f4f4; border: 1px solid #ddd; padding: .6rem; }}
</style><pre>{code}</pre>{output}"""
QUERY = "split a string at whitespace"
WIDTH = 1000


def screenshot(page: Path, height: int, width: int = WIDTH, dark: bool = False) -> Image.Image:
    """A picture of a page, from its top."""
    browser = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser is None:
        sys.exit("There is no Chromium. Install it, for example with: apt-get install chromium")
    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "page.png")
        command = [browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"]
        command += ["--blink-settings=preferredColorScheme=0"] if dark else []
        command += [f"--window-size={width},{height}", f"--screenshot={picture}", page.resolve().as_uri()]
        subprocess.run(command, check=True, capture_output=True, timeout=120)
        return Image.open(BytesIO(picture.read_bytes())).convert("RGB")


def save(picture: Image.Image, path: Path) -> None:
    """Write a picture with few colours, which is small."""
    picture.quantize(96, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path}: {path.stat().st_size / 1000:.0f} kB, {picture.size[0]} x {picture.size[1]}")


def trimmed(picture: Image.Image, margin: int = 16) -> Image.Image:
    """Without the empty end of a picture."""
    from PIL import ImageChops

    background = Image.new("RGB", picture.size, picture.getpixel((picture.size[0] - 1, picture.size[1] - 1)))
    box = ImageChops.difference(picture, background).getbbox()
    return picture if box is None else picture.crop((0, 0, picture.size[0], min(picture.size[1], box[3] + margin)))


def notebook_page(retriever: Path, folder: Path) -> Path:
    """Run a notebook that searches, and write its cell and what it shows as a page."""
    code = CELL.format(folder=str(retriever.resolve()), query=QUERY)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(code)])
    nbclient.NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
    shown = next(output for output in notebook.cells[0].outputs if output.output_type == "execute_result")
    page = folder / "notebook.html"
    code = CELL.format(folder=f"{retriever.parent.name}/{retriever.name}", query=QUERY)
    page.write_text(PAGE.format(code=html.escape(code), output=shown.data["text/html"]), encoding="utf-8")
    return page


def main() -> None:
    """Make all pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("quickstart", type=Path, help="folder that `dgr quickstart` wrote")
    parser.add_argument("--output", type=Path, default=Path("docs/gallery"), help="folder of the pictures")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    report = options.quickstart / "report.html"
    whole = screenshot(report, 6000)
    save(whole.crop((0, 0, WIDTH, 1080)), options.output / "report.png")
    save(screenshot(report, 1080, 500, dark=True), options.output / "report-phone.png")
    with tempfile.TemporaryDirectory() as folder:
        # The same page from another heading on: a browser shows it from its top.
        for name, heading, height in (
            ("report-training", "How the training went", 1150),
            ("report-queries", "Query by query", 900),
        ):
            part = Path(folder, f"{name}.html")
            head, rest = report.read_text(encoding="utf-8").split("<body>", 1)
            section = rest.split(f"<h2>{heading}</h2>", 1)[1]
            part.write_text(f"{head}<body><section><h2>{heading}</h2>{section}", encoding="utf-8")
            save(screenshot(part, height), options.output / f"{name}.png")
        page = notebook_page(options.quickstart / "retriever", Path(folder))
        save(trimmed(screenshot(page, 1600)), options.output / "notebook.png")


if __name__ == "__main__":
    main()
