"""Write hccl.json from this host's Ascend cards.

    python scripts/make_hccl_json.py [--devices 0,1,2,3] [--server_ip 192.168.1.1] [--out hccl.json]

The cards' addresses come from /etc/hccn.conf ("address_0=192.168.100.101"), which the driver's hccn_tool writes. For
several hosts run it on each and put the servers into one server_list with ranks counted on.
"""
import argparse
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))

from src import cli  # noqa: E402
from src.data.lists import write_text  # noqa: E402
from src.training import hccl  # noqa: E402


def device_addresses(file):
    """Return {device id: address} of an hccn.conf."""
    if not os.path.isfile(file):
        raise FileNotFoundError(f"{file}: no such file; hccn_tool of the Ascend driver writes it when the cards get "
                                "their addresses")
    with open(file, encoding='utf-8', errors='replace') as lines:
        found = [re.match(r'\s*address_(\d+)\s*=\s*(\S+)', line) for line in lines]
    return {int(match[1]): match[2] for match in found if match}


def main():
    flags = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    flags.add_argument('--devices', help='such as 0,1,2,3 (default: all in the conf file)')
    flags.add_argument('--server_ip', help="this host's address (default: found out)")
    flags.add_argument('--hccn_conf', default='/etc/hccn.conf', help='default %(default)s')
    flags.add_argument('--out', default='hccl.json', help='default %(default)s')
    args = flags.parse_args()
    addresses = device_addresses(args.hccn_conf)
    asked = args.devices.split(',') if args.devices else [str(device) for device in sorted(addresses)]
    unknown = [device for device in asked if not device.isdigit() or int(device) not in addresses]
    if unknown or not asked:
        raise ValueError(f"{args.hccn_conf}: has no address of device {', '.join(unknown) or '0'}; it has "
                         f"{', '.join(map(str, sorted(addresses))) or 'none'}")
    server = args.server_ip or hccl.own_address()
    table = hccl.rank_table(server, {int(device): addresses[int(device)] for device in asked})
    write_text(args.out, json.dumps(table, indent=1) + '\n')
    hccl.read_rank_table(args.out)
    print(f"{args.out}: server {server}, devices {', '.join(asked)}")


if __name__ == '__main__':
    cli.run(main)
