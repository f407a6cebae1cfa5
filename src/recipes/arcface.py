"""Recipes for colour faces in ArcFace's alignment, as the repositories of arcface_torch, AdaFace, ... train.

Their faces are 112x112 and only mirrored; `batch_size` is that of one of the published number of cards.
"""
from easydict import EasyDict as edict

from src.recipes.lightcnn import lightcnn9_ms1m


def faces_112(backbone: str, face_format: str, num_classes: int, batch_size: int, weight_decay: float) -> edict:
    """Return what such recipes share: mirrored 112x112 colour faces, SGD at 0.1, one weight decay for all weights."""
    cfg = lightcnn9_ms1m()
    cfg.network_type, cfg.face_format, cfg.num_classes, cfg.batch_size = backbone, face_format, num_classes, batch_size
    cfg.image_size = cfg.resize_size = 112
    cfg.augment = 'crop_flip'                # nothing is left to crop: mirrored or not
    cfg.lr, cfg.lr_decay = 0.1, 0.1
    cfg.weight_decay = cfg.fc2_weight_decay = weight_decay
    cfg.fc2_weight_lr_mult, cfg.fc2_bias_lr_mult = 1.0, 2.0
    cfg.num_workers = 8
    cfg.save_checkpoint_steps, cfg.keep_checkpoint_max = 5000, 5
    return cfg


def arcface_r50_ms1mv3() -> edict:
    """arcface_torch's ms1mv3_r50: iresnet50 and ArcFace on MS1MV3, 8 cards of 128.

    Result: IJB-C 96.37 (TPR at FAR 1e-4), MFR-ALL 79.14 percent, published by insightface, not measured here.
    Cost: 20 epochs of 5,179,510 faces, 101,000 steps of 8 x 128.
    Command: bash scripts/train_distribute_8p.sh hccl.json --recipe arcface_r50_ms1mv3 --dataset_path ms1mv3
    """
    cfg = faces_112('iresnet50', 'arcface', 93431, 128, 5e-4)
    cfg.loss, cfg.head_options = 'arcface', edict(hard_region='none', derivative='straight_through')
    cfg.lr_schedule, cfg.warmup, cfg.epochs = 'poly', 'arcface_torch', 20
    cfg.clip_norm, cfg.clip_part = 5.0, 'backbone'
    return cfg


def arcface_mbf_ms1mv3() -> edict:
    """arcface_torch's ms1mv3_mbf: its MobileFaceNet and ArcFace on MS1MV3, 8 cards of 128.

    Result: IJB-C 94.23 (TPR at FAR 1e-4), MFR-ALL 63.78 percent, published by insightface, not measured here.
    Cost: 40 epochs of 5,179,510 faces, 202,000 steps of 8 x 128.
    Command: bash scripts/train_distribute_8p.sh hccl.json --recipe arcface_mbf_ms1mv3 --dataset_path ms1mv3
    """
    cfg = arcface_r50_ms1mv3()
    cfg.network_type, cfg.epochs = 'mbf', 40
    cfg.weight_decay = cfg.fc2_weight_decay = 1e-4
    return cfg


def adaface_r50_ms1mv2() -> edict:
    """AdaFace's IR-50 on MS1MV2 at a batch of 512, without its low-resolution, crop and light augmentations.

    Result: LFW 99.82, IJB-C 96.27 (TPR at FAR 1e-4) percent, published by AdaFace's authors, not measured here.
    Cost: 26 epochs of 5.8 million faces, 295,000 steps of 2 x 256.
    Command: bash scripts/train_distribute.sh hccl.json 2 --recipe adaface_r50_ms1mv2 --dataset_path ms1mv2
    """
    cfg = faces_112('resnet50_ir', 'facexzoo', 85742, 256, 5e-4)
    cfg.loss = 'adaface'
    cfg.decay_norm_and_bias = False
    cfg.lr_schedule, cfg.lr_epochs, cfg.epochs = 'multistep', '12,20,24', 26
    return cfg


def magface_r100_ms1mv2() -> edict:
    """MagFace's run.sh with iresnet100 on MS1MV2: margins 0.45 to 0.8 by embedding length 10 to 110, lambda 35.

    Result: IJB-C 95.97, IJB-B 94.51 (TPR at FAR 1e-4) percent, published by MagFace's authors, not measured here.
    Cost: 25 epochs of 5.8 million faces, 284,000 steps of 8 x 64.
    Command: bash scripts/train_distribute_8p.sh hccl.json --recipe magface_r100_ms1mv2 --dataset_path ms1mv2
    """
    cfg = faces_112('iresnet100', 'arcface', 85742, 64, 5e-4)
    cfg.loss = 'magface'
    cfg.lr_schedule, cfg.lr_epochs, cfg.epochs = 'multistep', '10,18,22', 25
    return cfg


def mobilefacenet_y1_finetune() -> edict:
    """An imported MobileFaceNet y1 goes on with a few thousand people of one's own: a small rate, ArcFace, a new head.

    `--finetune` takes the weight file itself (.params, .param) or the checkpoint that prepare.py import made of it.

    Result: the weights before it score LFW 99.18 percent (10-fold, measured); what it gains depends on the faces.
    Cost: 8 epochs; on two CPU cores take a few hundred people, on a card as many as there are.
    Command: python train.py --recipe mobilefacenet_y1_finetune --finetune model-0000.params --dataset_path faces112
    """
    cfg = faces_112('mobilefacenet_y1', 'mobilefacenet_y1', 3417, 64, 4e-5)
    cfg.loss, cfg.head_options = 'arcface', edict(scale=64.0, margin=0.5)
    cfg.lr, cfg.lr_schedule, cfg.warmup_steps, cfg.clip_norm, cfg.epochs = 0.01, 'cosine', 500, 5.0, 8
    cfg.head_wd_mult = 10.0
    cfg.decay_norm_and_bias = False
    cfg.num_workers, cfg.save_checkpoint_steps = 2, 500
    return cfg


def mobilefacenet_facexzoo() -> edict:
    """FaceX-Zoo's conventional training of MobileFaceNet on MS-Celeb-1M-v1c-r; MV-Softmax, its best on MegaFace.

    Other heads: `--set head=magface head.magnitude=20 head.hard_region=facexzoo head.scale=32` and so on.

    Result: LFW 99.57, AgeDB-30 95.97, MegaFace 90.39 percent, published by FaceX-Zoo's authors, not measured here.
    Cost: 18 epochs of 3.28 million faces, 115,000 steps of 4 x 128.
    Command: bash scripts/train_distribute.sh hccl.json 4 --recipe mobilefacenet_facexzoo --dataset_path ms1mv1c
    """
    cfg = faces_112('mobilefacenet', 'facexzoo', 72778, 128, 1e-4)
    cfg.loss, cfg.head_options = 'mv_softmax', edict(scale=32.0, margin=0.35)
    cfg.fc2_bias_weight_decay = 1e-4
    cfg.lr_schedule, cfg.lr_epochs, cfg.epochs = 'multistep', '10,13,16', 18
    return cfg


def mobilefacenet_y1() -> edict:
    """The 4 MB MobileFaceNet in its three published stages: softmax, ArcFace s 64, ArcFace s 128 (arXiv:1804.07573).

    One command trains all of them and goes on where it was stopped. The class weight is carried over from stage to
    stage, from un-normalised softmax to cosines too, and decays ten times as fast as the backbone.

    Result: LFW 99.5, AgeDB-30 96.0 percent, published by others (insightface's issue 214), not measured here.
    Cost: 360,000 steps of 512 (3.8 million faces), on one card.
    Command: bash scripts/train_standalone.sh 0 --recipe mobilefacenet_y1 --dataset_path ms1m --resume auto
    """
    cfg = faces_112('mobilefacenet_y1', 'mobilefacenet_y1', 85164, 512, 4e-5)
    cfg.head_wd_mult = 10.0
    cfg.decay_norm_and_bias = False          # MXNet decays no biases
    arcface = {'loss': 'arcface', 'lr_schedule': 'multistep'}
    cfg.stages = [
        {'loss': 'softmax', 'head_options': {'bias': False}, 'lr_schedule': 'constant', 'num_steps': 120_000},
        {**arcface, 'num_steps': 200_000, 'lr_steps': '120000,160000,180000,200000'},
        {**arcface, 'num_steps': 40_000, 'lr': 0.001, 'lr_steps': '20000,30000,40000',
         'head_options': {'scale': 128.0}}]
    return cfg
