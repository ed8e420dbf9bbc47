"""What people see in a browser: the page at `/` with its style and scripts, and the description at `/docs`."""

from pathlib import Path

from fastapi import FastAPI, Response

FOLDER = Path(__file__).parent / "page"
PLACES = {"index.html": "/", "docs.html": "/docs"}
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
# The pages load what this service serves and nothing else, and no page of another site may frame it. `blob:` are the
# photos, which the first holds itself.
HEADERS = {
    "content-security-policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "permissions-policy": "camera=(self)",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "cache-control": "no-cache",  # scripts of an older version would not know what a newer service answers
}


def add_pages(app: FastAPI) -> None:
    """Serve all files of `serve/page`, at `/page/NAME` but those of PLACES; none of them needs a key."""
    for file in sorted(file for file in FOLDER.iterdir() if file.suffix in TYPES):
        _add(app, PLACES.get(file.name, f"/page/{file.name}"), file)


def _add(app: FastAPI, path: str, file: Path) -> None:
    content, media_type = file.read_bytes(), TYPES[file.suffix]

    @app.get(path, include_in_schema=False)
    async def page() -> Response:
        return Response(content, media_type=media_type, headers=HEADERS)
