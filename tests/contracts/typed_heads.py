"""Read by mypy alone: each head's loss and candidates take what its own forward gives, and no other's.

An ignore that is not needed is an error too, so that a protocol which accepts anything is found out.
"""

from detfuse.heads.anchored import AnchoredOutputs
from detfuse.heads.efficientdet import EfficientDetHead
from detfuse.heads.faster_rcnn import FasterRCNNHead, FasterRCNNOutputs
from detfuse.heads.fcos import FCOSHead, FCOSOutputs
from detfuse.heads.mscnn import MSCNNHead, MSCNNOutputs
from detfuse.heads.mscnn_proposal import MSCNNProposalHead, MSCNNProposalOutputs
from detfuse.heads.retinanet import RetinaNetHead, RetinaNetOutputs
from detfuse.heads.ssd import SSDHead, SSDOutputs
from detfuse.protocols import Head

efficientdet: type[Head[AnchoredOutputs]] = EfficientDetHead
faster_rcnn: type[Head[FasterRCNNOutputs]] = FasterRCNNHead
fcos: type[Head[FCOSOutputs]] = FCOSHead
mscnn: type[Head[MSCNNOutputs]] = MSCNNHead
mscnn_proposal: type[Head[MSCNNProposalOutputs]] = MSCNNProposalHead
retinanet: type[Head[RetinaNetOutputs]] = RetinaNetHead
ssd: type[Head[SSDOutputs]] = SSDHead
other: type[Head[SSDOutputs]] = RetinaNetHead  # type: ignore[assignment]  # the same fields, but not the same order of classes
