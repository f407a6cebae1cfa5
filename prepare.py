"""Prepare faces and networks: align, pack, audit, masks, import, zoo. `python prepare.py TOOL --help` shows how."""
import argparse
import importlib
import sys
from functools import partial

from src import cli
from src.data.lists import file_sha256

# tool: (its module, what it does)
TOOLS = {
    'align': ('src.data.align', 'photographs to aligned faces'),
    'pack': ('src.data.pack', 'many small pictures to a few large files'),
    'audit': ('src.data.audit', 'what is wrong with a training list'),
    'masks': ('src.data.masked_set', 'the same faces with masks on'),
    'import': ('src.weights.importing', "other people's weight files to a checkpoint"),
    'zoo': ('src.zoo', 'a table of all backbones'),
}


def tools_table() -> str:
    """Return the tools with what each does."""
    return '\n'.join(f'  {name:<8}{text}' for name, (_, text) in TOOLS.items())


def helpers(tool: str, args: argparse.Namespace) -> list:
    """Return what a tool needs from further up: how to save a checkpoint, or to embed a list and with what."""
    if tool == 'import':
        from src.training import checkpoint
        return [checkpoint.save]
    if tool == 'audit' and args.resume:
        from src import api
        network = api.load_network(args.resume, device_target=args.device_target)
        return [partial(api.embed_list, network), file_sha256(network.file)]
    return []


def main() -> None:
    """Do what the command line asks for."""
    if len(sys.argv) > 1 and sys.argv[1] in TOOLS:
        module, _ = TOOLS[sys.argv[1]]
        tool = importlib.import_module(module)
        flags = cli.parser(tool.__doc__.splitlines()[0], tool.EXAMPLES)
        flags.prog += f' {sys.argv[1]}'
        tool.add_flags(flags)
        args = flags.parse_args(sys.argv[2:])
        tool.run(args, *helpers(sys.argv[1], args))
        return
    flags = cli.parser(__doc__, '  python prepare.py pack --help')
    flags.add_argument('tool', metavar='TOOL', help='one of:\n' + tools_table())
    flags.formatter_class = argparse.RawTextHelpFormatter
    args = flags.parse_args(sys.argv[1:2])
    raise ValueError(f"unknown tool '{args.tool}'; tools: {', '.join(TOOLS)}")


if __name__ == '__main__':
    cli.run(main)
