"""Every recipe by name. Adding one: a function here that returns all settings, and a line in RECIPES.

    cfg = RECIPES['lightcnn9_celebrities']()

A recipe calls another one and changes what differs. Its docstring carries Result, Cost and Command. `stages` makes it a
training of several stages, each a dict of the settings that differ from the recipe's.
"""
from src.recipes import arcface, lightcnn

RECIPES = {f.__name__: f for f in (
    lightcnn.lightcnn9_ms1m, lightcnn.lightcnn29v2_webface, lightcnn.lightcnn9_celebrities, lightcnn.quickstart,
    arcface.mobilefacenet_y1, arcface.mobilefacenet_y1_finetune, arcface.mobilefacenet_facexzoo,
    arcface.arcface_r50_ms1mv3, arcface.arcface_mbf_ms1mv3, arcface.adaface_r50_ms1mv2, arcface.magface_r100_ms1mv2)}
