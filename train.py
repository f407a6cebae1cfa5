"""Train LightCNN on a list of aligned faces. `python train.py --help` shows how."""
import argparse

from src import cli

EXAMPLES = """  python train.py --dataset_path /data/ms1m
  python train.py --recipe lightcnn9_celebrities --dataset_path faces --ckpt_path ckpt --eval_every 5
  python train.py --recipe lightcnn9_celebrities --dataset_path faces --resume auto
  python train.py --dataset_path faces --set num_classes=500 lr=0.02 batch_size=64"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
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
                       help='start from the embedding network of this checkpoint, or weight file of others, with a new '
                       'classifier')
    flags.add_argument('--eval_every', type=int, default=0, metavar='EPOCHS',
                       help='score LFW every so many epochs and keep best.ckpt (default: never)')
    flags.add_argument('--deterministic', action='store_true', help='on cards: the same bits in every run, at a lower '
                       'speed; the CPU gives them anyway')
    return flags.parse_args()


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    cfg = cli.config(args)
    if args.eval_every < 0:
        raise ValueError(f"--eval_every {args.eval_every} is negative; 0 means never")
    from src import api
    api.train(cfg, recipe=args.recipe, ckpt_dir=args.ckpt_path, resume=args.resume, finetune=args.finetune,
              eval_every=args.eval_every, device_target=args.device_target, device_id=args.device_id,
              run_distribute=args.run_distribute, deterministic=args.deterministic)


if __name__ == '__main__':
    cli.run(main)
