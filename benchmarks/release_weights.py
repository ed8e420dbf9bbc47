"""Put a trained model of a store into the release weights: half precision, with metrics, terms and a card.

    python benchmarks/release_weights.py parsing@1 --store runs/store --data DIR --split test --about card.md

Licence, terms and commercial use are those that training inherited (`rayface.terms`), from its data, from what it began
as and from its teachers; say them (`--licence`, `--terms`, `--no-commercial-use`) for a model whose config.json does
not. `--about` is text for the card: how it was trained and what its limits are. Everything else of the card comes from
config.json and from the metrics, which are measured here on the half-precision weights that are released.
`--measure-again`, without `--store`, rewrites metrics and card of a model that is released, say parsing@r1.
"""

import argparse
import json
from pathlib import Path
from typing import Any

from rayface.errors import RayfaceError
from rayface.evaluation.card import model_card
from rayface.evaluation.evaluate import evaluate
from rayface.store import RELEASE_WEIGHTS, ModelStore, open_store, release_store
from rayface.terms import commercial_use

# What training wrote into config.json and the release keeps.
KEPT = ("run", "steps", "init", "data", "command", "calibration", "source", "cosines", "trained_with")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--store", default="")
    parser.add_argument("--name", help="in the release; by default as in the store")
    parser.add_argument("--measure-again", action="store_true")
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--limit", type=int, default=0)
    parser.add_argument("--licence")
    parser.add_argument("--terms")
    parser.add_argument("--commercial-use", action=argparse.BooleanOptionalAction, default=None)
    parser.add_argument("--about", type=Path, required=True)
    arguments = parser.parse_args()

    if arguments.measure_again == bool(arguments.store):
        parser.error("give either --store, where the model is, or --measure-again")
    ref = arguments.model if arguments.measure_again else release(arguments)
    folder = RELEASE_WEIGHTS / ref.replace("@", "/")
    info = release_store().info(ref)
    # the store behind which the release stands holds the models that taught it
    store = open_store(arguments.store or None)
    report = evaluate(info["system"], arguments.data, store, str(folder), arguments.split, arguments.limit or None)
    (folder / "metrics.json").write_text(json.dumps(report, indent=1) + "\n")
    (folder / "README.md").write_text(model_card(info, report, arguments.about.read_text()))
    print(json.dumps({"model": ref, "metrics": report["metrics"]}, indent=1))


def release(arguments: argparse.Namespace) -> str:
    """Save the model among the release weights in half precision; its reference there."""
    loaded = ModelStore(arguments.store).load(arguments.model)
    terms = stated_terms(loaded.info, arguments.licence, arguments.terms, arguments.commercial_use)
    details = {**{key: value for key, value in loaded.info.items() if key in KEPT}, **terms}
    name = arguments.name or loaded.name
    return release_store().save(name, loaded.system, loaded.config, loaded.networks, half=True, details=details)


def stated_terms(info: dict[str, Any], licence: str | None, terms: str | None, allowed: bool | None) -> dict[str, Any]:
    """`licence`, `terms` and `commercial_use` of a release: what config.json says, but for what is given here.

    Raises RayfaceError where neither says it: a release must.
    """
    found = {
        "licence": licence or info.get("licence", "unstated"),
        "terms": terms or info.get("terms", ""),
        "commercial_use": commercial_use(info) if allowed is None else allowed,
    }
    for key, value in found.items():
        if value in ("", "unstated"):
            option = {"commercial_use": "--commercial-use or --no-commercial-use"}.get(key, f"--{key}")
            raise RayfaceError(f"{info['name']}@{info['version']} does not state its {key}: give {option}")
    if found["licence"] == "research-only" and found["commercial_use"] is True:
        raise RayfaceError(
            "the licence 'research-only' and commercial use exclude each other: give --no-commercial-use"
        )
    return found


if __name__ == "__main__":
    main()
