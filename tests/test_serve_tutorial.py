"""The tutorial docs/labeling.md in a real browser: recognize, correct, train, recognize again.

pytest -m slow tests/test_serve_tutorial.py -s prints its figures. JDANCE_SCREENSHOTS=FOLDER keeps
its images.
"""

import base64
import io
import os
import re
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT
from PIL import Image
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import Select
from test_serve_browser import WIDTHS, Page, downloaded, serving

from jdance.recognize import score

pytestmark = pytest.mark.slow

MAX_BYTES = 150_000  # of an image
LABELED, NEW = "scene-0", "scene-1"


def blocks():
    """Returns the commands of the tutorial, without those of the server and of the browser."""
    text = (ROOT / "docs" / "labeling.md").read_text().split("\n## Your own videos\n")[0]
    found = re.findall(r"^```bash\n(.*?)^```", text, re.M | re.S)
    return [block for block in found if "launch/serve.py" not in block]


def shell(block, folder):
    """Runs commands in a folder that has launch/ and configs/; returns what they print."""
    for name in ("launch", "configs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    environment = os.environ | {
        "HOME": str(folder),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
    }
    command = ["bash", "-ec", block]
    done = subprocess.run(command, cwd=folder, env=environment, text=True, capture_output=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def figures(text):
    """Returns F1@50 and the fraction of the time that is right, by video."""
    found = re.findall(r"^(scene-\d): F1@50 ([\d.]+), ([\d.]+) of the time", text, re.M)
    return {name: (float(f1), float(right)) for name, f1, right in found}


def shot(page, name, first, last, folder):
    """Writes a small image of the page from one element to another."""
    clip = page.run(
        "const rectangle = (id) => document.getElementById(id).getBoundingClientRect();"
        "const [a, b] = [...arguments].map(rectangle);"
        "const left = Math.min(a.left, b.left) - 16; const top = a.top + scrollY - 16;"
        "return {x: left, y: top, width: Math.max(a.right, b.right) + 16 - left,"
        "height: b.bottom + scrollY + 16 - top, scale: 0.75};",
        first, last,
    )  # fmt: skip
    data = page.command("Page.captureScreenshot", clip=clip, captureBeyondViewport=True)["data"]
    image = Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB")
    path = folder / f"{name}.png"
    image.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    assert path.stat().st_size < MAX_BYTES
    if kept := os.environ.get("JDANCE_SCREENSHOTS"):
        Path(kept).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, kept)


def wrong(result):
    """Lists what a user sees to be wrong: (track, start, end, right motion).

    Args:
        result: a `score.Result`.
    """
    tracks = {dancer: track for track, dancer in result.matches.items()}
    found = []
    for true in result.true:
        right = sum(
            max(min(s.end, true.end) - max(s.start, true.start), 0)
            for s in result.segments
            if (s.track, s.motion) == (true.track, true.motion)
        )
        if true.track in tracks and right < 0.8 * true.seconds and true.seconds > 0.5:
            found.append((tracks[true.track], true.start, true.end, true.motion))
    return sorted(found)


def mark(page, track, start, end, motion):
    """Chooses a motion on the timeline, and fills in the form."""
    rows = page.browser.find_elements(
        By.CSS_SELECTOR, f".row[aria-label='dancer {track}'] .segment"
    )

    def covered(row):
        text = row.get_attribute("aria-label")
        first, last = (60 * int(m) + float(s) for m, s in re.findall(r"(\d+):([\d.]+)", text))
        return min(last, end) - max(first, start)

    max(rows, key=covered).send_keys(Keys.ENTER)
    assert page.run("return document.activeElement.id") == "label"
    Select(page["label"]).select_by_value(motion)
    for name, value in (("from", start), ("to", end)):
        page[name].clear()
        page[name].send_keys(f"{value:.2f}")


def save(page):
    before = page.run("return document.getElementById('marks').textContent")
    page["to"].send_keys(Keys.ENTER)
    page.wait(f"document.getElementById('marks').textContent !== {before!r}")


def correct(folder, pages):
    """Recognizes the first video on the page and corrects it; returns the number of marks."""
    keypoints = folder / "videos" / f"{LABELED}_keypoints"
    truth = folder / "videos" / f"{LABELED}_truth.csv"
    parts = wrong(score.read(folder / "before" / f"{LABELED}.json", truth, keypoints))
    assert parts
    for name in ("server", "page", "Downloads"):
        (folder / name).mkdir()
    with serving("stage", folder / "server") as address:
        page = Page(address, folder / "page", WIDTHS["desktop"])
        with closing(page):
            (video,) = [
                p for p in (folder / "videos").glob(f"{LABELED}.*") if p.suffix in (".webm", ".mp4")
            ]
            page["file"].send_keys(str(video))
            page.wait_until_done()
            page.run("document.getElementById('video').currentTime = arguments[0]", parts[0][1] + 1)
            page.wait("!document.getElementById('video').seeking")
            shot(page, "labeling-1-recognized", "title", "timeline-card", pages)
            for number, part in enumerate(parts):
                mark(page, *part)
                if number == len(parts) - 1:
                    shot(page, "labeling-2-correct", "timeline-card", "correct", pages)
                save(page)
            page.browser.refresh()  # nothing is lost
            page.wait_until_done()
            assert len(page.browser.find_elements(By.CSS_SELECTOR, "#marks li")) == len(parts)
            page["rest"].click()
            shot(page, "labeling-3-saved", "timeline-card", "marks-card", pages)
            page["manifest"].click()
            text = downloaded(folder / "page" / "manifest.csv")
            (folder / "Downloads" / "manifest.csv").write_text(text)
            page.check()
    return len(parts)


def test_tutorial(tmp_path):
    """The commands of the page, with the browser between them."""
    stage, before, prepare, after = blocks()
    shell(stage, tmp_path)
    first = figures(shell(before, tmp_path))
    marks = correct(tmp_path, tmp_path)
    shell(prepare, tmp_path)
    second = figures(shell(after, tmp_path))
    print(f"\n{marks} marks; before {first}, after {second} (F1@50, fraction of the time right)")
    assert np.all(np.array(second[LABELED]) > first[LABELED])
    assert np.all(np.array(second[NEW]) > np.array(first[NEW]) - 0.1)  # nothing is forgotten
