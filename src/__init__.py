"""The package behind the entry scripts. Importing any part of it first prepares the CPU library MindSpore loads."""
from src import device

device.guard_onednn()
device.quiet_log()
