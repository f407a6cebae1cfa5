"""Every backbone by name. Adding one: a file in this folder with a `Backbone`, and a line in BACKBONES.

    network = build_backbone('LightCNN_9Layers', image_size=128, channels=1)       # (N, 1, 128, 128) -> (N, 256)
"""
from collections.abc import Mapping
from typing import Any, Optional

from src.backbone import Backbone
from src.backbones.attentionnet import AttentionNet56, AttentionNet92
from src.backbones.efficientnet import EfficientNetB0
from src.backbones.ghostnet import GhostNet
from src.backbones.hrnet import HRNetW18
from src.backbones.iresnet import IResNet18, IResNet34, IResNet50, IResNet100, IResNet200
from src.backbones.lightcnn_variants import LightCNN29FaceXZoo, LightCNNV4
from src.backbones.mbf import MBF, MBFLarge
from src.backbones.mobilefacenet import MobileFaceNet, MobileFaceNetH4, MobileFaceNetY1, MobileFaceNetY2
from src.backbones.repvgg import RepVGGA0, RepVGGB0, RepVGGB1
from src.backbones.resnest import ResNeSt50
from src.backbones.resnet_ir import ResNet50IR, ResNet50IRSE, ResNet100IR, ResNet100IRSE, ResNet152IR, ResNet152IRSE
from src.backbones.rexnet import ReXNet, ReXNetSE
from src.backbones.swin import SwinSmall, SwinTiny
from src.backbones.tf_nas import TFNASA
from src.backbones.vit import ViTBase, ViTHuge, ViTLarge, ViTSmall, ViTTiny
from src.cpu.fast_path import with_fast_path
from src.initializers import Init
from src.lightcnn import LightCNN9, LightCNN29, LightCNN29v2
from src.options import checked_options, entry

BACKBONES = {
    'LightCNN_9Layers': LightCNN9,
    'LightCNN_29Layers': LightCNN29,
    'LightCNN_29Layers_v2': LightCNN29v2,
    'iresnet18': IResNet18,
    'iresnet34': IResNet34,
    'iresnet50': IResNet50,
    'iresnet100': IResNet100,
    'iresnet200': IResNet200,
    'resnet50_ir': ResNet50IR,
    'resnet50_irse': ResNet50IRSE,
    'resnet100_ir': ResNet100IR,
    'resnet100_irse': ResNet100IRSE,
    'resnet152_ir': ResNet152IR,
    'resnet152_irse': ResNet152IRSE,
    'mobilefacenet': MobileFaceNet,
    'mobilefacenet_h4': MobileFaceNetH4,
    'mobilefacenet_y1': MobileFaceNetY1,
    'mobilefacenet_y2': MobileFaceNetY2,
    'mbf': MBF,
    'mbf_large': MBFLarge,
    'vit_t': ViTTiny,
    'vit_s': ViTSmall,
    'vit_b': ViTBase,
    'vit_l': ViTLarge,
    'vit_h': ViTHuge,
    'swin_t': SwinTiny,
    'swin_s': SwinSmall,
    'lightcnn_v4': LightCNNV4,
    'lightcnn29_facexzoo': LightCNN29FaceXZoo,
    'ghostnet': GhostNet,
    'efficientnet_b0': EfficientNetB0,
    'tf_nas_a': TFNASA,
    'repvgg_a0': RepVGGA0,
    'repvgg_b0': RepVGGB0,
    'repvgg_b1': RepVGGB1,
    'hrnet_w18': HRNetW18,
    'resnest50': ResNeSt50,
    'attentionnet56': AttentionNet56,
    'attentionnet92': AttentionNet92,
    'rexnet_1.0': ReXNet,
    'rexnet_1.0_se': ReXNetSE,
}
# other names under which people know the same networks
ALIASES = {
    'lightcnn_9': 'LightCNN_9Layers',
    'lightcnn_29': 'LightCNN_29Layers',
    'lightcnn_29v2': 'LightCNN_29Layers_v2',
    'arcface_torch_r18': 'iresnet18',
    'arcface_torch_r34': 'iresnet34',
    'arcface_torch_r50': 'iresnet50',
    'arcface_torch_r100': 'iresnet100',
    'arcface_torch_r200': 'iresnet200',
    'facexzoo_resnet50_ir': 'resnet50_ir',
    'facexzoo_resnet50_irse': 'resnet50_irse',
    'facexzoo_resnet100_ir': 'resnet100_ir',
    'facexzoo_resnet100_irse': 'resnet100_irse',
    'facexzoo_resnet152_ir': 'resnet152_ir',
    'facexzoo_resnet152_irse': 'resnet152_irse',
    'facexzoo_mobilefacenet': 'mobilefacenet',
    'facexzoo_mobilefacenet_h4': 'mobilefacenet_h4',
    'mxnet_fmobilefacenet_y1_128': 'mobilefacenet_y1',
    'mxnet_fmobilefacenet_y2_256': 'mobilefacenet_y2',
    'arcface_torch_mbf': 'mbf',
    'arcface_torch_mbf_large': 'mbf_large',
    'arcface_torch_vit_t': 'vit_t',
    'arcface_torch_vit_s': 'vit_s',
    'arcface_torch_vit_b': 'vit_b',
    'facexzoo_swin_t': 'swin_t',
    'facexzoo_swin_s': 'swin_s',
    'facexzoo_lightcnn29': 'lightcnn29_facexzoo',
    'facexzoo_ghostnet': 'ghostnet',
    'facexzoo_efficientnet_b0': 'efficientnet_b0',
    'facexzoo_tf_nas_a': 'tf_nas_a',
    'facexzoo_repvgg_a0': 'repvgg_a0',
    'facexzoo_repvgg_b0': 'repvgg_b0',
    'facexzoo_repvgg_b1': 'repvgg_b1',
    'facexzoo_hrnet_w18': 'hrnet_w18',
    'facexzoo_resnest50': 'resnest50',
    'facexzoo_attentionnet56': 'attentionnet56',
    'facexzoo_attentionnet92': 'attentionnet92',
    'facexzoo_rexnet_1.0': 'rexnet_1.0',
    'facexzoo_rexnet_1.0_se': 'rexnet_1.0_se',
}


def backbone_class(name: str) -> type:
    """Return the class of a backbone; ValueError lists the known names."""
    return entry('backbone', BACKBONES, ALIASES.get(name, name))


def backbone_options(name: str, given: Mapping) -> dict:
    """Return all options of a backbone, `given` ones checked; ValueError for what it does not take."""
    return checked_options(f'backbone {name}', backbone_class(name).OPTIONS, given)


def build_backbone(name: str, *, init: Optional[Init] = None, **options: Any) -> Backbone:
    """Return the backbone `name`: a Cell (N, C, S, S) float32 -> (N, D) float32.

    init: where initial weights come from; None: zeros, which a checkpoint replaces. options: `image_size`, `channels`,
    `embedding_size` and the family's own. Raises ValueError for an unknown name or option, or a size it cannot take.
    """
    init = init or Init()
    network = backbone_class(name)(init, backbone_options(name, options))
    network.name = ALIASES.get(name, name)
    return with_fast_path(network) if init.fused else network
