from __future__ import annotations

from typing import Any

import pytest
import timm
import torch
from torch import nn

from detfuse.backbones.timm_backbone import TimmBackbone


def test_levels_are_chosen_by_stride_the_last_of_each() -> None:
    assert TimmBackbone(name="resnet10t", levels=[2, 4]).out_spec.channels == (64, 256)
    assert TimmBackbone(name="vit_tiny_patch16_224", levels=[4]).out_spec.strides == (16,)  # 12 maps of stride 16


def test_a_model_that_is_registered_anew_is_another_one() -> None:
    """As in a notebook, whose cell is run again after a change."""

    def registered(like: str) -> None:
        def model_of_mine(pretrained: bool = False, **options: Any) -> nn.Module:
            made: nn.Module = timm.create_model(like, pretrained=pretrained, **options)
            return made

        timm.models.register_model(model_of_mine)

    registered("test_resnet")
    assert TimmBackbone(name="model_of_mine").out_spec.channels == (48, 192, 96)
    with pytest.warns(UserWarning, match="Overwriting model_of_mine"):
        registered("resnet10t")
    assert TimmBackbone(name="model_of_mine").out_spec.channels == (128, 256, 512)


def test_unknown_level_lists_the_strides_there_are() -> None:
    with pytest.raises(ValueError, match=r"levels \[3, 4, 6\] need maps of stride 64, .* 8 \(level 3\), 16 .*, 32 "):
        TimmBackbone(name="resnet10t", levels=[3, 4, 6])


@pytest.mark.parametrize("levels", [[4, 3], [3, 3], []])
def test_levels_must_ascend(levels: list[int]) -> None:
    with pytest.raises(ValueError, match="levels must ascend"):
        TimmBackbone(name="resnet10t", levels=levels)


def test_misspelt_model_is_answered_with_near_names() -> None:
    with pytest.raises(ValueError, match=r"no model 'resnet10'.*did you mean .*resnet10t"):
        TimmBackbone(name="resnet10")


def test_nhwc_maps_become_nchw() -> None:
    backbone = TimmBackbone(name="swin_tiny_patch4_window7_224", levels=[2, 3]).eval()
    with torch.no_grad():
        features = backbone(torch.randn(1, 3, 64, 96))
    assert [tuple(x.shape) for x in features] == [(1, 96, 16, 24), (1, 192, 8, 12)]


def test_model_of_one_image_size_is_refused_with_the_reason() -> None:
    with pytest.raises(ValueError, match=r"coat_tiny: an image of 64 x 96 pixels fails .*224"):
        TimmBackbone(name="coat_tiny")


@pytest.mark.parametrize("name", ["resnet10t", "mobilenetv3_small_050", "xception41"])
def test_stages_nobody_asked_for_do_not_learn(name: str) -> None:
    # EfficientNet-like models keep all stages in timm; xception's taps lie within blocks that must stay whole.
    backbone = TimmBackbone(name=name, levels=[2, 3]).train()
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 96))).backward()
    assert [key for key, p in backbone.named_parameters() if p.requires_grad and p.grad is None] == []


def test_deeper_stages_do_not_exist() -> None:
    whole, cut = (TimmBackbone(name="mobilenetv3_small_050", levels=levels) for levels in ([3, 4, 5], [3]))
    assert sum(p.numel() for p in cut.parameters()) < 0.1 * sum(p.numel() for p in whole.parameters())


def test_construction_leaves_statistics_alone_and_draws_only_for_the_weights() -> None:
    import timm

    torch.manual_seed(3)
    backbone = TimmBackbone(name="resnet10t", frozen_stages=2)
    after = torch.rand(1)
    assert all(buffer.eq(0).all() for key, buffer in backbone.named_buffers() if "num_batches_tracked" in key)
    assert all(buffer.eq(1).all() for key, buffer in backbone.named_buffers() if "running_var" in key)
    assert backbone.training
    torch.manual_seed(3)
    timm.create_model("resnet10t", features_only=True, out_indices=(2, 3, 4))
    assert torch.equal(after, torch.rand(1))


def batchnorms(module: nn.Module) -> list[nn.Module]:
    return [m for m in module.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_frozen_stages_stay_frozen_after_train() -> None:
    backbone = TimmBackbone(name="resnet10t", frozen_stages=2).train()
    model = backbone.model
    frozen, free = [model.conv1, model.layer1], [model.layer2, model.layer3, model.layer4]
    before = {key: value.clone() for key, value in model.state_dict().items()}
    sum(feature.mean() for feature in backbone(torch.randn(2, 3, 64, 96))).backward()
    after = model.state_dict()
    changed = {key.split(".")[0] for key in after if "running" in key and not torch.equal(before[key], after[key])}
    assert changed == {"layer2", "layer3", "layer4"}
    assert not any(p.requires_grad for module in frozen for p in module.parameters())
    assert all(p.grad is not None for module in free for p in module.parameters())
    assert not any(norm.training for module in frozen for norm in batchnorms(module))


def test_the_stem_is_the_first_stage_also_where_there_is_no_map_of_stride_two() -> None:
    backbone = TimmBackbone(name="convnext_atto", frozen_stages=1)
    frozen = {key.split(".")[1] for key, p in backbone.named_parameters() if not p.requires_grad}
    assert frozen == {"stem_0", "stem_1"}


def test_a_stage_that_does_not_exist_cannot_be_frozen() -> None:
    with pytest.raises(ValueError, match=r"frozen_stages=6 .*strides \[2, 4, 8, 16, 32\].*at most 5"):
        TimmBackbone(name="resnet10t", frozen_stages=6)


def test_frozen_norms_keep_their_activation_and_their_statistics() -> None:
    torch.manual_seed(0)
    plain = TimmBackbone(name="mobilenetv3_small_050", levels=[3])  # its norms are fused with activations
    frozen = TimmBackbone(name="mobilenetv3_small_050", levels=[3], norm="frozen")
    missing = frozen.load_state_dict(plain.state_dict(), strict=False).missing_keys
    assert missing == []
    assert batchnorms(frozen) == []
    images = torch.randn(2, 3, 64, 64)
    frozen.train()
    torch.testing.assert_close(frozen(images), plain.eval()(images))


def test_synchronised_norms_equal_plain_ones_in_one_process() -> None:
    torch.manual_seed(0)
    plain = TimmBackbone(name="mobilenetv3_small_050", levels=[3])
    synchronised = TimmBackbone(name="mobilenetv3_small_050", levels=[3], norm="sync")
    synchronised.load_state_dict(plain.state_dict())
    assert all(isinstance(norm, nn.SyncBatchNorm) for norm in batchnorms(synchronised))
    images = torch.randn(2, 3, 64, 64)
    torch.testing.assert_close(synchronised.eval()(images), plain.eval()(images))


def test_unknown_norm_is_refused() -> None:
    with pytest.raises(ValueError, match="norm must be train, frozen or sync, got 'group'"):
        TimmBackbone(name="resnet10t", norm="group")


def test_drop_path_reaches_the_model_or_is_refused() -> None:
    rates = [m.drop_prob for m in TimmBackbone(name="resnet10t", drop_path=0.2).modules() if hasattr(m, "drop_prob")]
    assert max(rates) == pytest.approx(0.2)
    with pytest.raises(ValueError, match=r"vgg11: timm cannot build it .*drop_path=0.2"):
        TimmBackbone(name="vgg11", drop_path=0.2)


def test_exports_and_compiles_whole() -> None:
    backbone = TimmBackbone(name="mobilenetv3_small_050", levels=[2, 3], frozen_stages=1, norm="frozen")
    images = torch.randn(1, 3, 64, 96)
    expected = backbone(images)
    exported = torch.export.export(backbone, (images,), strict=True).module()
    torch.testing.assert_close(list(exported(images)), expected)
    compiled = torch.compile(backbone, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(images), expected)
