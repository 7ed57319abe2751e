from __future__ import annotations

import json
import re

import torch

from detfuse.runs.environment import environment


def test_environment_is_plain_text_without_paths() -> None:
    found = environment()
    assert found == json.loads(json.dumps(found))
    assert {"python", "torch", "torchvision", "timm", "detfuse", "hotcoco"} <= set(found)
    assert {"device", "cpu_count", "threads", "git_commit", "platform"} <= set(found)
    assert found["torch"] == torch.__version__
    assert re.fullmatch(r"[0-9a-f]{40}(-dirty)?|none|unknown", found["git_commit"])
    assert not [value for key, value in found.items() if key != "device" and "/" in value]
