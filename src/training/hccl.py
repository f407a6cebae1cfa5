"""hccl.json, the rank table of Ascend cards: read, checked, written.

    table = read_rank_table('hccl.json')          # {'192.168.1.1': [Card(rank, device_id, device_ip), ...], ...}
    mine = this_host(table)                       # the server that this host is
"""
import contextlib
import ipaddress
import os
import socket
import sys
from typing import NamedTuple

from src.data.lists import read_json


class Card(NamedTuple):
    """One card of a rank table."""

    rank: int
    device_id: int
    device_ip: str


def read_rank_table(file: str) -> dict:
    """Return {server id: its cards by rank}; ValueError says what is wrong with the file and where."""
    table = read_json(file, 'no such rank table; scripts/make_hccl_json.py writes one')
    if not isinstance(table, dict) or not isinstance(table.get('server_list'), list) or not table['server_list']:
        raise ValueError(f"{file}: has no server_list; expected a rank table such as scripts/make_hccl_json.py writes")
    if table.get('version') == '1.2':
        raise ValueError(f"{file}: version '1.2' is that of super nodes (Atlas A3), whose super_device_id and "
                         "super_pod_list are not read here; start the ranks with msrun, which needs no rank table")
    if table.get('version') != '1.0':
        raise ValueError(f"{file}: version {table.get('version')!r}, expected '1.0'")
    servers = {}
    for number, server in enumerate(table['server_list'], 1):
        server_id, cards = _server(server, f"{file}: server {number}")
        if server_id in servers:
            raise ValueError(f"{file}: server {number}: the server_id {server_id} is there twice")
        servers[server_id] = cards
    _check_counts(file, table, servers)
    return servers


def _server(server, where):
    devices = server.get('device') if isinstance(server, dict) else None
    if not isinstance(devices, list) or not devices or not isinstance(server.get('server_id'), str):
        raise ValueError(f"{where}: expected a server_id and a list of devices")
    cards = [_card(device, f"{where}, device {number}") for number, device in enumerate(devices, 1)]
    for field in ('device_id', 'device_ip'):
        values = [getattr(card, field) for card in cards]
        twice = next((value for value in values if values.count(value) > 1), None)
        if twice is not None:
            raise ValueError(f"{where}: the {field} {twice} is there twice")
    return server['server_id'], sorted(cards)


def _card(device, where):
    values = {}
    for field in ('rank_id', 'device_id'):
        text = str(device.get(field)) if isinstance(device, dict) else 'None'
        if not text.isdigit() or len(text) > 6:
            raise ValueError(f"{where}: {field} is {text[:40]}, expected a number from 0")
        values[field] = int(text)
    try:
        address = str(ipaddress.ip_address(device.get('device_ip')))
    except ValueError:
        raise ValueError(f"{where}: device_ip is {str(device.get('device_ip'))[:40]}, expected an IP address") from None
    return Card(values['rank_id'], values['device_id'], address)


def _check_counts(file, table, servers):
    count = str(table.get('server_count', len(servers)))
    if count != str(len(servers)):
        raise ValueError(f"{file}: server_count is {count[:20]}, server_list holds {len(servers)}")
    ranks = sorted(card.rank for cards in servers.values() for card in cards)
    if ranks != list(range(len(ranks))):
        wrong = next(i for i, rank in enumerate(ranks) if rank != i)
        raise ValueError(f"{file}: {len(ranks)} devices have ranks {', '.join(map(str, ranks[:9]))}"
                         f"{' ...' if len(ranks) > 9 else ''}; expected 0..{len(ranks) - 1}, each once: {wrong} is "
                         "missing or there twice")


def warn_of_order(file: str, servers: dict) -> None:
    """Say on stderr if ranks are not counted on from server to server in the order of their ids.

    Parts of HCCL sort the servers by server_id, as text, and number them in that order.
    """
    order = sorted(servers)
    ranks = [card.rank for server_id in order for card in servers[server_id]]
    if ranks != sorted(ranks):
        print(f"warning: {file}: the rank_ids do not follow the order of the server_ids as text, "
              f"{', '.join(order[:4])}; if the ranks do not find each other, count them on in that order",
              file=sys.stderr, flush=True)


def this_host(file: str, servers: dict) -> str:
    """Return the server id of this host; the only one, or the one whose id is an address or name of this host."""
    if len(servers) == 1:
        return next(iter(servers))
    found = [server_id for server_id in servers if is_this_host(server_id)]
    if len(found) != 1:
        raise ValueError(f"{file}: {len(found) or 'none'} of the servers {', '.join(list(servers)[:4])} "
                         f"{'are' if found else 'is'} this host ({socket.gethostname()}); LIGHTCNN_SERVER_ID names it")
    return found[0]


def is_this_host(server_id: str) -> bool:
    """Return whether a server id is a name or an address, IPv4 or IPv6, of this host; LIGHTCNN_SERVER_ID decides."""
    name = socket.gethostname()
    named = os.environ.get('LIGHTCNN_SERVER_ID')
    if named:
        return server_id == named
    return server_id == name or _can_bind(server_id)


def own_address() -> str:
    """Return the IPv4 address by which other hosts reach this one, 127.0.0.1 where there is no network."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(('10.255.255.255', 1))                               # sends nothing: asks for the route only
        return probe.getsockname()[0]
    return '127.0.0.1'


def _can_bind(address):
    """Only an address of this host can be bound; sends nothing."""
    try:
        version = ipaddress.ip_address(address).version
    except ValueError:
        return False
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6,
                                                     socket.SOCK_DGRAM) as probe:
        probe.bind((address, 0))
        return True
    return False


def check_visible(file: str, cards: list, dev: str = '/dev') -> None:
    """Raise ValueError unless every card is a device of this host."""
    absent = [card.device_id for card in cards if not os.path.exists(os.path.join(dev, f'davinci{card.device_id}'))]
    if absent:
        raise ValueError(f"{file}: device {', '.join(map(str, absent))} not found: no {dev}/davinci{absent[0]} on this "
                         "host")


def rank_table(server_id: str, device_ips: dict) -> dict:
    """Return the rank table, as a dict, of one server. device_ips: {device id: its address}."""
    devices = [{'device_id': str(device), 'device_ip': ip, 'rank_id': str(rank)}
               for rank, (device, ip) in enumerate(sorted(device_ips.items()))]
    return {'version': '1.0', 'server_count': '1', 'status': 'completed',
            'server_list': [{'server_id': server_id, 'device': devices, 'host_nic_ip': 'reserve'}]}
