"""Every protocol by name. Adding one: a file in this folder with a `Protocol`, and a line in PROTOCOLS.

    scored = protocol('lfw').score(cfg, features_of)            # features_of: names -> (N, D)
"""
from src.options import entry
from src.protocols.blufr import BLUFR
from src.protocols.lfw import LFW
from src.protocols.protocol import Protocol

PROTOCOLS = {
    'lfw': LFW,
    'blufr': BLUFR,
}


def protocol(name: str) -> Protocol:
    """Return a protocol; ValueError lists the known names."""
    return entry('protocol', PROTOCOLS, name)
