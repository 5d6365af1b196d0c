"""How large is a report on ten thousand configurations, how long does it take, and is it fluid in a browser?

Run by hand, with a Chromium installed: `python bench/report.py [--rows 10000]`. Times in the browser are medians of
five: from a sort, a search or a selection to the next frame that is drawn. The last line is JSON.
"""

import argparse
import itertools
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd
from playwright.sync_api import sync_playwright

from mdjax.report.page import write_report

FRAMES = "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
STEPS = {
    "sort": "document.querySelectorAll('#rows .tabulator-col-title')[3 + NUMBER % 3].click()",
    "search": "(() => { const field = document.getElementById('search'); field.value = 'net-NUMBER'; "
    "field.dispatchEvent(new Event('input')) })()",
    "scroll": "document.querySelector('.tabulator-tableholder').scrollTop = 20000 * (NUMBER + 1)",
    "select": "document.querySelectorAll(\"#map g[aria-label='cell'] rect\")[7 * NUMBER]"
    ".dispatchEvent(new MouseEvent('click', {bubbles: true}))",
}


def sweep(rows: int) -> pd.DataFrame:
    """A made sweep over width, batch size, learning rate, weight decay and data share."""
    rng = np.random.default_rng(0)
    axes = itertools.product(
        2 ** np.arange(2, 12), 2 ** np.arange(3, 13), np.geomspace(1e-4, 1, 10), (0.0, 1e-4), (0.1, 0.2, 0.4, 0.8, 1.0)
    )
    names = ["width", "batch_size", "learning_rate", "weight_decay", "data_share"]
    table = pd.DataFrame(itertools.islice(axes, rows), columns=names)
    table.insert(0, "configuration", [f"net-{k}" for k in range(len(table))])
    table["train_error"] = np.where(rng.random(len(table)) < 0.5, 0.0, 40 * rng.random(len(table)))
    table["test_error"] = 5 + 40 * rng.random(len(table))
    table["train_loss"], table["test_loss"] = rng.random(len(table)), 2 * rng.random(len(table))
    table["hessian_t"], table["hessian_e"] = 4 + 5 * rng.random(len(table)), 2 + 5 * rng.random(len(table))
    table["mode_connectivity_peak"], table["CKA"] = -30 * rng.random(len(table)), rng.random(len(table))
    for name in ("train_error", "test_error", "train_loss", "test_loss", "hessian_t", "hessian_e"):
        table[f"{name}_se"] = 0.01 + 0.1 * rng.random(len(table))
    return table.assign(num_models=3, preset="default", status="ok")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=10_000)
    rows = parser.parse_args().rows
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        path = Path(folder) / "report.html"
        started = time.monotonic()
        write_report(path, sweep(rows))
        told = {"rows": rows, "seconds": round(time.monotonic() - started, 1), "mb": path.stat().st_size / 1e6}
        found = shutil.which("chromium") or playwright.chromium.executable_path
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1400, "height": 900}, bypass_csp=True)
        started = time.monotonic()
        page.goto(path.as_uri())
        page.wait_for_selector("html[data-ready]", timeout=120_000)
        told["open_seconds"] = round(time.monotonic() - started, 1)
        for name, step in STEPS.items():
            times = []
            for number in range(5):
                started = time.monotonic()
                page.evaluate(f"{step.replace('NUMBER', str(number))}; {FRAMES}")
                times.append(time.monotonic() - started)
            told[f"{name}_ms"] = round(1000 * statistics.median(times))
            page.click("#clear")
        browser.close()
    print(json.dumps(told))


if __name__ == "__main__":
    main()
