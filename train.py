"""Train LightCNN on a list of aligned faces. `python train.py --help` shows how."""
from src import cli
from src.config import get_config

EXAMPLES = """  python train.py --dataset_path /data/ms1m
  python train.py --recipe lightcnn9_celebrities --dataset_path faces --ckpt_path ckpt --eval_every 5
  python train.py --recipe lightcnn9_celebrities --dataset_path faces --resume auto
  python train.py --dataset_path faces --set num_classes=500 lr=0.02 batch_size=64"""


def parse():
    flags = cli.parser(__doc__.splitlines()[0], EXAMPLES)
    cli.add_config_flags(flags)
    cli.add_device_flags(flags)
    flags.add_argument('--run_distribute', type=cli.boolean, nargs='?', const=True, default=False,
                       help='this process is one of several that a launcher such as msrun started')
    flags.add_argument('--ckpt_path', default='ckpt', metavar='DIR',
                       help='where checkpoints, log and plot go (default %(default)s)')
    flags.add_argument('--resume', default='', metavar='auto|FILE|DIR',
                       help="go on from a checkpoint, a folder's newest one, or (auto) what --ckpt_path holds, if any")
    flags.add_argument('--finetune', default='', metavar='CKPT',
                       help='start from the embedding network of this checkpoint with a new classifier')
    flags.add_argument('--eval_every', type=int, default=0, metavar='EPOCHS',
                       help='score LFW every so many epochs and keep best.ckpt (default: never)')
    return flags.parse_args()


def main():
    args = parse()
    cfg = get_config(args.recipe, args.settings, args.dataset_path)
    if args.eval_every < 0:
        raise ValueError(f"--eval_every {args.eval_every} is negative; 0 means never")
    from src import device
    here = device.set_up(args.device_target, args.device_id, args.run_distribute)
    from src.protocols.evaluation import lfw_scorer
    from src.training.trainer import train
    evaluate = lfw_scorer(cfg, here) if args.eval_every else None
    train(cfg, here, args.recipe, args.ckpt_path, args.resume, evaluate, args.eval_every, args.finetune)


if __name__ == '__main__':
    cli.run(main)
