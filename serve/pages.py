"""What people see in a browser: the page at `/` with its style and scripts, and the description at `/docs`."""

from pathlib import Path

from fastapi import FastAPI, Response

HERE = Path(__file__).parent
FOLDER = HERE / "page"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The page loads what this service serves and nothing else, and no page of another site may frame it. `blob:` are the
# photos, which it holds itself.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # scripts of an older version would not know what a newer service answers
}


def add_pages(app: FastAPI) -> None:
    """Serve all files of `serve/page`, at `/page/NAME` and its index at `/`, and `/docs`; none of them needs a key."""
    for file in sorted(file for file in FOLDER.iterdir() if file.suffix in TYPES):
        path = "/" if file.name == "index.html" else f"/page/{file.name}"
        _add(app, path, file, HEADERS)
    _add(app, "/docs", HERE / "docs.html", {})


def _add(app: FastAPI, path: str, file: Path, headers: dict[str, str]) -> None:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=media_type, headers=headers)
