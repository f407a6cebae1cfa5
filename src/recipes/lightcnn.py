"""Recipes of LightCNN: as its authors trained it, and for a CPU."""
import copy

from easydict import EasyDict as edict

from src.settings import lightcnn_cfg


def lightcnn9_ms1m() -> edict:
    """LightCNN-9 on the cleaned MS-Celeb-1M list, exactly as its authors trained it.

    Result: LFW 100%-EER 98.70, BLUFR VR 96.80 and DIR 83.06 percent, published by others, not measured here.
    Cost: 80 epochs of 5 million faces; 4.2 to 4.4 s a step of 128 on two CPU cores, so take cards.
    Command: bash scripts/train_distribute_8p.sh hccl.json --dataset_path ms1m
    """
    return copy.deepcopy(lightcnn_cfg)


def lightcnn29v2_webface() -> edict:
    """LightCNN-29 v2 on CASIA-WebFace, as its authors trained it on MS-Celeb-1M: softmax without bias.

    Result: none published or measured for these people; with MS-Celeb-1M its authors publish LFW 100%-EER 99.43.
    Cost: 80 epochs of 494,414 faces, 309,000 steps of 128; take cards.
    Command: bash scripts/train_distribute_8p.sh hccl.json --recipe lightcnn29v2_webface --dataset_path webface
    """
    cfg = lightcnn9_ms1m()
    cfg.network_type = 'LightCNN_29Layers_v2'
    cfg.num_classes = 10575
    cfg.save_checkpoint_steps = 4000
    return cfg


def lightcnn9_celebrities() -> edict:
    """LightCNN-9 for a few hundred people on two CPU cores: small faces, strong augmentation, cosine schedule.

    Result: LFW 100%-EER 83.00 (95 % interval 81.61 to 84.39), BLUFR VR 10.88 and DIR 3.85 percent, from 5,982 faces.
    Cost: 31 minutes on two CPU cores, 139 images/s.
    Command: DEVICE_TARGET=CPU bash scripts/train_standalone.sh 0 --recipe lightcnn9_celebrities --dataset_path faces
    """
    cfg = lightcnn9_ms1m()
    cfg.num_classes = 293
    cfg.image_size, cfg.resize_size = 48, 54
    cfg.init = 'centred'
    cfg.augment = 'strong'
    cfg.batch_size = 32
    cfg.lr, cfg.lr_schedule, cfg.warmup_steps, cfg.clip_norm = 0.02, 'cosine', 200, 3.0
    cfg.weight_decay = cfg.fc2_weight_decay = 5e-4
    cfg.fc2_weight_lr_mult = cfg.fc2_bias_lr_mult = 1.0
    cfg.dropout = 0.4
    cfg.epochs = 44
    cfg.save_checkpoint_steps = 500
    cfg.keep_checkpoint_max = 3
    cfg.log_steps = 50
    return cfg


def quickstart() -> edict:
    """The celebrities recipe on procedurally generated faces, small enough for a few minutes on two CPU cores.

    Result: LFW 100%-EER 90.43 to 90.83, BLUFR VR 12.8 to 17.0 percent, seen on two machines; nothing about people.
    Cost: 5 minutes on two CPU cores, installation and evaluation included.
    Command: bash scripts/quickstart.sh
    """
    cfg = lightcnn9_celebrities()
    cfg.num_classes = 100
    cfg.image_size, cfg.resize_size = 32, 36
    cfg.augment = 'crop_flip'        # the pictures vary enough already
    cfg.epochs = 10
    cfg.warmup_steps = 50
    cfg.save_checkpoint_steps = 100
    cfg.log_steps = 20
    return cfg
