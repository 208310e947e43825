# Copyright: Holdfast maintainers
# GNU General Public License v3.0+ (see LICENSE or https://www.gnu.org/licenses/gpl-3.0.txt)
# SPDX-License-Identifier: GPL-3.0-or-later
"""A page in headless Chromium: what it draws, what it asks for, what it complains about and how it reads."""

from __future__ import annotations

import os
import pathlib
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from playwright.sync_api import Browser, Page, sync_playwright

Scheme = Literal["light", "dark"]

#: Nothing but the page: no updates, no lookups of the browser's own.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]

#: Every element with text of its own: its colour against the first background behind it, by WCAG 2, and its size.
READABILITY = """
() => {
  const parse = text => text.match(/[0-9.]+/g).map(Number);
  const light = rgb => {
    const [r, g, b] = rgb.slice(0, 3).map(c => (c /= 255) <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = element => {
    for (let e = element; e; e = e.parentElement) {
      const colour = parse(getComputedStyle(e).backgroundColor);
      if (colour.length < 4 || colour[3] > 0) return colour;
    }
    return [255, 255, 255];
  };
  return [...document.querySelectorAll('main *')]
    .filter(e => [...e.childNodes].some(n => n.nodeType === 3 && n.textContent.trim()) && e.getClientRects().length)
    .map(e => {
      const style = getComputedStyle(e), [a, b] = [light(parse(style.color)), light(behind(e))];
      return {text: e.textContent.trim().slice(0, 40), size: parseFloat(style.fontSize),
              contrast: (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05)};
    });
}
"""
#: The charts, and whether what they draw is inside of them and seen against what is behind.
CHARTS = """
() => [...document.querySelectorAll('svg.chart')].map(svg => {
  const frame = svg.getBoundingClientRect();
  return {
    width: frame.width,
    height: frame.height,
    shapes: [...svg.querySelectorAll('circle, polyline, line, rect')].map(shape => {
      const box = shape.getBoundingClientRect(), style = getComputedStyle(shape);
      return {kind: shape.tagName, fill: style.fill, stroke: style.stroke, width: box.width, height: box.height,
              inside: box.left >= frame.left - 1 && box.right <= frame.right + 1 &&
                      box.top >= frame.top - 1 && box.bottom <= frame.bottom + 1};
    }),
  };
})
"""
#: What sticks out of the page to the right.
TOO_WIDE = """
() => [...document.querySelectorAll('main *')]
  .filter(e => e.getClientRects().length && e.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
  .map(e => e.tagName + ': ' + e.textContent.trim().slice(0, 60))
"""


@contextmanager
def chromium() -> Iterator[Browser]:
    """The distribution's Chromium; ``CHROMIUM`` names another."""
    program = os.environ.get("CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "no Chromium: install the package chromium, or name the program in CHROMIUM"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        yield browser
        browser.close()


@contextmanager
def opened(
    browser: Browser, path: pathlib.Path, *, width: int = 1200, scheme: Scheme = "light"
) -> Iterator[tuple[Page, dict[str, list[Any]]]]:
    """A page that was opened and has come to rest, with its requests and its complaints."""
    context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
    page = context.new_page()
    seen: dict[str, list[Any]] = {"requests": [], "complaints": []}
    page.on("request", lambda request: seen["requests"].append(request.url))
    page.on("console", lambda message: seen["complaints"].append(message.text))
    page.on("pageerror", lambda error: seen["complaints"].append(str(error)))
    page.goto(path.as_uri(), wait_until="networkidle")
    yield page, seen
    context.close()
