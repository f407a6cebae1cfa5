"""Score a network, or ready-made features, on any protocols at once: one embedding pass, one table, one report."""
from src import cli
from src.evaluation import evaluate, known_protocols

EXAMPLES = """  python evaluate.py --protocol lfw blufr --resume ckpt --dataset_path faces --report report
  python evaluate.py --protocol lfw blufr --resume ckpt/best.ckpt --dataset_path faces --json results.json
  python evaluate.py --protocol lfw blufr --features features.npy --dataset_path faces --compare other.npy"""


def main() -> None:
    """Do what the command line asks for."""
    flags = cli.parser(__doc__, EXAMPLES)
    flags.add_argument('--protocol', nargs='+', required=True, metavar='NAME', help=f'of {known_protocols()}')
    cli.add_source_flags(flags)
    cli.add_result_flags(flags)
    flags.add_argument('--root_path', metavar='DIR', help='image folder')
    cli.add_protocol_file_flags(flags)
    args = flags.parse_args()
    evaluate(args, cli.eval_config(args), list(dict.fromkeys(args.protocol)))


if __name__ == '__main__':
    cli.run(main)
