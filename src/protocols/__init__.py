"""Every protocol by name. Adding one: a file in this folder with a `Protocol`, and a line in PROTOCOLS.

    scored = protocol('lfw').score(cfg, features_of)            # features_of: names -> (N, D)
    scored = protocol('sets/cfp_fp.bin').score(cfg, features_of)

A set of pairs (SETS, or the file of one) is a protocol too, and LFW at so many pixels: lfw_16px.
"""
from src.options import entry
from src.protocols.blufr import BLUFR
from src.protocols.ijb import IJBB, IJBB_1N, IJBC, IJBC_1N
from src.protocols.lfw import LFW
from src.protocols.lfw_variants import LFW_BOTH_MASKED, LFW_MASKED, small_lfw
from src.protocols.megaface import MEGAFACE
from src.protocols.own import OWN
from src.protocols.pair_set import SETS, PairSet, is_set
from src.protocols.protocol import Protocol
from src.protocols.rfw import RFW

PROTOCOLS = {
    'lfw': LFW,
    'blufr': BLUFR,
    'lfw_masked': LFW_MASKED,
    'lfw_both_masked': LFW_BOTH_MASKED,
    'ijbb': IJBB,
    'ijbc': IJBC,
    'ijbb_1n': IJBB_1N,
    'ijbc_1n': IJBC_1N,
    'megaface': MEGAFACE,
    'rfw': RFW,
    'own': OWN,
}


def protocol(name: str) -> Protocol:
    """Return a protocol, a set of pairs by its name or its file; ValueError lists the known names."""
    if name not in PROTOCOLS and is_set(name):
        return PairSet(name)
    small = small_lfw(name)
    return small or entry('protocol', {**PROTOCOLS, **SETS, 'lfw_16px': None, 'FILE.bin or .csv of pairs': None}, name)
