"""From flags to results: the code that evaluate.py, eval_lfw.py and eval_blufr.py share.

One embedding pass serves all protocols; their tables, JSON, thresholds and report come from the same functions.
"""
import argparse
import json
import os

import numpy as np
from easydict import EasyDict as edict

from src.certificate import certify
from src.data import lists
from src.protocols import PROTOCOLS, SETS, Protocol, protocol
from src.protocols.lfw import LFW, threshold_for
from src.protocols.lfw_variants import resolution_figure, resolution_lines
from src.protocols.protocol import in_order
from src.scoring import report
from src.scoring.differences import differences, differences_table
from src.scoring.report import Scored
from src.sources import Listing, Source, all_sources, list_images, load_features, source_of


def evaluate(args: argparse.Namespace, cfg: edict, names: list) -> None:
    """Score the protocols `names` as the flags say, compare, write tables, JSON, thresholds and report."""
    listing = list_images(cfg, {name: protocol(name) for name in names})
    sources = all_sources(args, cfg, listing)
    label, source = next(iter(sources.items()))
    if len(sources) > 1 and (args.compare or getattr(args, 'threshold_for', None) is not None):
        raise ValueError(f"{len(sources)} models are compared with each other; --compare and --threshold_for take one")
    if getattr(args, 'threshold_for', None) is not None:
        print(threshold_for(args.threshold_for, LFW.measure(cfg, source.of(LFW))))
        return
    runs = {label: {name: score(kind, cfg, held) for name, kind in listing.protocols.items()}
            for label, held in sources.items()}
    for run, held in runs.items():
        certify(held.values(), cfg, sources[run], getattr(args, 'fingerprint', None))
    between = differences(runs) if len(runs) > 1 else []
    print_tables(runs, between)
    if args.compare:
        for scored in list(runs[label].values()):
            other, name = _load_compared(args.compare, cfg, scored, sources, runs, listing)
            print(report.comparison_table(scored, other, name))
    if args.json:
        write_json(args.json, {label: runs[label]} if args.compare else runs, between)
    if args.report:
        for run, of_run in sources.items():
            for name in _for_the_report(names):
                if name not in runs[run]:
                    runs[run][name] = score(protocol(name), cfg, of_run)
        write_report(args.report, runs, cfg, differences=between)
    thresholds = args.thresholds or os.path.join(args.report or '.', 'thresholds.json')
    report.write_thresholds(thresholds, {run: held.values() for run, held in runs.items()
                                         if run == label or not args.compare},
                            {run: held.network.file for run, held in sources.items() if held.network})


def print_tables(runs: dict, between: list) -> None:
    """Print the tables of one run, {label: {protocol: Scored}}; of several one table and the `differences`."""
    if len(runs) == 1:
        for scored in runs.values():
            print('\n\n'.join(report.table(one) for one in scored.values()))
            for line in resolution_lines(scored):
                print(line)
        return
    print(report.runs_table({label: list(run.values()) for label, run in runs.items()}))
    print('\n' + differences_table(between))


def score(kind: Protocol, cfg: edict, source: Source) -> Scored:
    """Return a protocol's result with the norms of the embeddings of its images: their mean and standard deviation."""
    scored = kind.score(cfg, source.of(kind))
    lengths = in_order(source.lengths.reshape(-1, len(source.keys)).T, source.keys, kind.key)(kind.images(cfg)[0])
    scored.numbers['norm'] = {'mean': float(np.mean(lengths)), 'std': float(np.std(lengths))}
    return scored


def _for_the_report(names: list) -> list:
    """Return the protocols of a report: LFW and BLUFR, which list the same images, stand on one page."""
    return [*names, *(name for name in ('lfw', 'blufr') if set(names) & {'lfw', 'blufr'} and name not in names)]


def write_json(file: str, runs: dict, between: list) -> None:
    """Write the numbers of {label: {protocol: Scored}}: one as it is, several protocols as {protocol: ...}.

    Several runs: {'runs': {label: ...}, 'differences': [...]}.
    """
    numbers = {label: {name: scored.numbers for name, scored in run.items()} for label, run in runs.items()}
    numbers = {label: next(iter(held.values())) if len(held) == 1 else held for label, held in numbers.items()}
    held = next(iter(numbers.values())) if len(numbers) == 1 else {'runs': numbers}
    if 'protocol' in held:
        report.write_json(file, held)
        return
    if len(numbers) > 1:
        held['differences'] = [row.as_json() for row in between]
    lists.write_text(file, json.dumps(held, indent=1, allow_nan=False) + '\n')


def write_report(out_dir: str, runs: dict, cfg: edict, note: str = '', *, differences: list = ()) -> None:
    """Write out_dir/report.html. runs: {label: {protocol: Scored}}, where a run may lack a protocol."""
    from src.scoring.page import write_page
    os.makedirs(out_dir, exist_ok=True)
    file = os.path.join(out_dir, 'report.html')
    write_page(file, runs, cfg.root_path, note, differences, further=resolution_figure(runs))
    print(f"report: {file}")


def _load_compared(file: str, cfg: edict, scored: Scored, sources: dict, runs: dict, listing: Listing) -> tuple:
    """Return (the Scored of features (.npy) or the checked numbers of --json (.json), a label).

    Features become a source and a run of their own.
    """
    own = next(iter(runs))
    label = os.path.basename(file) if os.path.basename(file) != own else f'{file} (compared)'
    name = scored.protocol.name
    if not file.endswith('.json'):
        if label not in sources:
            sources[label] = source_of(load_features(file, len(listing.keys)), listing.keys)
        runs.setdefault(label, {})[name] = score(scored.protocol, cfg, sources[label])
        return runs[label][name], label
    numbers = lists.read_json(file, 'no such file to --compare with')
    if isinstance(numbers, dict) and 'protocol' not in numbers and name in numbers:
        numbers = numbers[name]
    report.check_comparable(file, numbers, scored)
    return numbers, label


def known_protocols() -> str:
    """Return the names of all protocols, for --help."""
    return ', '.join([*PROTOCOLS, *SETS])


def add_protocol_flags(flags: argparse.ArgumentParser) -> None:
    """Add a flag for every option that a protocol declares; one that several declare is one flag."""
    declared: dict = {}
    for name, kind in PROTOCOLS.items():
        for key, option in kind.OPTIONS.items():
            declared.setdefault(key, (option, []))[1].append(name)
    for key, (option, names) in declared.items():
        default = type(option.default)
        how = {'action': 'store_true', 'default': None} if default is bool else \
            {'type': default, 'choices': option.low if isinstance(option.low, tuple) else None, 'metavar': None
             if isinstance(option.low, tuple) else key.upper()}
        flags.add_argument(f'--{key}', dest=f'protocol.{key}', help=f"{', '.join(names)}: {option.meaning}", **how)


def set_protocol_options(args: argparse.Namespace, cfg: edict) -> None:
    """Put the flags of `add_protocol_flags` that were given into the settings."""
    for key, value in vars(args).items():
        if key.startswith('protocol.') and value is not None:
            cfg.protocol_options[key.partition('.')[2]] = value
