"""Pages of the site that are not written by hand, for `mkdocs build` (a hook of mkdocs.yml).

The model cards, from config.json and metrics.json of every released model as `rayface evaluate` wrote them, and what
stands at the top of the repository (CONTRIBUTING.md, CHANGELOG.md). So no figure is copied.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from rayface.evaluation.card import model_card
from rayface.terms import commercial_use

ROOT = Path(__file__).resolve().parents[1]
TOP = {"contributing.md": "CONTRIBUTING.md", "changelog.md": "CHANGELOG.md"}
INTRODUCTION = """# Model cards

One for each model that lies in `weights/`, made from its `config.json` and from the report of `rayface evaluate`
(`metrics.json`) when this site is made; `README.md` beside them says the same. The terms in full:
`weights/LICENSE`. A model that you train has these two files too: `rayface models show NAME`.
"""


def released() -> Iterator[tuple[Path, dict[str, Any]]]:
    """Folder and config.json of every released model."""
    for path in sorted((ROOT / "weights").glob("*/*/config.json")):
        yield path.parent, json.loads(path.read_text())


def card(folder: Path, info: dict[str, Any]) -> str:
    """A model's card as Markdown; what only its maker knows is taken from README.md, every figure is not."""
    about = (folder / "README.md").read_text().split("## What it is")[0].partition("\n")[2]
    return model_card(info, json.loads((folder / "metrics.json").read_text()), about)


def index() -> str:
    """The page that lists the models."""
    head = ["model", "system", "parameters", "MB", "trained on", "licence", "commercial use"]
    rows = [head, ["---"] * len(head)]
    for folder, info in released():
        data = info.get("data") or {}
        use = {True: "allowed", False: "not allowed"}.get(commercial_use(info), "not stated")  # type: ignore[arg-type]
        rows.append(
            [
                f"[{info['name']}@{info['version']}]({info['name']}.md)",
                info["system"],
                f"{info['parameters']:,}" if "parameters" in info else "",
                f"{(folder / 'model.safetensors').stat().st_size / 1e6:.1f}",
                f"{data['faces']:,} faces ({data['format']})" if data else str(info.get("source", "")),
                str(info.get("licence", "unstated")),
                use,
            ]
        )
    return INTRODUCTION + "\n" + "\n".join("| " + " | ".join(row) + " |" for row in rows) + "\n"


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds the pages that are made."""
    made = {page: (ROOT / source).read_text() for page, source in TOP.items()}
    made["cards/index.md"] = index()
    for folder, info in released():
        made[f"cards/{info['name']}.md"] = re.sub(r"\]\((?:\.\./)*docs/", "](../", card(folder, info))
    for page, text in made.items():
        files.append(File.generated(config, page, content=text))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Lists the cards in the navigation, below their index."""
    for section in config.nav or []:
        for pages in section.values():
            if isinstance(pages, list) and "cards/index.md" in pages:
                pages.extend(f"cards/{info['name']}.md" for _, info in released())
    return config
