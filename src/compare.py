"""Score several runs' features on both protocols: one table, and their curves in one picture.

    python -m src.compare --dataset_path faces --out plots --run mine lfw.npy blufr.npy --run theirs a.npy b.npy

The features come from --save_features of the eval scripts; curves go to plots/scores.png.
"""
import os

from src import cli, report
from src.config import get_config
from src.evaluation import load_features, score_blufr, score_lfw


def main():
    flags = cli.parser(__doc__.splitlines()[0], __doc__.split('\n\n')[1])
    cli.add_config_flags(flags)
    flags.add_argument('--run', nargs=3, action='append', required=True, metavar=('LABEL', 'LFW.npy', 'BLUFR.npy'))
    flags.add_argument('--out', required=True, metavar='DIR', help='where scores.png goes')
    args = flags.parse_args()
    cfg = get_config(args.recipe, args.settings, args.dataset_path)
    runs = {}
    for label, lfw_file, blufr_file in args.run:
        runs[label] = (score_lfw(cfg, lambda names, file=lfw_file: load_features(file, len(names))),
                       score_blufr(cfg, lambda names, file=blufr_file: load_features(file, len(names))))
    print(report.runs_table({label: (report.lfw_json(lfw), report.blufr_json(blufr))
                             for label, (lfw, blufr) in runs.items()}))
    os.makedirs(args.out, exist_ok=True)
    report.plot_scores(runs, os.path.join(args.out, 'scores.png'))
    print(f"curves: {os.path.join(args.out, 'scores.png')}")


if __name__ == '__main__':
    cli.run(main)
