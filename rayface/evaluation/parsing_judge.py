"""The parsing judge: a parser of its own widths, seed and training, which no loss uses (docs/judges.md).

`benchmarks/release_parsing_judge.py` puts one that `rayface train parsing` made into weights/judges/parsing.*.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayface.errors import RayfaceError
from rayface.evaluation.attribute_judge import WEIGHTS
from rayface.networks.parser import Parser, ParserConfig
from rayface.records import check_metadata, schema_metadata

NAME = "parsing"


class ParsingJudge(nn.Module):
    """Face crops float [N, 3, 256, 256] in [-1, 1], FFHQ-aligned -> class ids uint8 [N, 256, 256]."""

    def __init__(self, parser: Parser) -> None:
        super().__init__()
        self.parser = parser

    def forward(self, images: Tensor) -> Tensor:
        return self.parser(images).argmax(1).to(torch.uint8)


def load_parsing_judge(folder: Path = WEIGHTS) -> ParsingJudge:
    """The judge, frozen, in eval mode, on the CPU. Raises RayfaceError: it is missing, or not what its json says."""
    from safetensors.torch import load

    try:
        info = json.loads((folder / f"{NAME}.json").read_text())
        data = (folder / f"{NAME}.safetensors").read_bytes()
    except OSError as error:
        raise RayfaceError(
            f"the parsing judge is not in {folder} ({error}); restore weights/judges, or make it with "
            "benchmarks/release_parsing_judge.py",
            kind="missing-judge",
        ) from error
    if hashlib.sha256(data).hexdigest() != info["sha256"]:
        raise RayfaceError(f"{folder / NAME}.safetensors does not match its sha256 in {NAME}.json")
    check_metadata(info["schema"], f"{folder / NAME}.json")
    parser = Parser(ParserConfig(widths=tuple(info["widths"]), blocks=info["blocks"]))
    parser.load_state_dict({name: value.float() for name, value in load(data).items()})
    return ParsingJudge(parser).eval().requires_grad_(False)


def save_parsing_judge(parser: nn.Module, config: ParserConfig, folder: Path, about: dict[str, Any]) -> None:
    """Write the parser in half precision and its json, with `about` (terms, data, figures) in it."""
    from safetensors.torch import save

    data = save({name: value.to(torch.float16).contiguous() for name, value in parser.state_dict().items()})
    info = {
        "sha256": hashlib.sha256(data).hexdigest(),
        "widths": config.widths,
        "blocks": config.blocks,
        "schema": schema_metadata(),
        **about,
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{NAME}.safetensors").write_bytes(data)
    (folder / f"{NAME}.json").write_text(json.dumps(info, indent=1) + "\n")
