"""Score several runs' features on both protocols: one table, and one report with their curves laid over each other.

    python -m src.compare --dataset_path faces --out report --run mine lfw.npy blufr.npy --run theirs a.npy b.npy

The features come from --save_features of the eval scripts; the page is report/report.html.
"""
from src import cli
from src.config import get_config
from src.evaluation import write_report
from src.protocols import protocol
from src.scoring import report
from src.sources import load_features


def main() -> None:
    """Do what the command line asks for."""
    flags = cli.parser(__doc__.splitlines()[0], __doc__.split('\n\n')[1])
    cli.add_config_flags(flags)
    flags.add_argument('--run', nargs=3, action='append', required=True, metavar=('LABEL', 'LFW.npy', 'BLUFR.npy'))
    flags.add_argument('--out', required=True, metavar='DIR', help='where report.html goes')
    flags.add_argument('--note', default='', metavar='TEXT', help='what the page says under its title')
    args = flags.parse_args()
    cfg = get_config(args.recipe, args.settings, args.dataset_path)
    if len({label for label, *_ in args.run}) < len(args.run):
        raise ValueError(f"--run: two runs have the same label; got {', '.join(label for label, *_ in args.run)}")
    runs = {}
    for label, *files in args.run:
        runs[label] = {name: protocol(name).score(cfg, lambda names, file=file: load_features(file, len(names)))
                       for name, file in zip(('lfw', 'blufr'), files)}
    print(report.runs_table({label: list(run.values()) for label, run in runs.items()}))
    write_report(args.out, runs, cfg, args.note)


if __name__ == '__main__':
    cli.run(main)
