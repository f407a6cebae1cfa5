"""Score a network, or ready-made features, on any protocols at once: one embedding pass, one table, one report."""
from src import cli
from src.evaluation import add_protocol_flags, evaluate, known_protocols, set_protocol_options
from src.protocols.lfw_variants import resolution_names

EXAMPLES = """  python evaluate.py --protocol lfw blufr --resume ckpt --dataset_path faces --report report
  python evaluate.py --protocol lfw blufr --resume ckpt/best.ckpt --dataset_path faces --json results.json
  python evaluate.py --protocol lfw cfp_fp sets/calfw.bin my_pairs.csv --resume ckpt --dataset_path faces --flip sum
  python evaluate.py --protocol lfw lfw_masked --masked_root masked/lfw/image --resume ckpt --dataset_path faces
  python evaluate.py --protocol lfw --resolutions 16 24 32 --resume ckpt --dataset_path faces --report report
  python evaluate.py --protocol lfw blufr --features features.npy --dataset_path faces --compare other.npy"""


def main() -> None:
    """Do what the command line asks for."""
    flags = cli.parser(__doc__, EXAMPLES)
    flags.add_argument('--protocol', nargs='+', required=True, metavar='NAME', help=f'of {known_protocols()}; '
                       'or a file of pairs: insightface\'s .bin, a list .txt .csv .tsv, a folder Protocol/Split/FP')
    flags.add_argument('--resolutions', nargs='+', type=int, default=[], metavar='PIXELS', help='LFW at these sizes of '
                       'the face as well, a protocol lfw_16px each')
    cli.add_source_flags(flags)
    cli.add_result_flags(flags)
    flags.add_argument('--root_path', '--root', metavar='DIR', help='image folder')
    cli.add_protocol_file_flags(flags)
    add_protocol_flags(flags.add_argument_group('options of protocols'))
    args = flags.parse_args()
    cfg = cli.eval_config(args)
    set_protocol_options(args, cfg)
    evaluate(args, cfg, list(dict.fromkeys([*args.protocol, *resolution_names(args.resolutions)])))


if __name__ == '__main__':
    cli.run(main)
