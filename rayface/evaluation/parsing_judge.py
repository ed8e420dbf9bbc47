"""The parsing judge: a parser of its own widths, seed and training, which no loss uses (docs/judges.md).

`benchmarks/release_parsing_judge.py` puts one that `rayface train parsing` made into weights/judges/parsing.*.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rayface.evaluation.judge_weights import WEIGHTS, read_judge, write_judge
from rayface.networks.parser import Parser, ParserConfig

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
    info, state = read_judge(NAME, folder, "benchmarks/release_parsing_judge.py")
    parser = Parser(ParserConfig(widths=tuple(info["widths"]), blocks=info["blocks"]))
    parser.load_state_dict(state)
    return ParsingJudge(parser).eval().requires_grad_(False)


def save_parsing_judge(parser: nn.Module, config: ParserConfig, folder: Path, about: dict[str, Any]) -> None:
    """Write the parser in half precision and its json, with `about` (terms, data, figures) in it."""
    write_judge(NAME, folder, parser.state_dict(), {"widths": config.widths, "blocks": config.blocks, **about})
