"""Every recipe by name. Adding one: a function here that returns all settings, and a line in RECIPES.

    cfg = RECIPES['lightcnn9_celebrities']()

A recipe calls another one and changes what differs. Its docstring carries Result, Cost and Command.
"""
from src.recipes.lightcnn import lightcnn9_celebrities, lightcnn9_ms1m, quickstart

RECIPES = {f.__name__: f for f in (lightcnn9_ms1m, lightcnn9_celebrities, quickstart)}
