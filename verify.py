"""Repeat a training's first steps from its card: equal, or what differs first. Exit code: 0 equal, 1 not, 2 error."""
import argparse

from src import cli
from src.config import get_config

EXAMPLES = """  python verify.py ckpt/card.json --dataset_path faces
  python verify.py ckpt/card.json --dataset_path faces --recipe lightcnn9_celebrities --set lr=0.02    # my settings?
  python verify.py ckpt/card.json --dataset_path faces --device_target CPU"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__.splitlines()[0], EXAMPLES)
    flags.add_argument('card', metavar='card.json', help='what train.py wrote beside its checkpoints')
    flags.add_argument('--dataset_path', required=True, metavar='DIR', help='folder of the pictures and their list')
    flags.add_argument('--recipe', help='compare the settings of this recipe with those of the card')
    flags.add_argument('--set', nargs='+', action='extend', default=[], metavar='KEY=VALUE', dest='settings',
                       help='with --recipe: settings that differ from it')
    flags.add_argument('--finetune', metavar='CKPT', help='the weights that the training started from, if any')
    flags.add_argument('--run_distribute', type=cli.boolean, nargs='?', const=True, default=False,
                       help='this process is one of as many ranks as the training had')
    cli.add_device_flags(flags)
    args = flags.parse_args()
    if args.settings and not args.recipe:
        flags.error('--set needs --recipe')
    return args


def main() -> int:
    """Do what the command line asks for; return the exit code."""
    args = parse()
    from src import api
    own = get_config(args.recipe, args.settings, args.dataset_path) if args.recipe else None
    result = api.verify(args.card, args.dataset_path, own=own, finetune=args.finetune, device_id=args.device_id,
                        device_target=args.device_target, run_distribute=args.run_distribute)
    for note in result.notes:
        print(f"note: {note}")
    print(f"differs: {result.difference}" if result.difference else f"equal: pictures, settings, versions, and the "
          f"weights after the steps {', '.join(map(str, result.steps))}", flush=True)
    return 1 if result.difference else 0


if __name__ == '__main__':
    cli.run(main)
