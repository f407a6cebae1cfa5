"""Every setting of a run: its default and meaning (`lightcnn_cfg`), its choices and its range.

`get_config` in src/config.py makes the settings of a run from them, a recipe and --set KEY=VALUE.
"""
from easydict import EasyDict as edict

from src.data.augment import AUGMENTS
from src.data.face_format import FACE_FORMATS
from src.data.low_quality import KINDS, STRONGEST
from src.lr_generator import SCHEDULES, WARMUPS

lightcnn_cfg = edict({
    # network: a name of src/backbones; also called `backbone`. `backbone.NAME=VALUE` sets an option of its own
    'network_type': 'LightCNN_9Layers',
    'backbone_options': edict(),
    'num_classes': 79077,
    'dropout': 0.5,                  # on LightCNN's embedding, while training
    'init': 'xavier',                # LightCNN's initial weights; 'centred': zero-mean filters that keep the power
    # head: a name of src/heads; also called `head`. `head.NAME=VALUE` sets an option of its own
    'loss': 'softmax',
    'head_options': edict(),
    'cosface_scale': 24.0,           # CosFace's options under their older names
    'cosface_margin': 0.1,
    # optimisation, as published by the network's authors
    'epochs': 80,
    'num_steps': 0,                  # how many steps to train; 0: as many as `epochs` give
    'batch_size': 128,               # per device
    'faces_per_person': 0,           # K: batches of people x K faces, for heads that compare them; 0: any faces
    'lr': 0.01,
    'lr_schedule': 'step',           # 'step': x lr_decay every lr_decay_epochs; others: see src/lr_generator.py
    'lr_decay': 0.457305051927326,
    'lr_decay_epochs': 10,
    'lr_steps': '',                  # 'multistep': x lr_decay at these steps, such as '120000,140000',
    'lr_epochs': '',                 # and at these epochs, such as '10,13,16'
    'lr_power': 1.0,                 # of 'poly'
    'lr_final': 0.0,                 # where 'cosine' and 'poly' end
    'warmup_steps': 0,
    'warmup': 'scaled',              # how they lead to the schedule: a name of WARMUPS in src/lr_generator.py
    'warmup_lr': 0.0,                # where 'linear' starts; the rate of 'constant'
    'mhlr_alpha': 1e-3,              # 'mhlr': weights of a new loss and a new fall in their running means,
    'mhlr_beta': 1e-3,
    'mhlr_threshold': 5e-5,          # the fall below which the loss does not fall any more,
    'mhlr_tau': 0.05,                # for how long, as a share of all steps,
    'mhlr_factor': 2.0,              # what the rate is then divided by,
    'mhlr_most': 8,                  # how often at most,
    'mhlr_fastface': False,          # whether to start as the FastFace repository does
    'scale_lr': False,               # lr x global batch / the recipe's batch, with a warm-up (arXiv:1706.02677)
    'clip_norm': 0.0,                # largest length of the gradient; 0: not clipped
    'clip_part': 'all',              # the whole gradient, or the 'backbone' alone, as arcface_torch
    'optimizer': 'sgd',              # 'nesterov', 'adamw': see src/training/optimizers.py
    'momentum': 0.9,                 # of 'sgd' and 'nesterov'
    'adam_beta1': 0.9,               # of 'adamw'
    'adam_beta2': 0.999,
    'adam_eps': 1e-8,
    'weight_decay': 1e-4,
    'decay_norm_and_bias': True,     # whether normalisation and biases of other backbones than LightCNN decay
    'bias_lr_mult': 2.0,             # biases of LightCNN
    'bias_weight_decay': 0.0,
    'fc2_weight_lr_mult': 10.0,      # the classifier's weight
    'fc2_weight_decay': 1e-4,
    'fc2_bias_lr_mult': 20.0,        # and its bias
    'fc2_bias_weight_decay': 0.0,
    'backbone_lr_mult': 1.0,         # further multiples of learning rate and weight decay: of the backbone,
    'backbone_wd_mult': 1.0,
    'last_lr_mult': 1.0,             # of its last linear layer and what follows it, on top of the backbone's,
    'last_wd_mult': 1.0,
    'head_lr_mult': 1.0,             # and of the head
    'head_wd_mult': 1.0,
    'seed': 1,
    # stages, one after the other, each a dict of the settings that differ; `stageN.NAME=VALUE` changes one of them
    'stages': [],
    'start_from': 'last',            # which checkpoint of the stage before a stage starts from: 'last' or 'best',
    'carry_head': True,              # and whether it takes over the class weight
    # pictures: resized to resize_size, a random crop of image_size is trained on
    'face_format': 'lightcnn',       # of the network's input, a name of src/data/face_format.py
    'assume_format': '',             # of the pictures, overrides the one that their sizes imply
    'image_size': 128,
    'resize_size': 144,
    'augment': 'crop_flip',          # 'strong': turn, scale, light, blur and an erased patch as well
    'mask': 0.0,                     # share of training faces that get a mask (src/data/masks.py)
    'low_quality': 0.0,              # share of training faces of low quality (src/data/low_quality.py)
    'low_quality_occlusion': 1.0,    # how strong each kind is: 0 never, 3 most
    'low_quality_light': 1.0,
    'low_quality_motion': 1.0,
    'low_quality_scale': 1.0,
    'low_quality_noise': 1.0,
    'low_quality_grey': 1.0,
    'low_quality_jpeg': 1.0,
    'max_bad_images': 0.01,          # share of unreadable training images above which a run does not start
    'cache_images_mb': 1024,         # training sets up to this size stay in memory
    'num_workers': 2,                # threads that prepare batches
    # checkpoints and log
    'save_checkpoint_steps': 60000,
    'keep_checkpoint_max': 40,
    'log_steps': 100,
    'progress_file': '',             # 'progress.prom': the last log line for Prometheus too, in the checkpoints' folder
    'sink_size': 1,                  # steps per dataset sink on Ascend and GPU; 1: no sink
    'mixed_precision': 'auto',       # 'float16', 'bfloat16' or 'float32' on cards; 'auto': float16. The CPU: float32
    'sync_bn': False,                # BatchNorm with the statistics of all ranks' batches, not of each its own
    'check_every': 1000,             # steps between checks that all ranks hold the same weights; 0: never
    'hang_seconds': 1800,            # without a step for so long (compiling counts) a run is given up; 0: never
    # files; a relative path is looked for under --dataset_path
    'data_path': 'train',
    'train_list': 'train_list.txt',
    'root_path': 'lfw/image',
    'lfw_img_list': 'image_list_for_lfw.txt',
    'lfw_pairs_mat_path': 'mat_files/lfw_pairs.mat',
    'blufr_img_list': 'image_list_for_blufr.txt',
    'blufr_config_mat_path': 'mat_files/blufr_lfw_config.mat',
    'sets_path': '.',                # verification sets by name: cfp_fp.bin, or the folders of their authors
    'protocol_options': edict(),     # `protocol.NAME=VALUE` sets an option of a protocol
})

CHOICES = {
    'init': ('xavier', 'centred'),
    'mixed_precision': ('auto', 'float16', 'bfloat16', 'float32'),
    'lr_schedule': tuple(SCHEDULES),
    'warmup': tuple(WARMUPS),
    'optimizer': ('sgd', 'nesterov', 'adamw'),
    'clip_part': ('all', 'backbone'),
    'start_from': ('last', 'best'),
    'augment': tuple(AUGMENTS),
    'face_format': tuple(FACE_FORMATS),
    'assume_format': ('', *FACE_FORMATS),
}
# settings by the names that the literature uses, and the options of parts
OTHER_NAMES = {'backbone': 'network_type', 'head': 'loss'}
PART_OPTIONS = {'backbone': 'backbone_options', 'head': 'head_options', 'protocol': 'protocol_options'}
# key: (lowest, highest); every other number is 0 or more
RANGES = {
    'num_classes': (2, 10**8), 'epochs': (1, 10**6), 'batch_size': (1, 10**6), 'image_size': (16, 1024),
    'resize_size': (16, 1152), 'save_checkpoint_steps': (1, 10**9), 'keep_checkpoint_max': (1, 10**6),
    'log_steps': (1, 10**9), 'sink_size': (1, 10**6), 'num_workers': (1, 1024), 'lr_decay_epochs': (1, 10**6),
    'dropout': (0.0, 0.99), 'momentum': (0.0, 0.999999), 'lr_decay': (0.0, 1.0), 'max_bad_images': (0.0, 1.0),
    'mask': (0.0, 1.0), 'low_quality': (0.0, 1.0), **{f'low_quality_{kind}': (0.0, STRONGEST) for kind in KINDS},
    'adam_beta1': (0.0, 0.999999), 'adam_beta2': (0.0, 0.999999), 'adam_eps': (1e-30, 1.0),
    'mhlr_alpha': (0.0, 1.0), 'mhlr_beta': (1e-9, 1.0), 'mhlr_tau': (0.0, 1.0), 'mhlr_factor': (1.0, 1e6),
    'cosface_scale': (1.0, 1000.0), 'seed': (0, 2**31 - 1),
}
PATH_KEYS = ('data_path', 'train_list', 'root_path', 'lfw_img_list', 'lfw_pairs_mat_path', 'blufr_img_list',
             'blufr_config_mat_path', 'sets_path')
