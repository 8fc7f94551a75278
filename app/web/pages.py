"""Pages that refuse a window: one sentence, and what to do. They quote nothing of a request."""

from html import escape

from aiohttp import web

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sequoia: {title}</title>
<style>
body {{ background: #101511; color: #d7ded6; font: 16px/1.5 monospace; margin: 15vh auto;
  max-width: 38em; padding: 0 1em; }}
h1 {{ color: #8fbf8f; font-size: 1.2em; }}
</style>
<h1>{title}</h1>
<p>{text}</p>
</html>
"""


def forbidden() -> web.Response:
    """For a request without the key."""
    return _page(
        403,
        "This address lacks the key",
        "Open the whole address that `sequoia web` printed; it is another one at each start.",
    )


def full(windows: int) -> web.Response:
    """For one window too many."""
    open_ones = "The one window is" if windows == 1 else f"All {windows} windows are"
    return _page(
        503,
        f"{open_ones} open",
        "Close one and load this page again. `sequoia web --sessions N` allows more.",
    )


def _page(status: int, title: str, text: str) -> web.Response:
    html = _PAGE.format(title=escape(title), text=escape(text))
    return web.Response(status=status, text=html, content_type="text/html")
