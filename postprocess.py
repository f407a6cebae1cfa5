"""Score the features that ascend310_infer wrote on LFW and BLUFR: tables, JSON, thresholds, report as eval_*.py."""
import argparse
import os

from src import cli
from src.config import get_config
from src.scoring import report

EXAMPLES = """  python postprocess.py --result_path result_Files --mat_files_path faces/mat_files
  python postprocess.py --result_path result_Files --data_path faces --report report"""


def parse() -> argparse.Namespace:
    """Return the command line's flags."""
    flags = cli.parser(__doc__, EXAMPLES)
    flags.add_argument('--result_path', required=True, metavar='DIR', help='folder with features.bin')
    flags.add_argument('--mat_files_path', metavar='DIR', help='folder with lfw_pairs.mat and blufr_lfw_config.mat')
    flags.add_argument('--data_path', metavar='DIR', help='the data set folder of docs/data.md: mat_files, lists and '
                       'pictures')
    flags.add_argument('--out', default='.', metavar='DIR', help='where lfw.json, blufr.json and thresholds.json go '
                       '(default: the current folder)')
    flags.add_argument('--report', metavar='DIR', help='write DIR/report.html')
    args = flags.parse_args()
    if not (args.mat_files_path or args.data_path):
        raise ValueError("--mat_files_path or --data_path is needed: where lfw_pairs.mat and blufr_lfw_config.mat are")
    return args


def main() -> None:
    """Do what the command line asks for."""
    args = parse()
    from src.deploy import exchange
    from src.evaluation import score, write_report
    from src.protocols import protocol
    from src.sources import source_of
    cfg = get_config(dataset_path=args.data_path and exchange.dataset_tree(args.data_path))
    if args.mat_files_path:
        cfg.lfw_pairs_mat_path = os.path.join(args.mat_files_path, 'lfw_pairs.mat')
        cfg.blufr_config_mat_path = os.path.join(args.mat_files_path, 'blufr_lfw_config.mat')
    source = source_of(*exchange.read_results(args.result_path, cfg))
    os.makedirs(args.out, exist_ok=True)
    scored = {}
    for name in ('lfw', 'blufr'):
        scored[name] = score(protocol(name), cfg, source)
        print(report.table(scored[name]))
        report.write_json(os.path.join(args.out, f'{name}.json'), scored[name].numbers)
    label = os.path.join(args.result_path, exchange.FEATURES)
    report.write_thresholds(os.path.join(args.out, 'thresholds.json'), {label: scored.values()})
    if args.report:
        write_report(args.report, {label: scored}, cfg)


if __name__ == '__main__':
    cli.run(main)
