"""The well-known topologies, one paper one file: each a function from the backbone's levels to a :class:`FusionGraph`.

``c_i`` are the backbone's maps, ``p_i`` the outputs, indexed by log2 of the stride. No shipped topology pins an
operator: which one fuses is the free choice of ``operator=``.

Published starts of the convolutions (:mod:`detfuse.fill`; it is the neck's setting ``fill``, of which each YAML has the
published value): FPN, PAFPN and the levels above them are filled by the fan-in alone (Caffe2's XavierFill in Detectron,
also for RetinaNet's P6 and P7; kept by torchvision; mmdetection counts the fan-out as well), and so are SSD and FSSD
(Caffe's xavier); BiFPN by the mean of fan-in and fan-out (TensorFlow's default). U-Net has a start of its own.
"""

from detfuse.necks.topologies.bifpn import bifpn
from detfuse.necks.topologies.dense_pyramid import dense_pyramid
from detfuse.necks.topologies.early import early
from detfuse.necks.topologies.early_pyramid import early_pyramid
from detfuse.necks.topologies.extra_levels import with_extra_levels
from detfuse.necks.topologies.fcn_skip import fcn_skip
from detfuse.necks.topologies.fpn import fpn
from detfuse.necks.topologies.hypernet import hypernet
from detfuse.necks.topologies.pafpn import pafpn
from detfuse.necks.topologies.unet import unet
from detfuse.necks.topologies.unfused import unfused

__all__ = [
    "bifpn",
    "dense_pyramid",
    "early",
    "early_pyramid",
    "fcn_skip",
    "fpn",
    "hypernet",
    "pafpn",
    "unet",
    "unfused",
    "with_extra_levels",
]
