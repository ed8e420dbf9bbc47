"""Put a trained model of a store into the release weights: half precision, with metrics, terms and a card.

    python benchmarks/release_weights.py parsing@1 --store runs/store --data DIR --split test \
        --licence research-only --terms "CelebAMask-HQ: non-commercial research and education" --about card.md

`--about` is text for the card: what it was trained on and how, and its limits. The metrics are measured here, on the
half-precision weights that are released.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rayface.evaluation.evaluate import evaluate
from rayface.evaluation.report import rows
from rayface.store import RELEASE_WEIGHTS, ModelStore


def card(name: str, info: dict[str, Any], report: dict[str, Any], terms: str, about: str) -> str:
    measured = []
    for metric, value in rows(report["metrics"]):
        if isinstance(value, dict):
            measured.append(f"| {metric} | {value['value']:.4g} | {value['low']:.4g} to {value['high']:.4g} |")
        else:
            measured.append(f"| {metric} | {value:.4g} | |")
    return f"""# {name}

System: {info["system"]}. Terms: **{terms}** (see `weights/LICENSE`).

{about.strip()}

## Measured

{report["photos"]} photos of the {report["split"]} split ({report["data_source"]}, data digest
`{report["data"][:16]}`), 95 % bootstrap intervals over photos, on the weights as released (fp16).

| metric | value | interval |
|---|---|---|
{chr(10).join(measured)}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--licence", required=True)
    parser.add_argument("--terms", required=True)
    parser.add_argument("--about", type=Path, required=True)
    arguments = parser.parse_args()

    loaded = ModelStore(arguments.store).load(arguments.model)
    release = ModelStore(RELEASE_WEIGHTS)
    for network in loaded.networks.values():
        network.half().float()  # what is measured is what is released
    kept = {key: value for key, value in loaded.info.items() if key in ("steps", "data")}
    details = {**kept, "licence": arguments.licence, "terms": arguments.terms}
    ref = release.save(loaded.name, loaded.system, loaded.config, loaded.networks, half=True, details=details)
    report = evaluate(loaded.system, arguments.data, release, ref, arguments.split, arguments.limit or None)
    folder = RELEASE_WEIGHTS / ref.replace("@", "/")
    (folder / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    text = card(ref, loaded.info, report, arguments.terms, arguments.about.read_text())
    (folder / "README.md").write_text(text)
    print(json.dumps({"model": ref, "metrics": report["metrics"]}, indent=1))


if __name__ == "__main__":
    main()
